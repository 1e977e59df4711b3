# SPDX-License-Identifier: Apache-2.0
"""The emulator itself, on toy kernels: it runs right ones and finds what is wrong with the others."""

from __future__ import annotations

import platform
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from emulated import EMULATOR, Emulated, compile_with, run

Builds = Callable[[str], Emulated]
HERE = Path(__file__).parent
ASCENDING, DESCENDING, RANDOM = range(3)
BLOCKS, THREADS = 2, 64
X = [float(i % 3) for i in range(BLOCKS * THREADS)]


class Toy:
    """What a run of a toy kernel gave."""

    def __init__(self, build: Emulated, name: str, order: int = ASCENDING, seed: int = 1) -> None:
        program = build.folder / "run_toy"
        if not program.exists():
            build.program("run_toy", [HERE / "toys" / "run_toy.cpp"])
        done = run(program, name, str(order), str(seed))
        self.code, self.error = done.returncode, done.stderr
        self.y = [float(line) for line in done.stdout.split()]


def of_blocks(make: Callable[[list[float]], list[float]]) -> list[float]:
    return [y for block in range(BLOCKS) for y in make(X[block * THREADS : (block + 1) * THREADS])]


REVERSED = of_blocks(lambda x: x[::-1])
ROTATED = of_blocks(lambda x: x[3:] + x[:3])


@pytest.mark.parametrize("sanitizer", ["", "address,undefined", "thread"])
@pytest.mark.parametrize("order", [ASCENDING, DESCENDING, RANDOM])
def test_right_kernels_run(toys: Builds, sanitizer: str, order: int) -> None:
    wanted = {
        "reverse": REVERSED,
        "rotate": ROTATED,
        "copied": REVERSED,
        "ended_early": of_blocks(lambda x: x[1:31] + [0.0] * 34),
    }
    for name, expected in wanted.items():
        toy = Toy(toys(sanitizer), name, order)
        assert (toy.code, toy.error, toy.y) == (0, "", expected), name


@pytest.mark.parametrize("name", ["reverse_without_barrier", "rotate_without_barrier"])
def test_a_missing_barrier_gives_wrong_results_and_a_race(toys: Builds, name: str) -> None:
    expected = REVERSED if name.startswith("reverse") else ROTATED
    found = [Toy(toys(""), name, order).y for order in (ASCENDING, DESCENDING, RANDOM)]
    assert sum(y != expected for y in found) >= 2
    assert "ThreadSanitizer: data race" in Toy(toys("thread"), name).error


def test_a_missing_warp_barrier_is_a_race(toys: Builds) -> None:
    # A vote lets lanes meet, but orders no memory.
    assert Toy(toys("thread"), "warp_rotate").error == ""
    assert "ThreadSanitizer: data race" in Toy(toys("thread"), "warp_rotate_by_vote").error


def test_blocks_that_write_to_one_place_are_a_race(toys: Builds) -> None:
    assert "ThreadSanitizer: data race" in Toy(toys("thread"), "same_place").error


def test_random_orders_differ_and_are_repeated(toys: Builds) -> None:
    first, again, other = (Toy(toys(""), "rotate_without_barrier", RANDOM, seed).y for seed in (1, 1, 2))
    assert first == again != other


def test_one_byte_too_far_in_shared_memory(toys: Builds) -> None:
    assert "AddressSanitizer: heap-buffer-overflow" in Toy(toys("address,undefined"), "overrun").error


@pytest.mark.parametrize("name", ["copied_without_wait", "copied_uncommitted"])
def test_a_copy_that_nobody_waits_for_has_not_arrived(toys: Builds, name: str) -> None:
    toy = Toy(toys(""), name)
    assert toy.code == 0
    assert all(abs(y) > 1e34 for y in toy.y)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("copied_misaligned", "thread 1 copies in the background to a misaligned address"),
        ("copied_outside", "thread 0 copies to outside of the shared memory"),
        ("divergent", "thread 32 is at another barrier than the rest: divergent barrier"),
        ("lane_missing", "thread 3 waits in __syncthreads at "),
        ("lane_missing", "thread 4 waits in __shfl_xor_sync at "),
        ("lane_missing", "deadlock: no thread of the block can go on"),
        ("lanes_elsewhere", "thread 1 meets lanes that are elsewhere in the kernel"),
        ("half_the_block", "thread 40 has ended"),
        ("half_the_block", "deadlock: no thread of the block can go on"),
    ],
)
def test_what_can_never_work_is_refused(toys: Builds, name: str, message: str) -> None:
    toy = Toy(toys(""), name)
    assert toy.code != 0
    assert message in toy.error


def test_a_launch_beyond_the_limits_is_refused(toys: Builds) -> None:
    build = toys("")
    program = build.program("launch_limits", [HERE / "toys" / "launch_limits.cpp"])
    done = run(program)
    assert done.returncode == 0, done.stdout
    for fault in (
        "more threads than the kernel's launch bound",
        "threads are no whole number of warps",
        "more shared memory than any launch may have",
        "a grid or block is empty",
    ):
        assert fault in done.stderr


def test_lanes_exchange(toys: Builds) -> None:
    def lanes(x: list[float]) -> list[float]:
        halves = [x[start : start + 16] for start in range(0, THREADS, 16)]
        y = []
        for thread, v in enumerate(x):
            half, lane = halves[thread // 16], thread % 32
            below = x[thread + 5] if lane < 27 else v
            counts = 1000 * half.count(v) + 100000 * sum(u > 0 for u in half)
            y.append(sum(half) + counts + below / 128 + half[0] / 16384 + 0.25)
        return [struct.unpack("f", struct.pack("f", v))[0] for v in y]

    assert Toy(toys(""), "lanes", RANDOM).y == of_blocks(lanes)


# With the processor's instructions for halves, where it has them, and without.
@pytest.mark.parametrize("flags", [[], ["-mno-f16c"]] if platform.machine() == "x86_64" else [[]])
def test_arithmetic(flags: list[str], tmp_path: Path) -> None:
    program = tmp_path / "arithmetic"
    compile_with("-O2", *flags, f"-I{EMULATOR}", HERE / "toys" / "arithmetic.cpp", "-o", program)
    done = run(program)
    assert done.returncode == 0, done.stdout


def test_stacks_without_assembly(tmp_path: Path) -> None:
    build = Emulated(tmp_path, device=HERE / "toys", flags=("-O1", "-DEMULATOR_UCONTEXT"))
    for name, expected in {"reverse": REVERSED, "rotate": ROTATED}.items():
        toy = Toy(build, name, RANDOM)
        assert (toy.code, toy.error, toy.y) == (0, "", expected)
