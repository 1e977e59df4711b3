# SPDX-License-Identifier: Apache-2.0
"""Run by test_registry.py with a runtime's module and libraries: what its registry does with them, as JSON."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

from linfdeploy.engines.trt.library import PLUGINS, load_library
from linfdeploy.errors import LinfDeployError

LOOKED_FOR = [
    *((name, "1", "linfdeploy") for name in PLUGINS),
    ("LinfDist", "2", "linfdeploy"),
    ("LinfDist", "1", ""),
]


def _loaded(trt: Any, library: str) -> str:
    try:
        load_library(trt, Path(library))
    except LinfDeployError as error:
        return str(error)
    return "loaded"


def _made(trt: Any, creator: Any) -> dict[str, Any]:
    """What a creator is and makes, without attributes and without what an engine keeps."""
    empty = trt.PluginFieldCollection([])
    # The interface does not keep the plugin that it is of.
    plugin = creator.create_plugin("layer", empty, trt.TensorRTPhase.BUILD)
    core = plugin.get_capability_interface(trt.PluginCapabilityType.CORE)
    return {
        "creator": [creator.name, creator.plugin_version, creator.plugin_namespace],
        "fields": [field.name for field in creator.field_names],
        "plugin": [core.plugin_name, core.plugin_version, core.plugin_namespace],
        "from nothing serialized": creator.create_plugin("layer", empty, trt.TensorRTPhase.RUNTIME),
    }


def main(module: str, *libraries: str) -> None:
    """Prints the answers."""
    trt: Any = importlib.import_module(module)
    answers = [_loaded(trt, library) for library in libraries]
    found = {name: trt.get_plugin_registry().get_creator(*name) for name in LOOKED_FOR}
    made = {":".join(name): _made(trt, creator) if creator else None for name, creator in found.items()}
    print(json.dumps({"version": trt.__version__, "answers": answers, **made}))  # noqa: T201  # it is a program


main(*sys.argv[1:])
