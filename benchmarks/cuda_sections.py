# SPDX-License-Identifier: Apache-2.0
"""What of the CUDA kernels is measured: sections of rows, each a kernel beside its peers in a case."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import cuda_peers as peers
import cuda_training as training
import torch
from cuda_ceilings import CardCeilings
from cuda_floors import floor_seconds
from cuda_ops import gradients, kernel_of, lp_backward, lp_forward, scatter
from cuda_timing import Contender, set_count, timed
from tables import Row
from timing import Clock, Effort, Measurement

from linfdeploy.kernels import linf_dist, linf_dist_argmax, linf_dist_bounds, linf_dist_conv

__all__ = ["PEAK", "SECTIONS", "Bench", "measured_sections"]

OURS, PEAK = "linfdeploy", "register peak"
BATCH, WIDTH = 512, 5120
POWERS = (8.0, 20.0, 100.0, 1000.0)
# Images, channels, height and width, and filters of 3 x 3, padded to the same size.
IMAGES, FILTERS = (64, 128, 32, 32), 128
# Bytes of a parameter that Adam moves: itself, its gradient and both averages read, all but the gradient written.
ADAM_BYTES = 28
WARM_SECONDS = 0.5

Set = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Work:
    """What a call does at the least.

    Attributes:
        kernels: Names in `cuda_floors.COSTS`, one after the other; others count by their bytes alone.
        elements: (b, o, i) triples.
        size: Bytes read once and written once, by each kernel.
        numbers: The kind of register peak to compare with, if any.
    """

    kernels: tuple[str, ...]
    elements: float
    size: float
    numbers: str | None = None


@dataclass(frozen=True)
class Bench:
    """What all sections measure with.

    Attributes:
        card: The ceilings.
        device: The card.
        clock: Its events.
        effort: How long to measure.
        quick: Whether sections leave cases out.
    """

    card: CardCeilings
    device: torch.device
    clock: Clock
    effort: Effort
    quick: bool

    def floor(self, work: Work) -> float:
        """Returns the least seconds that the work could take."""
        return sum(floor_seconds(name, work.elements, work.size, self.card.rates) for name in work.kernels)

    def sets(self, size: int, make: Callable[[], Set]) -> list[Set]:
        """Returns sets of inputs, together too large for the cache.

        Args:
            size: Bytes of a set.
            make: Makes one.
        """
        return [make() for _ in range(set_count(size, self.card.cache))]

    def rows(self, section: str, case: str, contenders: Mapping[str, Contender], work: Work) -> list[Row]:
        """Measures contenders in turns and relates their times to the floor, the peak and the first of them."""
        measured = timed(contenders, self.clock, self.effort)
        peak = self.card.step_count / measured.pop(PEAK).median if PEAK in measured else None
        base = next(iter(measured.values())).median
        rows = []
        for name, found in measured.items():
            figures = {**self._figures(found, work, peak), "times linfdeploy": found.median / base}
            rows.append(Row(section, case, name, found, figures))
        return rows

    def _figures(self, measured: Measurement, work: Work, peak: float | None) -> dict[str, float]:
        figures = {"of floor": self.floor(work) / measured.median}
        if work.elements:
            figures = {"Ge/s": work.elements / measured.median / 1e9, **figures}
        if work.numbers:
            peak = peak or self.card.peaks[work.numbers]
            figures["of register peak"] = work.elements / measured.median / peak
        return figures


def measured_sections(bench: Bench, name: str) -> list[list[Row]]:
    """Measures one of SECTIONS; returns its rows, by section of the tables."""
    torch.compiler.reset()
    warm_up(bench)
    rows = SECTIONS[name](bench)
    named = dict.fromkeys(row.section for row in rows)
    return [[row for row in rows if row.section == section] for section in named]


def warm_up(bench: Bench) -> None:
    """Lets the card reach the clock that it works at."""
    end = time.perf_counter() + WARM_SECONDS
    while time.perf_counter() < end:
        bench.card.steps()
        bench.clock()


def contenders(
    own: Callable[..., Any], others: Callable[..., peers.Peers], sets: Sequence[Set]
) -> dict[str, Contender]:
    """Returns the package's kernel, which is the first, and its peers, on the same inputs."""
    found = {OURS: Contender([partial(own, *one) for one in sets], ours=True)}
    made = [others(*one) for one in sets]
    for name, first in made[0].items():
        found[name] = Contender([one[name].call for one in made], captured=first.captured)
    return found


