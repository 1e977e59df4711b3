# SPDX-License-Identifier: Apache-2.0
"""What this card can do at best: steps of the reduction and powers on registers alone, and bytes moved."""

from __future__ import annotations

import ctypes
import statistics
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from cuda_floors import CardRates
from cuda_timing import EventClock
from timing import Clock, Effort, interleave

from linfdeploy.kernels.cuda.compiler import compile_source

__all__ = ["CardCeilings", "CardKernels", "ceilings_in_words", "ceilings_json", "measure_card", "settings"]

SOURCE = Path(__file__).parent / "native" / "card_peak"
# As native/card_peak.cu says: threads of a block, and what one of them does in a round.
THREADS, STEPS, POWERS = 128, 256, 16
READ_THREADS, READERS = 256, (2, 4, 8)
# Some milliseconds of work each.
ROUNDS = 4096
BLOCKS = (2, 3, 4)
READ_BLOCKS = (4, 8)
BUFFER_BYTES = 1 << 30
CLOCK_TURNS = 11
# How the driver calls what it can tell of a card's settings.
SETTINGS = {"driver": "driver_version", "max_clock_mhz": "clocks.max.sm", "memory_clock_mhz": "clocks.mem"}
WATTS = {"power_limit_w": "power.limit"}


@dataclass(frozen=True)
class CardCeilings:
    """The card's limits.

    Attributes:
        name: Of the card.
        rates: What floors are computed from.
        cache: Bytes of the second-level cache.
        steps: Runs the step for float32 on registers, in the fastest way found.
        step_count: (b, o, i) triples of one call of `steps`.
        peaks: Triples a second on registers alone, by kind of number: float32, float16.
        powers: Logarithms and powers of two a second.
        copied: Bytes read plus bytes written a second, of a copy.
        read: Bytes read a second.
    """

    name: str
    rates: CardRates
    cache: int
    steps: Callable[[], object]
    step_count: int
    peaks: Mapping[str, float]
    powers: float
    copied: float
    read: float


class CardKernels:
    """The kernels of native/card_peak.cu, compiled as the package's own are.

    Args:
        architecture: Of the current card, such as 90.
    """

    def __init__(self, architecture: int) -> None:
        from cuda.core import ObjectCode

        code, _ = compile_source(str(SOURCE), architecture)
        self._library = ObjectCode.from_cubin(code, name=SOURCE.name)
        self._kernels: dict[str, Any] = {}

    def launch(self, name: str, blocks: int, threads: int, *arguments: int | torch.Tensor) -> None:
        """Starts a kernel on torch's current stream; whole numbers are handed over as int32."""
        from cuda.bindings import driver

        if name not in self._kernels:
            self._kernels[name] = self._library.get_kernel(name)
        values = tuple(one.data_ptr() if isinstance(one, torch.Tensor) else one for one in arguments)
        kinds = tuple(ctypes.c_void_p if isinstance(one, torch.Tensor) else ctypes.c_int32 for one in arguments)
        stream = torch.cuda.current_stream().cuda_stream
        handle = int(self._kernels[name].handle)
        (code,) = driver.cuLaunchKernel(handle, blocks, 1, 1, threads, 1, 1, 0, stream, (values, kinds), 0)
        if int(code):
            raise SystemExit(f"the driver does not start {name}: {code.name}")


def measure_card(effort: Effort, device: torch.device) -> CardCeilings:
    """Compiles and measures; the best of several grids and access patterns counts.

    Args:
        effort: How long to measure.
        device: A CUDA device, the current one.
    """
    found = torch.cuda.get_device_properties(device)
    architecture, multiprocessors = 10 * found.major + found.minor, found.multi_processor_count
    kernels, clock = CardKernels(architecture), EventClock()
    steps, peak = _fastest_steps(kernels, "register_steps", multiprocessors, clock, effort)
    _, halves = _fastest_steps(kernels, "register_halves", multiprocessors, clock, effort)
    copied, read = _bandwidths(kernels, multiprocessors, device, clock, effort)
    return CardCeilings(
        name=found.name,
        rates=CardRates(architecture, multiprocessors, _clock_rate(steps), max(copied, read)),
        cache=found.L2_cache_size,
        steps=steps.run,
        step_count=steps.count,
        peaks={"float32": peak, "float16": 2 * halves},
        powers=_power_rate(kernels, multiprocessors, clock, effort),
        copied=copied,
        read=read,
    )


@dataclass(frozen=True)
class _Steps:
    """A grid of steps; `cycles` (blocks,) int64 holds the clocks of each block's latest run."""

    run: Callable[[], object]
    count: int
    cycles: torch.Tensor


def _steps(kernels: CardKernels, name: str, blocks: int) -> _Steps:
    cycles = torch.zeros(blocks, dtype=torch.int64, device="cuda")
    sink = torch.empty(blocks * THREADS, device="cuda")
    run = partial(kernels.launch, name, blocks, THREADS, ROUNDS, sink, cycles)
    return _Steps(run, blocks * THREADS * STEPS * ROUNDS, cycles)


