# SPDX-License-Identifier: Apache-2.0
"""A GPU through CUDA's runtime: pinned and device memory, one stream, graphs. Every failure is an EngineError."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt

from linfdeploy.errors import EngineError

__all__ = ["Bytes", "Device", "architecture", "missing"]

Bytes = npt.NDArray[np.uint8]

TO_INSTALL = "pip install 'linfdeploy[tensorrt]'"


def missing() -> str | None:
    """Returns None where there is a GPU that can be used, else what is missing."""
    if find_spec("cuda") is None or find_spec("cuda.bindings") is None:
        return f"cuda-bindings is not installed: {TO_INSTALL}"
    from cuda.bindings import runtime

    code, _ = runtime.cudaGetDeviceCount()
    if code != runtime.cudaError_t.cudaSuccess:
        return f"there is no GPU that CUDA can use (CUDA says {code.name}): run it where there is one"
    return None


def architecture() -> int:
    """Returns the current GPU's, such as 87 for compute capability 8.7.

    Raises:
        EngineError: CUDA does not say.
    """
    from cuda.bindings import runtime

    number, names = _value(runtime, runtime.cudaGetDevice()), runtime.cudaDeviceAttr
    major = _value(runtime, runtime.cudaDeviceGetAttribute(names.cudaDevAttrComputeCapabilityMajor, number))
    minor = _value(runtime, runtime.cudaDeviceGetAttribute(names.cudaDevAttrComputeCapabilityMinor, number))
    return 10 * int(major) + int(minor)


class Device:
    """The current GPU, with a stream of its own.

    Attributes:
        stream: The address of the stream, on which everything here runs.
    """

    def __init__(self) -> None:
        from cuda.bindings import runtime

        self._cuda = runtime
        self._stream = self._value(runtime.cudaStreamCreate())
        self.stream = int(self._stream)

    def pinned(self, size: int) -> Bytes:
        """Returns `size` bytes of host memory that the GPU copies from and to without waiting."""
        address = self._value(self._cuda.cudaHostAlloc(size, self._cuda.cudaHostAllocDefault))
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(int(address)))

    def allocate(self, size: int) -> int:
        """Returns the address of `size` bytes on the GPU."""
        return int(self._value(self._cuda.cudaMalloc(size)))

    def upload(self, address: int, host: Bytes) -> None:
        """Starts a copy from pinned memory to the GPU."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._do(self._cuda.cudaMemcpyAsync(address, host.ctypes.data, host.nbytes, kind, self._stream))

    def download(self, host: Bytes, address: int) -> None:
        """Starts a copy from the GPU to pinned memory."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._do(self._cuda.cudaMemcpyAsync(host.ctypes.data, address, host.nbytes, kind, self._stream))

    def wait(self) -> None:
        """Waits until everything that was started is done."""
        self._do(self._cuda.cudaStreamSynchronize(self._stream))

    def capture(self, start: Callable[[], None]) -> Any:
        """Returns what `start` starts on the stream as a graph; nothing of it runs yet."""
        self._do(
            self._cuda.cudaStreamBeginCapture(
                self._stream, self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
            )
        )
        try:
            start()
        finally:
            # A capture that failed is ended as well, or the stream would stay unusable.
            ended = self._cuda.cudaStreamEndCapture(self._stream)
        return self._value(self._cuda.cudaGraphInstantiate(self._value(ended), 0))

    def launch(self, graph: Any) -> None:
        """Starts a graph."""
        self._do(self._cuda.cudaGraphLaunch(graph, self._stream))

    def free(self, pinned: list[Bytes], addresses: list[int]) -> None:
        """Frees memory that `pinned` and `allocate` returned."""
        for host in pinned:
            self._do(self._cuda.cudaFreeHost(host.ctypes.data))
        for address in addresses:
            self._do(self._cuda.cudaFree(address))

    def _do(self, result: tuple[Any, ...]) -> None:
        _check(self._cuda, result)

    def _value(self, result: tuple[Any, ...]) -> Any:
        return _value(self._cuda, result)


def _check(runtime: Any, result: tuple[Any, ...]) -> None:
    """Raises EngineError for what cuda-bindings return when a call fails."""
    code = result[0]
    if code != runtime.cudaError_t.cudaSuccess:
        _, text = runtime.cudaGetErrorString(code)
        words = text.decode() if isinstance(text, bytes) else str(text)
        raise EngineError(f"CUDA says {code.name}: {words}")


def _value(runtime: Any, result: tuple[Any, ...]) -> Any:
    _check(runtime, result)
    return result[1]