def forward(bench: Bench) -> list[Row]:
    """Measures the forward beside its peers and the register peak."""
    cases = [(BATCH, WIDTH, WIDTH), (32, WIDTH, WIDTH), (BATCH, 1024, 1024)]
    if not bench.quick:
        cases += [(256, WIDTH, WIDTH), (128, WIDTH, WIDTH), (64, WIDTH, WIDTH), (BATCH, 784, WIDTH)]
    rows = []
    for batch, inputs, outputs in sorted(cases, key=lambda case: (-case[1] * case[2], -case[0])):
        torch.compiler.reset()
        size, case = bytes_of(batch, inputs, outputs), case_of(batch, inputs, outputs)
        sets = bench.sets(size, partial(pair, bench.device, batch, inputs, outputs))
        running = contenders(linf_dist, peers.linf_forward, sets)
        compare(sets[0], running)
        running[PEAK] = Contender([bench.card.steps], captured=False)
        work = Work(("float32",), batch * inputs * outputs, size, "float32")
        rows += bench.rows("Forward, float32", case, running, work)
    return rows


def few_rows(bench: Bench) -> list[Row]:
    """Measures small batches, which are bound by reading the weights."""
    rows = []
    for dtype, batches in ((torch.float32, (1, 4, 8)), (torch.float16, (1, 8))):
        for batch in batches:
            torch.compiler.reset()
            size = bytes_of(batch, WIDTH, WIDTH, dtype.itemsize)
            sets = bench.sets(size, partial(pair, bench.device, batch, WIDTH, WIDTH, dtype))
            others = peers.linf_forward if dtype == torch.float32 else no_peers
            name = str(dtype).removeprefix("torch.")
            work = Work((name,), batch * WIDTH * WIDTH, size)
            case = f"{case_of(batch, WIDTH, WIDTH)}, {name}"
            for row in bench.rows("Few rows", case, contenders(linf_dist, others, sets), work):
                row.figures["of copy bandwidth"] = size / row.measured.median / bench.card.copied
                row.figures["of read bandwidth"] = size / row.measured.median / bench.card.read
                rows.append(row)
    return rows


def low_precision(bench: Bench) -> list[Row]:
    """Measures the forward on every type of numbers."""
    rows: list[Row] = []
    for dtype in (torch.float32, torch.float16, torch.int16, torch.int8, torch.uint8):
        name = str(dtype).removeprefix("torch.")
        size = bytes_of(BATCH, WIDTH, WIDTH, dtype.itemsize)
        sets = bench.sets(size, partial(pair, bench.device, BATCH, WIDTH, WIDTH, dtype))
        numbers = "float32" if name in {"float32", "int16"} else "float16"
        work = Work((name,), BATCH * WIDTH * WIDTH, size, numbers)
        running = {name: Contender([partial(linf_dist, *one) for one in sets], ours=True)}
        (row,) = bench.rows("Types of numbers", case_of(BATCH, WIDTH, WIDTH), running, work)
        del row.figures["times linfdeploy"]
        speed = rows[0].measured.median / row.measured.median if rows else 1.0
        rows.append(
            Row(row.section, row.case, name, row.measured, {**row.figures, "times float32's speed": speed})
        )
    return rows


