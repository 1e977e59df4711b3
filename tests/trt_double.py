# SPDX-License-Identifier: Apache-2.0
"""A stand-in for Python's `tensorrt` on a machine without a GPU, whose engines compute through ONNX Runtime.

It is as strict as TensorRT where our code could go wrong: plugins must be in the registry, tensors need addresses,
batches must be in the profile, plans are for one release and one GPU. A test compares its names with those of the
real bindings.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Sequence
from enum import IntEnum
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import onnx
import onnxruntime
from cuda_double import CudaDouble

from linfdeploy.onnx import linf_dist

MAGIC = b"ftrt"
ELEMENTS: dict[int, Any] = {
    onnx.TensorProto.UINT8: np.uint8,
    onnx.TensorProto.FLOAT: np.float32,
    onnx.TensorProto.INT64: np.int64,
}


class ILogger:
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    def log(self, severity: int, message: str) -> None:
        """Takes a line; whoever derives from this keeps it."""


class Registry:
    """The plugins' creators that are known, by name."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.fields: list[str] = []

    def get_creator(self, name: str, version: str, namespace: str) -> Any:
        known = name in self.names and (version, namespace) == ("1", "linfdeploy")
        return SimpleNamespace(field_names=[SimpleNamespace(name=name) for name in self.fields]) if known else None

    def load_library(self, path: str) -> object:
        self.names += ["LinfDist", "LinfDistConv"]
        return object()


class Network:
    def __init__(self, flags: int) -> None:
        self.flags = flags
        self.model: onnx.ModelProto | None = None
        self.plugins: list[str] = []

    @property
    def num_layers(self) -> int:
        return len(self.plugins) + 1

    def get_layer(self, index: int) -> Any:
        if index < len(self.plugins):
            return SimpleNamespace(name=self.plugins[index], type=TrtDouble.LayerType.PLUGIN_V3)
        return SimpleNamespace(name="cast", type=TrtDouble.LayerType.CAST)

    def get_input(self, index: int) -> Any:
        assert self.model is not None
        value = self.model.graph.input[index]
        dims = value.type.tensor_type.shape.dim
        return SimpleNamespace(name=value.name, shape=[dim.dim_value or -1 for dim in dims])


class Parser:
    """Prefers plugins that are in the registry to functions, as releases from 10.7 on do."""

    def __init__(self, network: Network, log: ILogger) -> None:
        self._network, self._log = network, log
        self._errors: list[Any] = []

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> Any:
        return self._errors[index]

    def parse(self, data: bytes) -> bool:
        model = onnx.load_from_string(data)
        self._network.model = model
        for node in model.graph.node:
            if node.domain != "linfdeploy":
                continue
            if TrtDouble.registry.get_creator(node.op_type, "1", "linfdeploy"):
                self._network.plugins.append(node.name)
            elif not model.functions:
                self._refuse(node)
                return False
        return True

    def _refuse(self, node: onnx.NodeProto) -> None:
        values = {"node_name": node.name, "node_operator": node.op_type, "desc": "Plugin not found,\n really?"}
        self._errors.append(SimpleNamespace(**{key: lambda value=value: value for key, value in values.items()}))


class Config:
    def __init__(self) -> None:
        self.flags: set[Any] = {TrtDouble.BuilderFlag.TF32}
        self.profiles: list[Any] = []
        self.pools: dict[Any, int] = {}
        self.profiling_verbosity: Any = None
        self.hardware_compatibility_level: Any = None
        self.plugins_to_serialize: Sequence[str] = ()
        self._cache: Any = None

    def set_flag(self, flag: Any) -> None:
        self.flags.add(flag)

    def clear_flag(self, flag: Any) -> None:
        self.flags.discard(flag)

    def add_optimization_profile(self, profile: Any) -> int:
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def set_memory_pool_limit(self, pool: Any, size: int) -> None:
        self.pools[pool] = size

    def create_timing_cache(self, data: bytes) -> Any:
        return None if data and not data.startswith(b"timings") else SimpleNamespace(serialize=lambda: b"timings")

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        self._cache = cache
        return not ignore_mismatch

    def get_timing_cache(self) -> Any:
        return self._cache


class Profile:
    def set_shape(self, name: str, least: Sequence[int], best: Sequence[int], most: Sequence[int]) -> None:
        self.shapes = {name: (tuple(least), tuple(best), tuple(most))}


