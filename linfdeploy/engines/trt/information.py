# SPDX-License-Identifier: Apache-2.0
"""What an engine says of its own layers: is the plugin really in it?"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any

__all__ = ["UNNAMED", "engine_layers", "kernel_words", "ways_of"]

UNNAMED = "not named by the engine's layer information"
PLUGIN = "plugin"


def engine_layers(trt: ModuleType, engine: Any) -> list[Mapping[str, Any]]:
    """Returns an engine's layers as its inspector describes them; of those without details only the names.

    Args:
        trt: The module `tensorrt`, or one like it.
        engine: An `ICudaEngine` of it.
    """
    text = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    layers = json.loads(text).get("Layers", [])
    return [layer if isinstance(layer, dict) else {"Name": str(layer)} for layer in layers]


def ways_of(nodes: Iterable[str], layers: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Returns how an engine runs nodes of a graph, by the nodes' names.

    `PLUGIN` where a plugin's layer bears the node's name, the types of the layers that name the node among their
    origins where others do, UNNAMED where none does.
    """
    found = list(layers)
    return {node: _way_of(node, found) for node in nodes}


def kernel_words(plugin: str, ways: Mapping[str, str]) -> str:
    """Returns in a few words how LinfDist runs, from the kind of plugin and what `ways_of` returned."""
    plugins = sum(way == PLUGIN for way in ways.values())
    return f"plugin ({plugin}) in {plugins} of {len(ways)} layers"


def _way_of(node: str, layers: list[Mapping[str, Any]]) -> str:
    types = [str(layer.get("LayerType", "")) for layer in layers if _is_of(node, layer)]
    if any("plugin" in kind.lower() for kind in types):
        return PLUGIN
    return ", ".join(sorted(set(types) - {""})) or UNNAMED


def _is_of(node: str, layer: Mapping[str, Any]) -> bool:
    return layer.get("Name") == node or f"[ONNX Layer: {node}]" in str(layer.get("Metadata", ""))