def passes(bench: Bench) -> list[Row]:
    """Measures the forward with argmax, the gradient that is scattered along it, and bounds."""
    rows = []
    for size in (WIDTH,) if bench.quick else (WIDTH, 1024):
        torch.compiler.reset()
        case, bytes_, elements = case_of(BATCH, size, size), bytes_of(BATCH, size, size), BATCH * size * size
        results = BATCH * size
        sets = bench.sets(bytes_, partial(pair, bench.device, BATCH, size, size))
        work = Work(("argmax",), elements, bytes_ + 8 * results)
        rows += bench.rows("Argmax", case, contenders(linf_dist_argmax, peers.argmax, sets), work)
        # The index and the gradient are read for either gradient, and the operands where the maxima are.
        work = Work(("scatter",), 0, 2 * (8 + 4 + 8) * results + 4 * (results + size * size))
        rows += bench.rows("Backward scatter", case, scatters(sets), work)
        boxes = [(x - 0.1, x + 0.1, w) for x, w in sets]
        work = Work(("bounds",), elements, bytes_ + 8 * results)
        rows += bench.rows("Bounds", case, contenders(linf_dist_bounds, peers.bounds, boxes), work)
    return rows


def scatters(sets: Sequence[Set]) -> dict[str, Contender]:
    """Returns the gradients of random values along the maxima."""
    grads = [torch.randn(len(x), len(w), device=x.device) for x, w in sets]
    found = [(x, w, linf_dist_argmax(x, w)[1], grad) for (x, w), grad in zip(sets, grads, strict=True)]
    calls = {OURS: Contender([partial(scatter, *one) for one in found], ours=True)}
    made = [peers.scatter(x, w, grad) for x, w, _, grad in found]
    for name in made[0]:
        calls[name] = Contender([one[name].call for one in made], captured=False)
    return calls


def convolution(bench: Bench) -> list[Row]:
    """Measures the convolution beside what unfolds the images first."""
    torch.compiler.reset()
    images, channels, *places = IMAGES
    results, inputs = images * places[0] * places[1], 9 * channels
    size = 4 * (results * channels + FILTERS * inputs + results * FILTERS)

    def make() -> Set:
        filters = torch.randn(FILTERS, channels, 3, 3, device=bench.device)
        return torch.randn(IMAGES, device=bench.device), filters

    running = contenders(
        partial(linf_dist_conv, padding=1), partial(peers.convolution, padding=1), bench.sets(size, make)
    )
    case = f"{images} images of {channels} x {places[0]} x {places[1]}, {FILTERS} filters of 3 x 3"
    work = Work(("conv",), results * inputs * FILTERS, size, "float32")
    return bench.rows("Convolution", case, running, work)


def lp(bench: Bench) -> list[Row]:
    """Measures the l_p distance, forward and with both gradients."""
    rows = []
    for p in (8.0, 20.0, 1000.0) if bench.quick else POWERS:
        torch.compiler.reset()
        kernel, elements, size = kernel_of(p), BATCH * WIDTH * WIDTH, bytes_of(BATCH, WIDTH, WIDTH)
        case = f"{case_of(BATCH, WIDTH, WIDTH)}, p = {p:g}"
        # Arithmetic takes far longer than reading would: one set will do.
        sets = [pair(bench.device, BATCH, WIDTH, WIDTH)]
        running = contenders(partial(lp_forward, p=p), partial(peers.lp_forward, p=p), sets)
        rows += bench.rows("l_p forward", case, running, Work((kernel,), elements, size))
        graded = [(x, w, torch.randn(len(x), len(w), device=x.device)) for x, w in sets]
        work = Work((kernel, f"{kernel} backward"), elements, 2 * size)
        running = contenders(partial(gradients, p=p), partial(peers.lp_gradients, p=p), graded)
        rows += bench.rows("l_p forward and both gradients", case, running, work)
        rows += bench.rows(
            "l_p gradients alone", case, backward_alone(graded, p), Work(work.kernels[1:], elements, 2 * size)
        )
    return rows


def backward_alone(graded: Sequence[Set], p: float) -> dict[str, Contender]:
    """Returns the package's gradients, given what the forward pass keeps."""
    calls = []
    for x, w, grad in graded:
        _, *kept = lp_forward(x, w, p)
        calls.append(partial(lp_backward, x, w, p, (kept[0], kept[1]), grad))
    return {OURS: Contender(calls, ours=True)}