class Builder:
    def __init__(self, log: ILogger) -> None:
        if TrtDouble.cuda.architecture is None:
            log.log(ILogger.ERROR, "CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self._log = log

    def create_network(self, flags: int) -> Network:
        return Network(flags)

    def create_builder_config(self) -> Config:
        TrtDouble.last_config = Config()
        return TrtDouble.last_config

    def create_optimization_profile(self) -> Profile:
        return Profile()

    def build_serialized_network(self, network: Network, config: Config) -> memoryview | None:
        assert network.model is not None
        if TrtDouble.cannot_build:
            self._log.log(ILogger.ERROR, "Could not find any implementation\nfor node layer0.")
            return None
        head = {
            "version": TrtDouble.__version__,
            "architecture": TrtDouble.cuda.architecture,
            "shapes": config.profiles[0].shapes["image"],
            "plugins": network.plugins,
            "inside": list(config.plugins_to_serialize),
            "refit": TrtDouble.BuilderFlag.REFIT in config.flags,
        }
        return memoryview(_plan(head, network.model))


def _plan(head: dict[str, Any], model: onnx.ModelProto) -> bytes:
    text = json.dumps(head).encode()
    data: bytes = MAGIC + len(text).to_bytes(4, "little") + text + model.SerializeToString()
    return data


class Runtime:
    def __init__(self, log: ILogger) -> None:
        self._log = log
        self.engine_host_code_allowed = False

    def deserialize_cuda_engine(self, plan: bytes) -> Any:
        try:
            return self._engine(bytes(plan))
        except ValueError as error:
            self._log.log(ILogger.ERROR, str(error))
            self._log.log(ILogger.ERROR, "and what follows from it")
            return None

    def _engine(self, plan: bytes) -> Engine:
        if plan[:4] != MAGIC:
            raise ValueError("Serialization assertion magicTagRead == kMAGIC_TAG failed.Magic tag does not match")
        end = 8 + int.from_bytes(plan[4:8], "little")
        head = json.loads(plan[8:end])
        for key, here in (("version", TrtDouble.__version__), ("architecture", TrtDouble.cuda.architecture)):
            if head[key] != here:
                raise ValueError(f"The engine plan file is not compatible: its {key} is {head[key]}, not {here}")
        if head["inside"] and not self.engine_host_code_allowed:
            raise ValueError("Engine host code is not allowed")
        if head["plugins"] and not head["inside"] and not TrtDouble.registry.names:
            raise ValueError("Cannot find plugin: LinfDist, version: 1, namespace:linfdeploy.")
        return Engine(head, onnx.load_from_string(plan[end:]), self._log)


class Engine:
    def __init__(self, head: dict[str, Any], model: onnx.ModelProto, log: ILogger) -> None:
        self._head, self._model, self._log = head, model, log
        self._values = {value.name: value for value in (*model.graph.input, *model.graph.output)}
        if not model.functions:
            model.functions.append(linf_dist.function(18))
        self._start()

    def _start(self) -> None:
        """Takes the model's weights as they are now."""
        data = self._model.SerializeToString()
        self._session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])

    @property
    def num_io_tensors(self) -> int:
        return len(self._values)

    def get_tensor_name(self, index: int) -> str:
        names: list[str] = list(self._values)
        return names[index]

    def get_tensor_dtype(self, name: str) -> int:
        kind: int = self._values[name].type.tensor_type.elem_type
        return kind

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(dim.dim_value or -1 for dim in self._values[name].type.tensor_type.shape.dim)

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        assert (name, profile) == ("image", 0)
        return [tuple(shape) for shape in self._head["shapes"]]

    def create_execution_context(self) -> Context:
        return Context(self)

    @property
    def refittable(self) -> bool:
        refittable: bool = self._head["refit"]
        return refittable

    def serialize(self) -> memoryview:
        return memoryview(_plan(self._head, self._model))

    def create_engine_inspector(self) -> Any:
        layers = [{"Name": name, "LayerType": "PluginV3"} for name in self._head["plugins"]]
        text = json.dumps({"Layers": [*layers, {"Name": "cast", "LayerType": "Reformat"}]})
        return SimpleNamespace(get_engine_information=lambda _format: text)