def _fastest_steps(
    kernels: CardKernels, name: str, multiprocessors: int, clock: Clock, effort: Effort
) -> tuple[_Steps, float]:
    """Returns the fastest grid and its steps a second."""
    grids = {str(each): _steps(kernels, name, each * multiprocessors) for each in BLOCKS}
    measured = interleave({each: grid.run for each, grid in grids.items()}, clock, effort)
    rates = {each: grids[each].count / measured[each].median for each in grids}
    best = max(rates, key=rates.__getitem__)
    return grids[best], rates[best]


def _clock_rate(steps: _Steps) -> float:
    """Returns clocks a second at full load: those that the longest block counted over the time of its kernel."""
    rates: list[float] = []
    for _ in range(CLOCK_TURNS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        steps.run()
        end.record()
        end.synchronize()
        rates.append(float(steps.cycles.max()) / (begin.elapsed_time(end) / 1e3))
    return statistics.median(rates)


def _power_rate(kernels: CardKernels, multiprocessors: int, clock: Clock, effort: Effort) -> float:
    blocks = 8 * multiprocessors
    sink = torch.empty(blocks * THREADS, device="cuda")
    run = partial(kernels.launch, "register_powers", blocks, THREADS, ROUNDS, sink, sink)
    seconds = interleave({"powers": run}, clock, effort)["powers"].median
    return blocks * THREADS * POWERS * ROUNDS / seconds


def _bandwidths(
    kernels: CardKernels, multiprocessors: int, device: torch.device, clock: Clock, effort: Effort
) -> tuple[float, float]:
    """Returns bytes a second of a copy, read and written, and of reading alone."""
    free, _ = torch.cuda.mem_get_info(device)
    size = min(BUFFER_BYTES, free // 4) // 16 * 16
    data = torch.rand(size // 4, device=device)
    other, sink = torch.empty_like(data), torch.empty(1, device=device)
    calls: dict[str, Callable[[], object]] = {"copy": lambda: other.copy_(data), "torch.sum": data.sum}
    for ahead in READERS:
        for each in READ_BLOCKS:
            reading = partial(kernels.launch, f"read_memory_{ahead}", each * multiprocessors, READ_THREADS)
            calls[f"{ahead} ahead, {each} blocks"] = partial(reading, size // 16, data, sink)
    seconds = {name: measured.median for name, measured in interleave(calls, clock, effort).items()}
    return 2 * size / seconds.pop("copy"), size / min(seconds.values())


def settings(device: torch.device) -> dict[str, Any]:
    """Returns driver, clocks and power limit as `nvidia-smi` tells them; nothing where it does not."""
    fields = {**SETTINGS, **WATTS}
    card = f"--id=GPU-{torch.cuda.get_device_properties(device).uuid}"
    command = ["nvidia-smi", card, f"--query-gpu={','.join(fields.values())}", "--format=csv,noheader,nounits"]
    try:
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"driver and clocks are left out: {error}")
        return {}
    return dict(zip(fields, (value.strip() for value in text.splitlines()[0].split(",")), strict=True))


def ceilings_json(ceilings: CardCeilings) -> dict[str, Any]:
    """Returns the ceilings for the JSON file."""
    figures = {
        "clock_hz": ceilings.rates.clock,
        "register_peak_triples_per_second": ceilings.peaks["float32"],
        "register_peak_float16_triples_per_second": ceilings.peaks["float16"],
        "powers_per_second": ceilings.powers,
        "copied_bytes_per_second": ceilings.copied,
        "read_bytes_per_second": ceilings.read,
    }
    counts = {"multiprocessors": ceilings.rates.multiprocessors, "cache_bytes": ceilings.cache}
    return {**counts, **{name: float(f"{value:.4g}") for name, value in figures.items()}}


def ceilings_in_words(ceilings: CardCeilings) -> str:
    """Returns the ceilings as sentences, with the lanes that they come to."""
    clocks = ceilings.rates.clock * ceilings.rates.multiprocessors
    each = {name: rate / clocks for name, rate in {**ceilings.peaks, "powers": ceilings.powers}.items()}
    return (
        f"At {ceilings.rates.clock / 1e9:.3f} GHz {ceilings.rates.multiprocessors} multiprocessors do on "
        f"registers alone {ceilings.peaks['float32'] / 1e9:.0f} Ge/s of float32 ({each['float32']:.1f} a clock "
        f"and multiprocessor), {ceilings.peaks['float16'] / 1e9:.0f} of float16 ({each['float16']:.1f}) and "
        f"{ceilings.powers / 1e9:.0f} G/s logarithms and powers ({each['powers']:.1f}). A copy moves "
        f"{ceilings.copied / 1e9:.0f} GB/s, read and written; reading alone {ceilings.read / 1e9:.0f} GB/s."
    )
