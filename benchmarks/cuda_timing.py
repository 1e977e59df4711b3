# SPDX-License-Identifier: Apache-2.0
"""Timing on a card: by its own events, kernels one after the other, on inputs that are not in the cache.

A contender calls a kernel once for each of several sets of inputs, together larger than the second-level cache,
and is replayed as a CUDA graph, so that the time that a processor takes to launch does not count. Contenders take
turns as in timing.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from timing import Clock, Effort, Measurement, interleave

__all__ = ["Contender", "EventClock", "set_count", "timed"]

# What is read again comes after so many times what the cache holds.
CACHES = 3
MOST_SETS = 64

Call = Callable[[], Any]


@dataclass(frozen=True)
class Contender:
    """What is measured.

    Attributes:
        calls: One for every set of inputs.
        captured: Whether they are replayed as a graph; what launches on a stream of its own choice cannot be.
        ours: Whether a failure stops the benchmark; others are left out with a line that says why.
    """

    calls: Sequence[Call]
    captured: bool = True
    ours: bool = False


class EventClock:
    """Seconds between its calls as the card counts them, as a clock for `interleave`.

    Each call waits for the card; a turn repeats its call often enough for that not to count.
    """

    def __init__(self) -> None:
        self._last: torch.cuda.Event | None = None
        self._seconds = 0.0

    def __call__(self) -> float:
        """Returns seconds since the first call."""
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        event.synchronize()
        if self._last is not None:
            self._seconds += self._last.elapsed_time(event) / 1e3
        self._last = event
        return self._seconds


def set_count(size: int, cache: int) -> int:
    """Returns how many sets of inputs a contender needs so that each is read from memory.

    Args:
        size: Bytes of one set.
        cache: Bytes of the second-level cache.
    """
    return max(2, min(MOST_SETS, math.ceil(CACHES * cache / max(size, 1))))


def timed(contenders: Mapping[str, Contender], clock: Clock, effort: Effort) -> dict[str, Measurement]:
    """Measures contenders in turns.

    Args:
        contenders: By name.
        clock: `EventClock`.
        effort: How long to measure.

    Returns:
        The time of one call, by name; those that fail are left out.
    """
    runs = {name: run for name, one in contenders.items() if (run := _prepared(name, one)) is not None}
    measured = interleave(runs, clock, effort)
    return {name: _each(found, len(contenders[name].calls)) for name, found in measured.items()}


def _each(measured: Measurement, calls: int) -> Measurement:
    return Measurement(tuple(seconds / calls for seconds in measured.seconds))


def _prepared(name: str, contender: Contender) -> Call | None:
    try:
        return _captured(contender.calls) if contender.captured else _in_turn(contender.calls)
    # A peer may fail with anything: out of memory, a compiler's error, a size that it does not take.
    except Exception as error:
        if contender.ours:
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        print(f"{name} is left out: {reason[:200]}")
        torch.cuda.empty_cache()
        return None


def _in_turn(calls: Sequence[Call]) -> Call:
    def run() -> None:
        for call in calls:
            call()

    run()
    torch.cuda.synchronize()
    return run


def _captured(calls: Sequence[Call]) -> Call:
    """Returns the replay of a graph of the calls, which run twice beforehand: what compiles does so then."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run = _in_turn(calls)
        run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        run()
    return graph.replay
