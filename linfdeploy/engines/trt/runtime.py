# SPDX-License-Identifier: Apache-2.0
"""Runs a plan: one context, one stream, pinned buffers, and a CUDA graph for each batch size that comes again."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from linfdeploy.engines.base import Answers, Engine, Images
from linfdeploy.engines.trt.device import Bytes, Device
from linfdeploy.engines.trt.log import Log, forget, why
from linfdeploy.errors import EngineError
from linfdeploy.onnx.read import DeployedGraph

__all__ = ["PlanEngine", "engine_from_plan", "parts_of"]

INPUT = "image"


def engine_from_plan(trt: ModuleType, log: Log, plan: bytes, *, host_code: bool) -> Any:
    """Returns the `ICudaEngine` of a plan, which keeps its runtime alive.

    Args:
        trt: The module `tensorrt`, or one like it, with the plugins in its registry if the plan needs them.
        log: A logger of it.
        plan: The plan, of which the hash has been compared: TensorRT trusts it.
        host_code: Whether a library inside the plan may be loaded.

    Raises:
        EngineError: TensorRT refuses it: damaged, of another release, for another GPU, or without its plugin.
    """
    forget(log)
    runtime = trt.Runtime(log)
    if host_code:
        runtime.engine_host_code_allowed = True
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise EngineError(
            f"TensorRT {trt.__version__} does not load the engine: {why(log)}: build it again on this machine"
        )
    return engine


@dataclass(frozen=True)
class _Buffer:
    """A tensor's place on the host and on the GPU, with room for the largest batch."""

    dtype: np.dtype[Any]
    row_shape: tuple[int, ...]
    host: Bytes
    address: int

    @property
    def row_bytes(self) -> int:
        return self.dtype.itemsize * int(np.prod(self.row_shape, dtype=np.int64))

    def bytes_of(self, batch: int) -> Bytes:
        """The host's side of a batch."""
        return self.host[: batch * self.row_bytes]

    def rows(self, batch: int) -> npt.NDArray[Any]:
        """The same as numbers, (batch, ...)."""
        return self.bytes_of(batch).view(self.dtype).reshape(batch, *self.row_shape)


class PlanEngine(Engine):
    """A plan that runs.

    Batches larger than the plan's profile are run in parts; smaller ones are refused. A batch of the size of
    the one before runs as a CUDA graph, where the plan can be captured; `versions` says so where it cannot.

    Attributes:
        batches: The smallest and the largest batch of the plan's profile.
    """

    def __init__(self, trt: ModuleType, engine: Any, log: Log, graph: DeployedGraph, device: Device) -> None:
        self.input_shape, self.classes = graph.net.input_shape, graph.net.classes
        self.versions: dict[str, str] = {}
        self._engine, self._log, self._device = engine, log, device
        self._context = engine.create_execution_context()
        if self._context is None:
            raise EngineError(f"TensorRT makes no context for the engine: {why(log)}: free memory of the GPU")
        least, _, most = engine.get_tensor_profile_shape(INPUT, 0)
        self.batches = (int(least[0]), int(most[0]))
        self._buffers = dict(self._allocated(trt))
        places = list(self._buffers.values())
        weakref.finalize(self, device.free, [place.host for place in places], [place.address for place in places])
        self._use_graphs = True
        self._graph: Any = None
        self._batch = 0

    def without_graphs(self) -> PlanEngine:
        """Runs every batch kernel by kernel from now on; returns this engine."""
        self._use_graphs = False
        return self

    def _answer(self, images: Images) -> Answers:
        parts = [self._run(part) for part in parts_of(images, *self.batches)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _run(self, images: Images) -> dict[str, npt.NDArray[Any]]:
        batch = len(images)
        self._buffers[INPUT].rows(batch)[...] = images
        if batch != self._batch:
            # TensorRT adjusts itself to a shape in the first run, which cannot be captured.
            self._set_batch(batch)
            self._start()
        elif self._captured():
            self._device.launch(self._graph)
        else:
            self._start()
        self._device.wait()
        return {name: place.rows(batch).copy() for name, place in self._buffers.items() if name != INPUT}

    def _set_batch(self, batch: int) -> None:
        forget(self._log)
        self._batch, self._graph = 0, None
        if not self._context.set_input_shape(INPUT, (batch, *self.input_shape)):
            raise EngineError(f"the engine refuses a batch of {batch}: {why(self._log)}")
        self._batch = batch

    def _captured(self) -> bool:
        """Returns whether there is a graph for the batch; captures it if need be."""
        if self._use_graphs and self._graph is None:
            try:
                self._graph = self._device.capture(self._start)
            # The same batch runs without; what is wrong with it, if something is, comes up there.
            except EngineError as error:
                self._use_graphs = False
                self.versions["cuda_graph"] = f"none: {error}"
        return self._graph is not None

    def _start(self) -> None:
        """Starts the copies and the kernels of the batch on the stream."""
        image = self._buffers[INPUT]
        self._device.upload(image.address, image.bytes_of(self._batch))
        if not self._context.execute_async_v3(self._device.stream):
            raise EngineError(f"the engine fails on a batch of {self._batch}: {why(self._log)}")
        for name, place in self._buffers.items():
            if name != INPUT:
                self._device.download(place.bytes_of(self._batch), place.address)

    def _allocated(self, trt: ModuleType) -> Iterator[tuple[str, _Buffer]]:
        """Yields a buffer for each tensor of the engine, and tells the context its address."""
        for index in range(self._engine.num_io_tensors):
            name = self._engine.get_tensor_name(index)
            dtype = np.dtype(trt.nptype(self._engine.get_tensor_dtype(name)))
            row_shape = tuple(int(size) for size in self._engine.get_tensor_shape(name))[1:]
            size = self.batches[1] * dtype.itemsize * int(np.prod(row_shape, dtype=np.int64))
            buffer = _Buffer(dtype, row_shape, self._device.pinned(size), self._device.allocate(size))
            if not self._context.set_tensor_address(name, buffer.address):
                raise EngineError(f"the engine refuses a place for {name}: {why(self._log)}")
            yield name, buffer


def parts_of(images: Images, least: int, most: int) -> list[Images]:
    """Cuts a batch into parts of `least` to `most` images: all but the last of `most`, else of even size.

    Raises:
        EngineError: There is no such cut.
    """
    count, rest = -(-len(images) // most), len(images) % most
    if len(images) < count * least:
        raise EngineError(
            f"a batch of {len(images)} is outside the engine's profile; expected {least} to {most} images, or "
            f"parts of that: build it again with --batch 1:{most}:{most}"
        )
    if rest == 0 or rest >= least:
        return [images[i : i + most] for i in range(0, len(images), most)]
    return list(np.array_split(images, count))
