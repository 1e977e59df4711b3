# SPDX-License-Identifier: Apache-2.0
"""How the driver is used, with one that writes down what it is asked: without a GPU there is no other."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from linfdeploy.errors import KernelError
from linfdeploy.kernels.cuda import driver as driver_module
from linfdeploy.kernels.cuda.compiler import cubin
from linfdeploy.kernels.cuda.driver import CudaDriver, check_ptx

cuda_driver = pytest.importorskip(
    "cuda.bindings.driver", reason="there is no cuda.bindings: it is in linfdeploy[cuda]"
)
cuda_core = pytest.importorskip("cuda.core", reason="there is no cuda.core: it is in linfdeploy[cuda]")


class Recorder:
    """The functions of the driver that are used, and in which order."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.version = 13000
        self.thread = threading.local()
        self.missing = ""

    def device_get(self, number: int) -> tuple[int, str]:
        return 0, f"device {number}"

    def retain(self, device: str) -> tuple[int, str]:
        self.calls.append(("retain", device))
        return 0, "context"

    def current(self) -> tuple[int, int]:
        return 0, getattr(self.thread, "context", 0)

    def set_current(self, context: str) -> tuple[int]:
        self.calls.append(("set", context))
        self.thread.context = 1
        return (0,)

    def exchange(self, mode: Any) -> tuple[int, str]:
        self.calls.append(("mode", mode))
        return 0, "strict"

    def from_cubin(self, code: bytes, *, name: str) -> Any:
        self.calls.append(("load", code, name))
        return SimpleNamespace(get_kernel=self._kernel)

    def _kernel(self, name: str) -> Any:
        if name == self.missing:
            raise RuntimeError("CUDA_ERROR_NOT_FOUND")
        return SimpleNamespace(handle=len(name))


RELAXED = cuda_driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    found = Recorder()
    monkeypatch.setattr(driver_module, "compiler_version", lambda: (13, 5))
    monkeypatch.setattr(driver_module, "cubin", lambda file, architecture: f"{file} {architecture}".encode())
    monkeypatch.setattr(driver_module, "_address", len)
    monkeypatch.setattr(cuda_driver, "cuDriverGetVersion", lambda: (0, found.version))
    monkeypatch.setattr(cuda_driver, "cuDeviceGet", found.device_get)
    monkeypatch.setattr(cuda_driver, "cuDevicePrimaryCtxRetain", found.retain)
    monkeypatch.setattr(cuda_driver, "cuCtxGetCurrent", found.current)
    monkeypatch.setattr(cuda_driver, "cuCtxSetCurrent", found.set_current)
    monkeypatch.setattr(cuda_driver, "cuThreadExchangeStreamCaptureMode", found.exchange)
    monkeypatch.setattr(cuda_core, "ObjectCode", found)
    return found


def test_kernels_are_loaded_even_in_a_capture(recorder: Recorder) -> None:
    driver = CudaDriver(1, 90)
    assert driver.launch == len("cuLaunchKernel")
    assert driver.load("linf_dist", ["ab", "abc"]) == [2, 3]
    assert recorder.calls == [
        ("retain", "device 1"),
        ("mode", RELAXED),
        ("load", b"linf_dist 90", "linf_dist"),
        ("mode", "strict"),
    ]


def test_kernels_that_do_not_load(recorder: Recorder) -> None:
    driver, recorder.missing = CudaDriver(0, 90), "abc"
    text = "the driver does not load linf_dist for sm_90: CUDA_ERROR_NOT_FOUND; update the driver"
    with pytest.raises(KernelError, match=f"^{re.escape(text)}$"):
        driver.load("linf_dist", ["ab", "abc"])
    assert recorder.calls[-1] == ("mode", "strict")


def test_a_thread_without_a_context_gets_the_cards(recorder: Recorder) -> None:
    driver = CudaDriver(0, 90)
    recorder.thread.context = 5
    driver.bind()
    assert ("set", "context") not in recorder.calls

    def bind_twice() -> None:
        driver.bind()
        driver.bind()

    other = threading.Thread(target=bind_twice)
    other.start()
    other.join()
    assert recorder.calls.count(("set", "context")) == 1


