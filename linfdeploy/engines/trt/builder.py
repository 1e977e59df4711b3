# SPDX-License-Identifier: Apache-2.0
"""From a graph to a plan: the builder's settings, and what it says where it fails."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from linfdeploy.engines.trt.log import Log, forget, why
from linfdeploy.engines.trt.network import check_attributes, op_nodes, parse_network, plugin_layers
from linfdeploy.engines.trt.options import TrtOptions
from linfdeploy.errors import EngineError
from linfdeploy.files import read_bytes, write_bytes
from linfdeploy.onnx.read import DeployedGraph

__all__ = ["PlanSource", "build_plan"]

HARDWARE = {"same": "NONE", "same-capability": "SAME_COMPUTE_CAPABILITY", "ampere+": "AMPERE_PLUS"}
MAX_CACHE_BYTES = 2**30
MIB = 2**20


@dataclass(frozen=True)
class PlanSource:
    """What a plan is built from.

    Attributes:
        graph: The graph.
        options: The settings.
        library: The plugins' library, where the plan is to hold it; it is loaded already.
    """

    graph: DeployedGraph
    options: TrtOptions
    library: Path | None = None


def build_plan(trt: ModuleType, log: Log, source: PlanSource) -> bytes:
    """Builds a plan.

    Args:
        trt: The module `tensorrt`, or one like it, with the plugins in its registry if they are to be used.
        log: A logger of it.
        source: What to build.

    Raises:
        EngineError: TensorRT refuses the graph or a setting, or the plugins would not be in the plan.
    """
    builder = _builder(trt, log)
    with_plugins = source.options.plugin != "none"
    if with_plugins:
        check_attributes(trt.get_plugin_registry(), source.graph)
    # The parser owns the weights: it lives until the plan is there.
    network, _parser = parse_network(trt, builder, log, source.graph, functions=not with_plugins)
    if with_plugins:
        _check_plugins(op_nodes(source.graph), plugin_layers(trt, network))
    config = _config(trt, builder, network, source)
    forget(log)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(f"TensorRT does not build the engine: {why(log)}")
    _keep_timings(config, source.options.timing_cache)
    return bytes(plan)


def _builder(trt: ModuleType, log: Log) -> Any:
    forget(log)
    try:
        builder = trt.Builder(log)
    # The bindings raise TypeError where the library gives nothing.
    except (TypeError, RuntimeError):
        builder = None
    if builder is None:
        raise EngineError(f"TensorRT {trt.__version__} has no builder here: {why(log)}")
    return builder


def _check_plugins(nodes: list[str], plugins: set[str]) -> None:
    if missing := [name for name in nodes if name not in plugins]:
        raise EngineError(
            f"TensorRT parsed node {missing[0]} without the plugin ({len(missing)} of {len(nodes)} nodes); "
            "expected the plugin in each: this release matches plugins in another way, build with --plugin none"
        )


def _config(trt: ModuleType, builder: Any, network: Any, source: PlanSource) -> Any:
    config, options = builder.create_builder_config(), source.options
    config.add_optimization_profile(_profile(builder, network, options))
    # Layer information names the plugins then.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.clear_flag(trt.BuilderFlag.TF32)
    if options.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace * MIB)
    if options.refit:
        config.set_flag(trt.BuilderFlag.REFIT)
    if options.hardware != "same":
        config.hardware_compatibility_level = _hardware(trt, options)
    if source.library is not None:
        # A plan holds libraries only if it may be loaded by other releases too.
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        config.plugins_to_serialize = [str(source.library)]
    if options.timing_cache is not None:
        _use_timings(config, options.timing_cache)
    return config


def _profile(builder: Any, network: Any, options: TrtOptions) -> Any:
    profile, image = builder.create_optimization_profile(), network.get_input(0)
    profile.set_shape(image.name, *((batch, *tuple(image.shape)[1:]) for batch in options.batches))
    return profile


def _hardware(trt: ModuleType, options: TrtOptions) -> Any:
    level = getattr(trt.HardwareCompatibilityLevel, HARDWARE[options.hardware], None)
    if level is None:
        raise EngineError(
            f"TensorRT {trt.__version__} has no hardware compatibility {options.hardware}; expected same or "
            "ampere+"
        )
    return level


def _use_timings(config: Any, path: Path) -> None:
    data = read_bytes(path, MAX_CACHE_BYTES, "a timing cache") if path.exists() else b""
    cache = config.create_timing_cache(data)
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        raise EngineError(
            f"{path} is no timing cache of this TensorRT on this GPU; expected one, or no file: name another file"
        )


def _keep_timings(config: Any, path: Path | None) -> None:
    if path is not None:
        write_bytes(path, bytes(config.get_timing_cache().serialize()))