def iterations(bench: Bench) -> list[Row]:
    """Measures whole training iterations: at p = 8, on average over the schedule, and at p = inf."""
    nets: dict[str, tuple[training.Iteration, bool]] = {}
    own = training.iteration(bench.device)
    nets[f"{OURS}, graph"], nets[f"{OURS}, eager"] = (own, True), (own, False)
    for name in (peers.SECOND, peers.FIRST):
        if distance := training.reference_distance(name):
            nets[f"{name}, eager"] = training.iteration(bench.device, distance), False
    schedule = training.powers_between(3 if bench.quick else 8)
    cases = {"p = 8": [8.0], "8 < p < 1000, mean": schedule, "p = inf": [float("inf")]}
    return [row for case, powers in cases.items() for row in iteration_rows(bench, case, powers, nets)]


def iteration_rows(
    bench: Bench, case: str, powers: list[float], nets: Mapping[str, tuple[training.Iteration, bool]]
) -> list[Row]:
    """Measures the mean iteration over some norms."""
    measured = []
    for p in powers:
        running = {
            name: Contender([partial(one.step_at, p)], captured=graph, ours=name.startswith(OURS))
            for name, (one, graph) in nets.items()
        }
        measured.append(timed(running, bench.clock, bench.effort))
    elements = training.BATCH * training.WEIGHTS
    floor = statistics.mean(iteration_floor(bench, p) for p in powers)
    rows: list[Row] = []
    for name in (name for name in measured[0] if all(name in one for one in measured)):
        mean = mean_of([one[name] for one in measured])
        base = rows[0].measured.median if rows else mean.median
        figures = {"Ge/s": elements / mean.median / 1e9, "of floor": floor / mean.median}
        rows.append(
            Row("Training iteration", case, name, mean, {**figures, "times linfdeploy": mean.median / base})
        )
    return rows


def iteration_floor(bench: Bench, p: float) -> float:
    """Returns the least seconds of an iteration: the kernels' arithmetic, and the optimizer's bytes."""
    kernels = ("float32", "argmax") if p == float("inf") else (kernel_of(p), f"{kernel_of(p)} backward")
    arithmetic = Work(kernels, training.BATCH * training.WEIGHTS, 0)
    return bench.floor(arithmetic) + bench.floor(Work(("Adam",), 0, ADAM_BYTES * training.WEIGHTS))


def mean_of(measured: Sequence[Measurement]) -> Measurement:
    """Returns the mean of several calls, turn by turn."""
    return Measurement(tuple(map(statistics.mean, zip(*(one.seconds for one in measured), strict=False))))


def compare(inputs: Set, running: Mapping[str, Contender]) -> None:
    """Tells of peers whose results are not the kernel's to the bit; they are measured all the same."""
    own = linf_dist(*inputs)
    for name in (name for name in (peers.CDIST, peers.COMPILED) if name in running):
        try:
            found = running[name].calls[0]()
        # What fails is left out, with a line, when it is measured.
        except Exception:
            continue
        if not torch.equal(torch.cat(found) if isinstance(found, list) else found, own):
            print(f"{name} gives another result")


def pair(
    device: torch.device, batch: int, inputs: int, outputs: int, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns random x (N, I) and w (O, I): normal floats, or integers of the whole range."""
    if dtype.is_floating_point:
        x, w = (torch.randn(rows, inputs, device=device).to(dtype) for rows in (batch, outputs))
        return x, w
    first, last = torch.iinfo(dtype).min, torch.iinfo(dtype).max
    x, w = (
        torch.randint(first, last + 1, (rows, inputs), dtype=dtype, device=device) for rows in (batch, outputs)
    )
    return x, w


def no_peers(*_: torch.Tensor) -> peers.Peers:
    """Returns no peers."""
    return {}


def bytes_of(batch: int, inputs: int, outputs: int, number: int = 4) -> int:
    """Returns the bytes of x, w and y."""
    return number * (batch * inputs + outputs * inputs + batch * outputs)


def case_of(batch: int, inputs: int, outputs: int) -> str:
    """Returns the sizes in words."""
    return f"{inputs if inputs == outputs else f'{inputs} to {outputs}'}, B = {batch}"


SECTIONS: dict[str, Callable[[Bench], list[Row]]] = {
    "forward": forward,
    "few-rows": few_rows,
    "low-precision": low_precision,
    "passes": passes,
    "convolution": convolution,
    "lp": lp,
    "training": iterations,
}