def test_a_driver_that_is_too_old(recorder: Recorder) -> None:
    recorder.version = 12080
    text = (
        "the driver is for CUDA 12.8 and NVRTC is of CUDA 13.5; expected a driver for CUDA 13.0 or later: "
        "update it, or pip install 'cuda-bindings==12.*' with its NVRTC"
    )
    with pytest.raises(KernelError, match=f"^{re.escape(text)}$"):
        CudaDriver(0, 90)


def test_a_driver_that_fails(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    failure = cuda_driver.CUresult.CUDA_ERROR_INVALID_DEVICE
    monkeypatch.setattr(cuda_driver, "cuDeviceGet", lambda number: (failure, None))
    with pytest.raises(
        KernelError, match=r"^the CUDA driver fails with CUDA_ERROR_INVALID_DEVICE; try `nvidia-smi`$"
    ):
        CudaDriver(3, 90)


def test_errors_have_names(recorder: Recorder) -> None:
    driver = CudaDriver(0, 90)
    assert driver.error_name(700) == "CUDA_ERROR_ILLEGAL_ADDRESS"
    assert driver.error_name(12345) == "CUDA error 12345"


SCRIPT = """
import threading
from linfdeploy.kernels.cuda.card import Card
from linfdeploy.kernels.cuda.driver import CudaDriver

card = Card(CudaDriver(3, 90), 4)
run = lambda stream: card.run("linf_dist_bounds", stream, (5, 21, 6), 4096, 4096, 4096, 4096, 4096)
run(0x55)
thread = threading.Thread(target=run, args=(0x66,))
thread.start()
thread.join()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the driver's library has another name here")
def test_the_bindings_reach_a_library_in_the_drivers_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The real cuda-core and cuda-bindings, and a library that only says what it was asked for.
    source = Path(__file__).parent / "driver" / "libcuda.cpp"
    built = ["g++", "-std=c++17", "-shared", "-fPIC", source, "-o", tmp_path / "libcuda.so.1", "-ldl"]
    subprocess.run([str(part) for part in built], check=True)
    monkeypatch.setenv("LINFDEPLOY_CACHE", str(tmp_path))
    cubin("linf_dist_bounds", 90)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, "LD_LIBRARY_PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[:9] == [
        "context of card 3",
        "current: 0x77",
        "capture mode: 2",
        "load: ELF",
        "kernel: linf_dist_bounds 0x1010",
        "capture mode: 0",
        "launch: 0x1010 on 0x55",
        "current: 0x77",
        "launch: 0x1010 on 0x66",
    ]


@pytest.mark.parametrize("version", [13050, 13060, 14000])
def test_ptx_of_the_drivers_own_release_or_an_earlier_one(recorder: Recorder, version: int) -> None:
    recorder.version = version
    check_ptx()


@pytest.mark.parametrize(
    ("version", "found", "packages"),
    [
        (13020, "13.2", "'cuda-bindings==13.*' 'nvidia-cuda-nvrtc==13.2.*'"),
        (12060, "12.6", "'cuda-bindings==12.*' 'nvidia-cuda-nvrtc-cu12==12.6.*'"),
    ],
)
def test_ptx_that_the_driver_does_not_take(recorder: Recorder, version: int, found: str, packages: str) -> None:
    recorder.version = version
    text = (
        f"the driver is for CUDA {found} and does not take the PTX of NVRTC 13.5; expected NVRTC {found} or "
        f"earlier: update the driver, or pip install {packages}"
    )
    with pytest.raises(KernelError, match=f"^{re.escape(text)}$"):
        check_ptx()


def test_ptx_where_there_is_no_driver(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Any:
        raise RuntimeError("libcuda.so.1 not found")

    monkeypatch.setattr(cuda_driver, "cuDriverGetVersion", missing)
    check_ptx()
