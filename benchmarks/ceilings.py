# SPDX-License-Identifier: Apache-2.0
"""What this machine can do at best: steps of the reduction on registers alone, and bytes read from memory."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from timing import CPU, WALL, Effort, interleave

HERE = Path(__file__).parent
KERNELS = HERE.parent / "linfdeploy" / "kernels"
# The kernels' own, from linfdeploy/kernels/cpu/CMakeLists.txt.
FLAGS = ["-std=c++17", "-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi"]
ISAS: dict[str, list[str]] = {
    "baseline": [],
    "avx2": ["-march=x86-64-v3"],
    "avx512": ["-march=x86-64-v4", "-mprefer-vector-width=512"],
}
UNROLLINGS = (4, 6, 8, 9, 10, 11, 12, 16, 20, 24)
READERS = range(8)
# Well beyond any last-level cache of a machine with few cores.
BUFFER_BYTES = 768 << 20
STEPS_PER_CALL = 1 << 24


@dataclass(frozen=True)
class Ceilings:
    """The machine's limits.

    Attributes:
        isa: The instruction set that they hold for.
        steps: Runs the fastest unrolling on registers.
        step_count: (b, o, i) triples of one call of `steps`.
        unrolling: Accumulators of the fastest unrolling.
        peak: Triples a second, one thread.
        bandwidth: Bytes read a second, one thread.
        bandwidth_two: The same of two threads together.
    """

    isa: str
    steps: Callable[[], object]
    step_count: int
    unrolling: int
    peak: float
    bandwidth: float
    bandwidth_two: float


def measure_ceilings(isa: str, effort: Effort) -> Ceilings:
    """Compiles and measures; the best of several unrollings and access patterns counts.

    Args:
        isa: The instruction set of the kernels that are measured.
        effort: How long to measure.
    """
    library = _compiled(isa)
    width = library.register_steps(UNROLLINGS[0], 1)
    calls = {str(count): _register_call(library, count, width) for count in UNROLLINGS}
    measured = interleave(calls, CPU, effort)
    rates = {count: _step_count(count, width) / measured[str(count)].least for count in UNROLLINGS}
    best = max(rates, key=rates.__getitem__)
    one, two = _bandwidths(library, effort)
    return Ceilings(isa, calls[str(best)], _step_count(best, width), best, rates[best], one, two)


def _compiled(isa: str) -> ctypes.CDLL:
    compiler = os.environ.get("CXX", "c++")
    includes = [f"-I{KERNELS / 'cpu'}", f"-I{KERNELS / 'include'}"]
    target = (
        [*ISAS[isa], f"-DLINF_ISA={isa}"] if platform.machine() in {"x86_64", "AMD64"} else [f"-DLINF_ISA={isa}"]
    )
    with tempfile.TemporaryDirectory() as folder:
        path, source = Path(folder) / "register_peak.so", HERE / "native" / "register_peak.cpp"
        command = [compiler, *FLAGS, *target, *includes, "-shared", "-fPIC", str(source), "-o", str(path)]
        subprocess.run(command, check=True)
        library = ctypes.CDLL(str(path))
    library.register_steps.argtypes = [ctypes.c_int, ctypes.c_int64]
    library.register_steps.restype = ctypes.c_int64
    library.read_memory.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_int64]
    return library


def _step_count(unrolling: int, width: int) -> int:
    return _register_rounds(unrolling, width) * unrolling * width


def _register_rounds(unrolling: int, width: int) -> int:
    return STEPS_PER_CALL // (unrolling * width)


def _register_call(library: ctypes.CDLL, unrolling: int, width: int) -> Callable[[], object]:
    rounds = _register_rounds(unrolling, width)
    return lambda: library.register_steps(unrolling, rounds)


def _bandwidths(library: ctypes.CDLL, effort: Effort) -> tuple[float, float]:
    """Returns bytes a second of one thread (CPU time) and of two (wall time); the fastest turn counts.

    Whatever else the machine does lowers the figure, and nothing raises it.
    """
    data = np.ones(BUFFER_BYTES // 4, np.float32)

    def read(reader: int, first: int, size: int) -> None:
        library.read_memory(reader, data.ctypes.data + 4 * first, size)

    one = {str(reader): partial(read, reader, 0, data.size) for reader in READERS}
    half = data.size // 2
    with ThreadPoolExecutor(2) as pool:

        def read_both(reader: int) -> None:
            list(pool.map(lambda first: read(reader, first, half), (0, half)))

        two = {str(reader): partial(read_both, reader) for reader in READERS}
        return _fastest(one, CPU, data.nbytes, effort), _fastest(two, WALL, data.nbytes, effort)


def _fastest(
    calls: Mapping[str, Callable[[], object]], clock: Callable[[], float], size: int, effort: Effort
) -> float:
    return size / min(min(measured.seconds) for measured in interleave(calls, clock, effort).values())