class Refitter:
    """Exchanges constants by name; those of integers it does not know, as TensorRT folds shapes away."""

    def __init__(self, engine: Engine, _log: ILogger) -> None:
        self._engine = engine
        self._given: dict[str, Any] = {}

    def get_all_weights(self) -> list[str]:
        constants = self._engine._model.graph.initializer
        return [tensor.name for tensor in constants if tensor.data_type != onnx.TensorProto.INT64]

    def set_named_weights(self, name: str, weights: Any) -> bool:
        self._given[name] = weights
        return name in self.get_all_weights()

    def refit_cuda_engine(self) -> bool:
        for tensor in self._engine._model.graph.initializer:
            if tensor.name in self._given:
                tensor.CopyFrom(onnx.numpy_helper.from_array(self._given[tensor.name], tensor.name))
        self._engine._start()
        return True


class Context:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._addresses: dict[str, int] = {}
        self._batch = 0
        self.runs = 0
        TrtDouble.last_context = self

    def set_input_shape(self, name: str, shape: Sequence[int]) -> bool:
        least, _, most = self._engine.get_tensor_profile_shape(name, 0)
        if not all(low <= size <= high for low, size, high in zip(least, shape, most, strict=True)):
            self._engine._log.log(ILogger.ERROR, f"{tuple(shape)} does not satisfy any optimization profiles")
            return False
        self._batch = shape[0]
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return name in self._engine._values

    def execute_async_v3(self, stream: int) -> bool:
        if set(self._addresses) != set(self._engine._values) or not self._batch:
            self._engine._log.log(ILogger.ERROR, "Not all tensors have an address and a shape")
            return False
        batch = self._batch
        TrtDouble.cuda.streams[stream].add(lambda: self._run(batch))
        return True

    def _run(self, batch: int) -> None:
        self.runs += 1
        shape = (batch, *self._engine.get_tensor_shape("image")[1:])
        images = np.frombuffer(ctypes.string_at(self._addresses["image"], int(np.prod(shape))), np.uint8)
        names = [name for name in self._engine._values if name != "image"]
        for name, value in zip(
            names, self._engine._session.run(names, {"image": images.reshape(shape)}), strict=True
        ):
            ctypes.memmove(self._addresses[name], value.tobytes(), value.nbytes)


class TrtDouble:
    """The module.

    Attributes:
        cuda: The GPU.
        registry: The plugins that are known.
        cannot_build: Whether builds fail.
        last_config: Of the last build.
        last_context: The last that was made.
    """

    __name__ = "tensorrt"
    __version__ = "10.16.1.11"
    cuda: ClassVar[CudaDouble]
    registry: ClassVar[Registry]
    cannot_build: ClassVar[bool]
    last_config: ClassVar[Config]
    last_context: ClassVar[Context]

    ILogger, Builder, OnnxParser, Runtime, Refitter = ILogger, Builder, Parser, Runtime, Refitter
    BuilderFlag = IntEnum("BuilderFlag", ["TF32", "REFIT", "VERSION_COMPATIBLE"])
    HardwareCompatibilityLevel = IntEnum("HardwareCompatibilityLevel", ["NONE", "AMPERE_PLUS"])
    LayerInformationFormat = IntEnum("LayerInformationFormat", ["JSON"])
    LayerType = IntEnum("LayerType", ["CAST", "PLUGIN_V3"])
    MemoryPoolType = IntEnum("MemoryPoolType", ["WORKSPACE"])
    NetworkDefinitionCreationFlag = IntEnum("NetworkDefinitionCreationFlag", ["EXPLICIT_BATCH", "STRONGLY_TYPED"])
    ProfilingVerbosity = IntEnum("ProfilingVerbosity", ["DETAILED"])

    @classmethod
    def get_plugin_registry(cls) -> Registry:
        return cls.registry

    @staticmethod
    def Weights(array: Any) -> Any:  # noqa: N802 -- TensorRT's name
        return array

    @staticmethod
    def nptype(kind: int) -> Any:
        return ELEMENTS[kind]

    @classmethod
    def fresh(cls, cuda: CudaDouble) -> type[TrtDouble]:
        """Returns the module as a process finds it: no plugin loaded, nothing built."""
        cls.cuda, cls.registry, cls.cannot_build, cls.__version__ = cuda, Registry(), False, "10.16.1.11"
        return cls


CLASSES = {
    "ILogger": ILogger,
    "Builder": Builder,
    "OnnxParser": Parser,
    "Runtime": Runtime,
    "Refitter": Refitter,
    "INetworkDefinition": Network,
    "IBuilderConfig": Config,
    "IOptimizationProfile": Profile,
    "ICudaEngine": Engine,
    "IExecutionContext": Context,
    "IPluginRegistry": Registry,
}
"""What each of TensorRT's classes is here."""
