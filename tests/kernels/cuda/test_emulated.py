# SPDX-License-Identifier: Apache-2.0
"""Every kernel and its launcher, run on the emulator: the results, and that faults put in are found."""

from __future__ import annotations

import ctypes
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from emulated import KERNELS, Emulated, Library, run

from linfdeploy.kernels import linf_dist

Builds = Callable[[str], Emulated]
NATIVE = Path(__file__).parent / "native"


def test_program(build: Emulated, cpu_kernels: list[Path]) -> Path:
    """The native test program, with this build's kernels."""
    sources = [*sorted(NATIVE.glob("*.cpp")), *build.launchers()]
    return build.program("test_kernels", sources, cpu_kernels)


test_program.__test__ = False  # type: ignore[attr-defined]


# Random shapes and their largest size. In 3 * 4 * 11 shapes every power comes with every alignment and in every
# way to call its kernels; 160 is more than a tile of each, and a few shapes have three tiles either way.
# Sanitizers are slow, and see a fault on small shapes as well.
@pytest.mark.parametrize(
    ("sanitizer", "shapes", "largest"),
    [
        ("", 132, 160),
        ("", 12, 300),
        ("address,undefined", 33, 100),
        ("thread", 11, 70),
        pytest.param("", 300, 300, marks=pytest.mark.thorough),
        pytest.param("address,undefined", 60, 100, marks=pytest.mark.thorough),
    ],
)
def test_kernels(builds: Builds, cpu_kernels: list[Path], sanitizer: str, shapes: int, largest: int) -> None:
    program = test_program(builds(sanitizer), cpu_kernels)
    done = run(program, "--shapes", str(shapes), "--largest", str(largest))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(" 0 failures") == 11


class Sizes(ctypes.Structure):
    """LinfSizes of launchers.h."""

    _fields_ = (("batch", ctypes.c_int32), ("inputs", ctypes.c_int32), ("outputs", ctypes.c_int32))


Start = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int32, Sizes, ctypes.c_void_p)


class Launcher(ctypes.Structure):
    """LinfLauncher of launchers.h."""

    _fields_ = (("start", Start), ("multiprocessors", ctypes.c_int32), ("tactic", ctypes.c_int32))


class TestLaunchers:
    """The launchers as a C program calls them."""

    def test_a_distance(self, library: Library) -> None:
        rng = np.random.default_rng(0)
        x, w, bias, y = (rng.standard_normal(shape, np.float32) for shape in ((9, 21), (5, 21), (5,), (9, 5)))
        addresses = [ctypes.c_void_p(array.ctypes.data) for array in (x, w, bias, y)]
        launcher = ctypes.c_void_p(library.handle.emulated_launcher(4))
        assert library.handle.linf_dist_cuda(launcher, 0, Sizes(9, 21, 5), *addresses) == 0
        assert y.tobytes() == (linf_dist(x, w) + bias).tobytes()

    @pytest.mark.parametrize("tactic", range(5))
    def test_a_failure_is_handed_through(self, library: Library, tactic: int) -> None:
        # A grid is three numbers, as sizes are.
        launcher = Launcher(Start(lambda *_: 7), 4, tactic)
        nowhere = [None] * 4
        assert library.handle.linf_dist_cuda(ctypes.byref(launcher), 0, Sizes(9, 21, 5), *nowhere) == 7
        assert library.handle.linf_dist_cuda(ctypes.byref(launcher), 0, Sizes(0, 21, 5), *nowhere) == 0


@dataclass(frozen=True)
class Fault:
    """A fault in device code: what is replaced, what is compiled again, and what shows it.

    Attributes:
        file: The source, in the folder of the kernels.
        pattern: A regular expression that is found there once.
        replacement: What stands in its place.
        compiled: The files of the folder `cuda` that the source is part of and that the checks need.
        only: The checks that are to fail.
        sanitizer: Under which they do.
        shown: What is printed then.
    """

    file: str
    pattern: str
    replacement: str
    compiled: tuple[str, ...]
    only: str
    sanitizer: str = ""
    shown: str = "FAILED"


