# SPDX-License-Identifier: Apache-2.0
"""The options of a build, checked; a manifest from outside may claim anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from linfdeploy.errors import EngineError, brief

__all__ = [
    "DEFAULT_BATCHES",
    "MAX_BATCH",
    "OPTIONS",
    "Batches",
    "Hardware",
    "PluginKind",
    "TrtOptions",
    "options_from",
]

PluginKind: TypeAlias = Literal["library", "embedded", "aot", "none"]
"""How LinfDist runs: a plugin from a library that is loaded before the engine, from one inside the engine, or
compiled into the engine ahead of time; or as the graph's function, made of TensorRT's own layers."""

Hardware: TypeAlias = Literal["same", "same-capability", "ampere+"]
"""On which GPUs an engine runs: the one it was built on, those of its compute capability, or Ampere and later."""

Batches: TypeAlias = tuple[int, int, int]
"""The smallest batch, the one that kernels are chosen for, and the largest."""

DEFAULT_BATCHES: Batches = (1, 64, 256)
MAX_BATCH = 65536
MAX_WORKSPACE = 2**20
OPTIONS = frozenset(
    {
        *("plugin", "plugin_library", "tensorrt_root", "batch", "workspace", "hardware", "timing_cache"),
        *("refit", "cuda_graph"),
    }
)


@dataclass(frozen=True)
class TrtOptions:
    """How an engine is built and run.

    Attributes:
        plugin: See PluginKind.
        plugin_library: A library that was built before; None builds one for this GPU, once.
        tensorrt_root: Where TensorRT's headers are, for building the library.
        batches: See Batches.
        workspace: Most scratch memory a layer may take, in MiB; None leaves it to TensorRT.
        hardware: See Hardware.
        timing_cache: A file of timings that is used and added to, so that a second build is quicker.
        refit: Whether the engine's weights can be exchanged.
        cuda_graph: Whether repeated batches of a size run as one CUDA graph.
    """

    plugin: PluginKind
    plugin_library: Path | None = None
    tensorrt_root: Path | None = None
    batches: Batches = DEFAULT_BATCHES
    workspace: int | None = None
    hardware: Hardware = "same"
    timing_cache: Path | None = None
    refit: bool = False
    cuda_graph: bool = True


def options_from(options: Mapping[str, Any], default_plugin: PluginKind) -> TrtOptions:
    """Reads options as the command line gives them and manifests record them.

    Raises:
        EngineError: One of them is not what it should be.
    """
    return TrtOptions(
        plugin=_choice(options, "plugin", default_plugin, get_args(PluginKind)),
        plugin_library=_path(options, "plugin_library"),
        tensorrt_root=_path(options, "tensorrt_root"),
        batches=_batches(options.get("batch", list(DEFAULT_BATCHES))),
        workspace=_workspace(options.get("workspace")),
        hardware=_choice(options, "hardware", "same", get_args(Hardware)),
        timing_cache=_path(options, "timing_cache"),
        refit=_flag(options, "refit", default=False),
        cuda_graph=_flag(options, "cuda_graph", default=True),
    )


def _choice(options: Mapping[str, Any], name: str, default: str, choices: tuple[str, ...]) -> Any:
    found = options.get(name, default)
    if found not in choices:
        raise EngineError(f"{name} is {brief(found)}; expected one of {', '.join(choices)}")
    return found


def _path(options: Mapping[str, Any], name: str) -> Path | None:
    found = options.get(name)
    if not (found is None or isinstance(found, str)):
        raise EngineError(f"{name} is {brief(found)}; expected a path")
    return None if found is None else Path(found)


def _flag(options: Mapping[str, Any], name: str, *, default: bool) -> bool:
    found = options.get(name, default)
    if type(found) is not bool:
        raise EngineError(f"{name} is {brief(found)}; expected true or false")
    return found


def _workspace(found: object) -> int | None:
    if found is None or (type(found) is int and 1 <= found <= MAX_WORKSPACE):
        return found
    raise EngineError(f"workspace is {brief(found)}; expected 1 to {MAX_WORKSPACE} MiB")


def _batches(found: object) -> Batches:
    if isinstance(found, list | tuple) and len(found) == len(DEFAULT_BATCHES):
        least, best, most = found
        if all(type(size) is int for size in found) and 1 <= least <= best <= most <= MAX_BATCH:
            return least, best, most
    raise EngineError(
        f"batch is {brief(found)}; expected the smallest batch, the usual and the largest, "
        f"1 <= smallest <= usual <= largest <= {MAX_BATCH}, such as 1:64:256"
    )
