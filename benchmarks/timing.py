# SPDX-License-Identifier: Apache-2.0
"""Timing side by side on a machine that does other things too, and what machine it was.

Contenders take turns, so that whatever slows the machine down slows all of them. One-thread figures are the
thread's CPU time, which other processes do not lengthen by taking the processor; the rest is wall time. Where a
processor is shared out among machines, as in most clouds, its other users slow CPU time down as well.
"""

from __future__ import annotations

import datetime
import gc
import importlib.metadata
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["CPU", "PROCESS", "WALL", "Effort", "Measurement", "cpu_model", "interleave", "surroundings", "threads"]

Clock = Callable[[], float]
CPU: Clock = time.thread_time
PROCESS: Clock = time.process_time
WALL: Clock = time.perf_counter


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    Attributes:
        rounds: Turns of each contender.
        least_seconds: A turn repeats its call for about this long, and runs it once at the least.
        budget_seconds: A contender whose turns would take longer in all gets fewer of them.
    """

    rounds: int = 15
    least_seconds: float = 0.05
    budget_seconds: float = 15.0


@dataclass(frozen=True)
class Measurement:
    """Seconds of one call, a figure from each turn."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median of the turns."""
        return statistics.median(self.seconds)

    @property
    def least(self) -> float:
        """The fastest turn: what the code can do, since other users of the machine only ever slow it down."""
        return min(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """The first and the third quartile of the turns."""
        if len(self.seconds) < 2:
            return self.seconds[0], self.seconds[0]
        first, _, third = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return first, third

    def to_json(self) -> dict[str, Any]:
        """Returns seconds, rounded to what can be told apart."""
        figures = {"median": self.median, "quartiles": list(self.quartiles), "least": self.least}
        return {**_rounded(figures), "turns": len(self.seconds)}


def interleave(
    contenders: Mapping[str, Callable[[], Any]], clock: Clock, effort: Effort
) -> dict[str, Measurement]:
    """Measures contenders in turns; every round begins with another one.

    Args:
        contenders: What to call, by name. Each is called once beforehand, to warm up.
        clock: `CPU` or `WALL`.
        effort: How long to measure.

    Returns:
        The measurement of each contender, in the same order.
    """
    repeats = {name: _repeats(call, clock, effort) for name, call in contenders.items()}
    rounds = {name: _rounds(once * count, effort) for name, (count, once) in repeats.items()}
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    with _no_garbage_collection():
        for turn in range(effort.rounds):
            start = turn % len(names)
            for name in names[start:] + names[:start]:
                if turn < rounds[name]:
                    samples[name].append(_sample(contenders[name], repeats[name][0], clock))
    return {name: Measurement(tuple(seconds)) for name, seconds in samples.items()}


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Lets the kernels and torch use `count` threads inside the block."""
    import torch

    before, torch_before = os.environ.get("OMP_NUM_THREADS"), torch.get_num_threads()
    os.environ["OMP_NUM_THREADS"] = str(count)
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(torch_before)
        del os.environ["OMP_NUM_THREADS"]
        if before is not None:
            os.environ["OMP_NUM_THREADS"] = before


def surroundings(*packages: str) -> dict[str, Any]:
    """Returns when, on what and with which versions of `packages` was measured; absent ones are left out."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "cpu": cpu_model(),
        "processors": os.cpu_count(),
        **{name: version for name in packages if (version := _version(name))},
        "python": platform.python_version(),
    }


def cpu_model() -> str:
    """Returns the processor's name as Linux gives it, or else its architecture."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        # It may have been imported from PYTHONPATH.
        return getattr(sys.modules.get(package), "__version__", None)


def _repeats(call: Callable[[], Any], clock: Clock, effort: Effort) -> tuple[int, float]:
    """Returns how often a turn calls, and the seconds of one call."""
    call()
    once = _sample(call, 1, clock)
    if once < effort.least_seconds / 10:
        once = _sample(call, 10, clock)
    return max(1, math.ceil(effort.least_seconds / max(once, 1e-7))), once


def _rounds(turn_seconds: float, effort: Effort) -> int:
    return max(1, min(effort.rounds, int(effort.budget_seconds / max(turn_seconds, 1e-7))))


def _sample(call: Callable[[], Any], count: int, clock: Clock) -> float:
    begin = clock()
    for _ in range(count):
        call()
    return (clock() - begin) / count


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _rounded(figures: dict[str, Any]) -> dict[str, Any]:
    def short(value: float) -> float:
        return float(f"{value:.4g}")

    return {
        name: [short(item) for item in value] if isinstance(value, list) else short(value)
        for name, value in figures.items()
    }