RACE, BEYOND = (
    ("thread", "ThreadSanitizer: data race"),
    ("address,undefined", "AddressSanitizer: heap-buffer-overflow"),
)
TILE, MATRIX, BOUNDS = "include/linf/tile.cuh", "include/linf/matrix.cuh", ("linf_dist_bounds.cu",)
SLOPES, OF_SLOPES = "include/linf/lp_dist_backward.cuh", ("lp_dist_backward.cu",)
IN_USE = r"(\bvisit\(shared \+ .*\);\n\s*)__syncthreads\(\);"
FAULTS = {
    "a stage is read before it is there": Fault(
        TILE, r"(wait_for_copies<1>\(\);\n\s*)__syncthreads\(\);", r"\1", BOUNDS, "linf_dist_bounds"
    ),
    "a stage is filled while it is read": Fault(TILE, IN_USE, r"\1", BOUNDS, "linf_dist_bounds"),
    "a stage is filled while it is read, as a race": Fault(TILE, IN_USE, r"\1", BOUNDS, "linf_dist_bounds", *RACE),
    "copies are not waited for": Fault(
        TILE, r"wait_for_copies<1>\(\)", "wait_for_copies<2>()", BOUNDS, "linf_dist_bounds"
    ),
    "the last stage is left out": Fault(
        TILE,
        r"if \(word \+ kStageWords < words\)",
        "if (word + kStageWords < words - 1)",
        BOUNDS,
        "linf_dist_bounds",
    ),
    "one column too many is written": Fault(
        TILE,
        r"&& o < w\.rows\) reduction\.finish",
        "&& o <= w.rows) reduction.finish",
        BOUNDS,
        "linf_dist_bounds",
        *BEYOND,
    ),
    "one row too many is read": Fault(
        MATRIX, r"exists = row < rows;", "exists = row <= rows;", BOUNDS, "linf_dist_bounds", *BEYOND
    ),
    "one word too many is read": Fault(
        MATRIX,
        r"exists && \(word \+ k\) \* 4 < row_bytes",
        "exists && (word + k) * 4 <= row_bytes",
        BOUNDS,
        "linf_dist_bounds",
    ),
    "shared memory is too small for the last row": Fault(
        "include/linf/geometry.h",
        r"kStages \* kStageRows \* kRowStride \* 4;",
        "kStages * kStageRows * kRowStride * 4 - 32;",
        ("linf_dist_launcher.cpp",),
        "linf_dist_bounds",
        shown="copies to outside of the shared memory",
    ),
    "equal places are added to at once": Fault(
        "include/linf/linf_dist.cuh",
        r"(sums\[at\] \+= value;\n\s*)__syncwarp\(\);",
        r"\1",
        ("linf_dist_argmax.cu",),
        "linf_dist_backward",
        *RACE,
    ),
    "few rows are merged before all are there": Fault(
        "include/linf/rows.cuh", r"__syncthreads\(\);", "", ("linf_dist.cu",), "linf_dist_float32"
    ),
    "a group of rows goes beyond the batch": Fault(
        "cuda/linf_dist_aot.cu",
        r"smaller\(batch - first, Rows\)",
        "Rows",
        ("linf_dist_aot.cu",),
        "linf_dist_aot_float32",
        *BEYOND,
    ),
    "groups of rows share their results": Fault(
        "cuda/linf_dist_aot.cu",
        r"y \+ static_cast<int64_t>\(first\) \* outputs",
        "y",
        ("linf_dist_aot.cu",),
        "linf_dist_aot_float32",
    ),
    "nobody looks at alignment": Fault(
        "include/linf/matrix.cuh",
        r"return alignment_of_bits\([^;]*;",
        "return 16;",
        ("linf_dist_aot.cu",),
        "linf_dist_aot_float32",
        shown="misaligned address",
    ),
    "an empty batch is divided by": Fault(
        "cuda/linf_dist_aot.cu",
        r"if \(batch > 0 && outputs > 0\) ?kernel",
        "kernel",
        ("linf_dist_aot.cu",),
        "linf_dist_aot_float32",
        "address,undefined",
        "division by zero",
    ),
    "slopes are summed before all are there": Fault(SLOPES, r"__syncthreads\(\);", "", OF_SLOPES, "lp_dist"),
    "slopes are summed before all are there, as a race": Fault(
        SLOPES, r"__syncthreads\(\);", "", OF_SLOPES, "lp_dist", *RACE
    ),
    "slopes' operands are not waited for": Fault(
        SLOPES, r"wait_for_copies<0>\(\)", "wait_for_copies<1>()", OF_SLOPES, "lp_dist"
    ),
    "shares of outputs overlap": Fault(
        SLOPES, r"smaller\(first_output \+ s\.share,", "smaller(first_output + s.share + 1,", OF_SLOPES, "lp_dist"
    ),
    "sums lie beyond the shared memory": Fault(
        "include/linf/lp_geometry.h",
        r"SearchTile::kSharedBytes \+ kSearchSums \* 4;",
        "SearchTile::kSharedBytes + kSearchSums * 4 - 4;",
        ("lp_dist_launcher.cpp",),
        "lp_dist",
        *BEYOND,
    ),
}


def _planted(fault: Fault, good: Emulated, folder: Path) -> Emulated:
    """A copy of the device code with the fault, whose other objects are those of the good build."""
    for part in ("cuda", "include"):
        shutil.copytree(KERNELS / part, folder / part)
    source = folder / fault.file
    changed, times = re.subn(fault.pattern, fault.replacement, source.read_text())
    assert times == 1, f"{fault.pattern} is found {times} times in {fault.file}, not once: adapt the fault to it"
    source.write_text(changed)
    build = Emulated(folder, folder / "cuda", folder / "include", good.sanitize, good.flags)
    build.adopt(good)
    for name in fault.compiled:
        build.forget(name)
    return build


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found(name: str, builds: Builds, cpu_kernels: list[Path], tmp_path: Path) -> None:
    fault = FAULTS[name]
    good = builds(fault.sanitizer)
    test_program(good, cpu_kernels)
    program = test_program(_planted(fault, good, tmp_path), cpu_kernels)
    done = run(program, "--shapes", "30", "--largest", "100", "--only", fault.only)
    assert done.returncode != 0, done.stdout
    assert fault.shown in done.stdout + done.stderr


def test_the_library_has_every_kernel(library: Library, builds: Builds) -> None:
    build = builds("")
    names = [name for source in build.kernels() for name in build.entries(source.stem)]
    assert names
    assert all(library.function(name) for name in names)
    assert library.function("none") is None
