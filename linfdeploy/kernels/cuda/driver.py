# SPDX-License-Identifier: Apache-2.0
"""What loads kernels and starts them: a card's driver, reached without any of CUDA's libraries at build time."""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from linfdeploy.errors import KernelError
from linfdeploy.kernels.cuda.compiler import compiler_version, cubin

__all__ = ["CudaDriver", "Driver", "check_ptx"]


class Driver(Protocol):
    """Loads kernels for one card, and has the function that starts them."""

    launch: int
    """The address of a function with the signature of `cuLaunchKernel`."""

    def load(self, file: str, names: Sequence[str]) -> list[int]:
        """Returns the handles of a source's kernels, which stay loaded as long as this object lives."""

    def bind(self) -> None:
        """Makes the card's context this thread's, if the thread has none."""

    def error_name(self, code: int) -> str:
        """Returns what the driver calls the code of a failure."""


class CudaDriver:
    """The driver of a CUDA card, whose primary context, which torch uses, it works in.

    Args:
        device: The card's number, as CUDA counts what this process sees.
        architecture: Such as 90 for compute capability 9.0.

    Raises:
        KernelError: The driver is older than the compiler's kernels need, or has no such card.
        MissingExtraError: The compiler is not installed.
    """

    def __init__(self, device: int, architecture: int) -> None:
        _check_version(compiler_version())
        from cuda.bindings import driver

        self.launch = _address("cuLaunchKernel")
        self._architecture = architecture
        self._context = _result(driver.cuDevicePrimaryCtxRetain(_result(driver.cuDeviceGet(device))))
        self._kernels: list[Any] = []
        self._thread = threading.local()

    def load(self, file: str, names: Sequence[str]) -> list[int]:
        """See `Driver.load`.

        Raises:
            KernelError: The source does not compile, or the driver does not load it.
        """
        code = cubin(file, self._architecture)
        from cuda.core import ObjectCode

        try:
            with _relaxed_capture():
                library = ObjectCode.from_cubin(code, name=file)
                kernels = [library.get_kernel(name) for name in names]
        # cuda-core's errors have no documented base.
        except Exception as error:
            raise KernelError(
                f"the driver does not load {file} for sm_{self._architecture}: {error}; update the driver"
            ) from error
        # A library goes when its last kernel does.
        self._kernels += kernels
        return [int(kernel.handle) for kernel in kernels]

    def bind(self) -> None:
        """See `Driver.bind`; autograd's threads begin without a context."""
        if getattr(self._thread, "bound", False):
            return
        from cuda.bindings import driver

        if not int(_result(driver.cuCtxGetCurrent())):
            _result(driver.cuCtxSetCurrent(self._context))
        self._thread.bound = True

    def error_name(self, code: int) -> str:
        """See `Driver.error_name`."""
        from cuda.bindings import driver

        try:
            return str(driver.CUresult(code).name)
        except ValueError:
            return f"CUDA error {code}"


def check_ptx() -> None:
    """Checks that the driver of this machine compiles the PTX that the compiler writes.

    A driver knows the PTX of its own release of CUDA and of earlier ones. Where there is none nothing is checked.

    Raises:
        KernelError: The compiler is of a later release than the driver.
        MissingExtraError: The compiler is not installed.
    """
    compiler = compiler_version()
    from cuda.bindings import driver

    try:
        version = int(_result(driver.cuDriverGetVersion()))
    # A library that is not found is an error of a kind of its own, which changed its place between releases.
    except Exception:
        return
    found = version // 1000, version % 1000 // 10
    if found < compiler:
        package = "nvidia-cuda-nvrtc" if found[0] >= 13 else f"nvidia-cuda-nvrtc-cu{found[0]}"
        raise KernelError(
            f"the driver is for CUDA {found[0]}.{found[1]} and does not take the PTX of NVRTC {compiler[0]}."
            f"{compiler[1]}; expected NVRTC {found[0]}.{found[1]} or earlier: update the driver, or "
            f"pip install 'cuda-bindings=={found[0]}.*' '{package}=={found[0]}.{found[1]}.*'"
        )


def _check_version(compiler: tuple[int, int]) -> None:
    """Checks that the driver runs what the compiler makes: machine code of its own major version."""
    from cuda.bindings import driver

    version = int(_result(driver.cuDriverGetVersion()))
    if version // 1000 < compiler[0]:
        raise KernelError(
            f"the driver is for CUDA {version // 1000}.{version % 1000 // 10} and NVRTC is of CUDA "
            f"{compiler[0]}.{compiler[1]}; expected a driver for CUDA {compiler[0]}.0 or later: update it, or "
            f"pip install 'cuda-bindings=={version // 1000}.*' with its NVRTC"
        )


def _address(function: str) -> int:
    library = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    return ctypes.cast(getattr(library, function), ctypes.c_void_p).value or 0


def _result(found: tuple[Any, ...]) -> Any:
    """The result in what one of the driver's functions returned."""
    if int(found[0]) != 0:
        raise KernelError(f"the CUDA driver fails with {found[0].name}; try `nvidia-smi`")
    return found[1] if len(found) > 1 else None


@contextmanager
def _relaxed_capture() -> Iterator[None]:
    """Lets this thread load kernels while a stream is captured, which forbids what may wait for the card."""
    from cuda.bindings import driver

    relaxed = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
    before = _result(driver.cuThreadExchangeStreamCaptureMode(relaxed))
    try:
        yield
    finally:
        _result(driver.cuThreadExchangeStreamCaptureMode(before))
