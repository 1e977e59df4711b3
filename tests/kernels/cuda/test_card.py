# SPDX-License-Identifier: Apache-2.0
"""What a card loads and when, what reaches the driver, and how failures read."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from linfdeploy.errors import KernelError
from linfdeploy.kernels import _cuda
from linfdeploy.kernels.cuda.aot import KERNELS
from linfdeploy.kernels.cuda.card import ENTRIES, FILES, Card

DEVICE = Path(__file__).parents[3] / "linfdeploy" / "kernels" / "cuda"
SIZES = (5, 21, 6)
X, W, Y = 4096, 8192, 16384
U = ctypes.c_uint
# As the driver declares cuLaunchKernel.
LAUNCH = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_void_p,
    U,
    U,
    U,
    U,
    U,
    U,
    U,
    ctypes.c_void_p,
    ctypes.POINTER(ctypes.c_void_p),
    ctypes.c_void_p,
)


class RecordingDriver:
    """Gives kernels handles by their numbers, and writes down what it is asked to do."""

    def __init__(self, code: int = 0) -> None:
        self.loaded: list[str] = []
        self.launches: list[tuple[int, ...]] = []
        self.bound = 0
        self.code = code
        self._callback = LAUNCH(self._start)
        self.launch = ctypes.cast(self._callback, ctypes.c_void_p).value or 0

    def _start(self, kernel: int, *arguments: int) -> int:
        self.launches.append((kernel, *arguments[:8]))
        return self.code

    def load(self, file: str, names: Sequence[str]) -> list[int]:
        self.loaded.append(file)
        return [1000 + ENTRIES.index((name, file)) for name in names]

    def bind(self) -> None:
        self.bound += 1

    def error_name(self, code: int) -> str:
        return f"CUDA_ERROR_NUMBER_{code}"


def _run(card: Card, stream: int = 7) -> None:
    card.run("linf_dist", stream, SIZES, "float32", X, W, 0, Y)


def test_entries_are_those_of_the_header() -> None:
    text = (DEVICE / "entries.h").read_text(encoding="utf-8")
    assert re.findall(r"\bEntry\((\w+), (\w+)\)", text)[1:] == ENTRIES


def test_every_source_has_entries_and_every_entry_a_source() -> None:
    # runtime.cu includes all others, for programs that link the kernels.
    ahead_of_time = {kernel.file for kernel in KERNELS.values()}
    assert sorted([*FILES, *ahead_of_time, "runtime"]) == sorted(path.stem for path in DEVICE.glob("*.cu"))


def test_a_source_is_loaded_when_its_first_kernel_is_started() -> None:
    driver = RecordingDriver()
    card = Card(driver, 4)
    _run(card)
    _run(card)
    assert driver.loaded == ["linf_dist"]
    # One launch a call: the call that found nothing loaded started nothing.
    assert len(driver.launches) == 2
    assert driver.bound == 2


def test_what_reaches_the_driver() -> None:
    driver = RecordingDriver()
    _run(Card(driver, 4), stream=77)
    ((kernel, *grid, shared, stream),) = driver.launches
    assert ENTRIES[kernel - 1000][1] == "linf_dist"
    assert all(size >= 1 for size in grid)
    assert grid[1:3] == [1, 1]
    assert grid[4:] == [1, 1]
    assert 0 <= shared <= 48 * 1024
    assert stream == 77


def test_prepare_loads_everything_once() -> None:
    driver = RecordingDriver()
    card = Card(driver, 4)
    card.prepare()
    card.prepare()
    _run(card)
    assert driver.loaded == FILES
    assert len(driver.launches) == 1


def test_nothing_is_loaded_or_started_for_an_empty_result() -> None:
    driver = RecordingDriver()
    Card(driver, 4).run("linf_dist", 0, (0, 21, 6), "float32", X, W, 0, Y)
    assert (driver.loaded, driver.launches) == ([], [])


def test_a_failed_launch_names_kernel_sizes_and_error() -> None:
    driver = RecordingDriver(code=700)
    text = (
        "linf_dist: the driver does not start linf_dist_f32_rows8 for sizes (5, 21, 6): CUDA_ERROR_NUMBER_700; "
        "where an earlier kernel is at fault, CUDA_LAUNCH_BLOCKING=1 shows it"
    )
    with pytest.raises(KernelError, match=f"^{re.escape(text)}$"):
        _run(Card(driver, 4))
    assert len(driver.launches) == 1


def test_a_source_that_failed_to_load_is_tried_again() -> None:
    driver = RecordingDriver()
    loads: Callable[..., list[int]] = driver.load

    def fails(file: str, names: Sequence[str]) -> list[int]:
        raise KernelError("no room")

    driver.load = fails  # type: ignore[method-assign]
    card = Card(driver, 4)
    with pytest.raises(KernelError, match="no room"):
        _run(card)
    driver.load = loads  # type: ignore[method-assign]
    _run(card)
    assert len(driver.launches) == 1


def test_unknown_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="no kernel takes float64"):
        Card(RecordingDriver(), 4).run("linf_dist", 0, SIZES, "float64", X, W, 0, Y)
    with pytest.raises(IndexError):
        _cuda.Card(1, 4).load(len(ENTRIES), 1)
