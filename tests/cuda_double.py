# SPDX-License-Identifier: Apache-2.0
"""A stand-in for `cuda.bindings.runtime`, whose device is memory of this process.

Work on a stream is done as late as CUDA allows: when the stream is waited for. So whoever reads a result too early
reads old bytes. Memory that was not allocated, or is freed, cannot be copied from or to.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from enum import Enum
from types import SimpleNamespace
from typing import Any

Work = Callable[[], None]


class Error(Enum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorNoDevice = 100
    cudaErrorIllegalState = 401


class Stream:
    """Work in order; `recording` takes it while a graph is captured."""

    def __init__(self) -> None:
        self.queue: list[Work] = []
        self.recording: list[Work] | None = None

    def __int__(self) -> int:
        return id(self)

    def add(self, work: Work) -> None:
        (self.queue if self.recording is None else self.recording).append(work)


class CudaDouble:
    """What `linfdeploy.engines.trt.device` calls, with the signatures of cuda-bindings.

    Attributes:
        streams: By the number that a stream is handed on with.
        launches: Of graphs.
        room: Bytes that can still be allocated.
        capturable: Whether a capture succeeds.
    """

    cudaError_t = Error
    cudaHostAllocDefault = 0
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)
    cudaDeviceAttr = SimpleNamespace(
        cudaDevAttrComputeCapabilityMajor="major", cudaDevAttrComputeCapabilityMinor="minor"
    )

    def __init__(self, architecture: int | None = 87) -> None:
        self.architecture = architecture
        self.streams: dict[int, Stream] = {}
        self.launches = 0
        self.room = 2**30
        self.capturable = True
        self._memory: dict[int, Any] = {}

    def cudaGetDeviceCount(self) -> tuple[Error, int]:
        return (Error.cudaErrorNoDevice, 0) if self.architecture is None else (Error.cudaSuccess, 1)

    def cudaGetDevice(self) -> tuple[Error, int]:
        return Error.cudaSuccess, 0

    def cudaDeviceGetAttribute(self, name: str, _device: int) -> tuple[Error, int]:
        major, minor = divmod(self.architecture or 0, 10)
        return Error.cudaSuccess, major if name == "major" else minor

    def cudaGetErrorString(self, code: Error) -> tuple[Error, bytes]:
        return Error.cudaSuccess, f"the text of {code.name}".encode()

    def cudaStreamCreate(self) -> tuple[Error, Stream]:
        stream = Stream()
        self.streams[int(stream)] = stream
        return Error.cudaSuccess, stream

    def cudaHostAlloc(self, size: int, _flags: int) -> tuple[Error, int]:
        return self.cudaMalloc(size)

    def cudaMalloc(self, size: int) -> tuple[Error, int]:
        if size > self.room:
            return Error.cudaErrorMemoryAllocation, 0
        self.room -= size
        # What a device's memory holds at first is anything.
        block = ctypes.create_string_buffer(b"\xa5" * size, size)
        self._memory[ctypes.addressof(block)] = block
        return Error.cudaSuccess, ctypes.addressof(block)

    def cudaFree(self, address: int) -> tuple[Error]:
        block = self._memory.pop(address, None)
        if block is None:
            return (Error.cudaErrorInvalidValue,)
        self.room += ctypes.sizeof(block)
        return (Error.cudaSuccess,)

    cudaFreeHost = cudaFree

    def cudaMemcpyAsync(self, to: int, source: int, size: int, _kind: int, stream: Stream) -> tuple[Error]:
        if not (self._within(to, size) and self._within(source, size)):
            return (Error.cudaErrorInvalidValue,)

        def copy() -> None:
            ctypes.memmove(to, source, size)

        stream.add(copy)
        return (Error.cudaSuccess,)

    def cudaStreamSynchronize(self, stream: Stream) -> tuple[Error]:
        while stream.queue:
            stream.queue.pop(0)()
        return (Error.cudaSuccess,)

    def cudaStreamBeginCapture(self, stream: Stream, _mode: int) -> tuple[Error]:
        stream.recording = []
        return (Error.cudaSuccess,)

    def cudaStreamEndCapture(self, stream: Stream) -> tuple[Error, list[Work]]:
        graph, stream.recording = stream.recording or [], None
        return Error.cudaSuccess if self.capturable else Error.cudaErrorIllegalState, graph

    def cudaGraphInstantiate(self, graph: list[Work], _flags: int) -> tuple[Error, list[Work]]:
        return Error.cudaSuccess, graph

    def cudaGraphLaunch(self, graph: list[Work], stream: Stream) -> tuple[Error]:
        self.launches += 1
        for work in graph:
            stream.add(work)
        return (Error.cudaSuccess,)

    def _within(self, address: int, size: int) -> bool:
        return any(
            start <= address and address + size <= start + len(block) for start, block in self._memory.items()
        )
