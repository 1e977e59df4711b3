# SPDX-License-Identifier: Apache-2.0
"""Measures the CPU kernels beside their peers: `python benchmarks/cpu_kernels.py [--quick] [-o FOLDER]`.

Prints tables and writes `cpu_kernels.{json,md,svg}` to the folder, `benchmarks/results` unless told otherwise. One
thread's figures are CPU time, those of two threads wall time; a triple is one (b, o, i). Every contender of l_inf
is checked to the bit before it is measured; for l_p the errors against float64 stand beside the times.

Peers that are not installed are left out: scipy, and auto_LiRPA, which may also be named by PYTHONPATH.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

# Threads that wait for work must not take the time of those that are measured; torch reads this when it is loaded.
os.environ["OMP_WAIT_POLICY"] = "passive"

import numpy as np
import peers
import torch
from ceilings import Ceilings, measure_ceilings
from tables import Row, bar_chart, markdown, plain
from timing import CPU, PROCESS, WALL, Effort, Measurement, interleave, surroundings, threads

from linfdeploy.errors import KernelError
from linfdeploy.files import write_bytes
from linfdeploy.kernels import _cpu, linf_dist, linf_dist_argmax, linf_dist_bounds

RESULTS = Path(__file__).parent / "results"
QUICK = Effort(rounds=5, least_seconds=0.03, budget_seconds=4.0)
VERSIONS = ("linfdeploy", "numpy", "torch", "scipy", "auto_LiRPA")
FORWARD, SCALING, BOUNDS, LP, LOW, PASSES = (
    "Forward, one thread",
    "Forward, two threads, wall time",
    "Bounds, one thread",
    "l_p forward and both gradients, one thread",
    "Low precision, one thread",
    "Argmax and backward, one thread",
)
PEAK = "register peak"
POWERS = (2.0, 8.0, 7.3, 100.0, 1000.0)
INTEGERS = ("int16", "uint8", "int8")
SEED = 7

Array = Any


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="shorter turns, and fewer of them")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS, help="the folder for the results")
    options = parser.parse_args()
    effort = QUICK if options.quick else Effort()
    machine = {**surroundings(*VERSIONS), "isa": _cpu.active(), "quick": options.quick}
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    with threads(1):
        ceilings = measure_ceilings(_cpu.active(), effort)
        machine |= ceilings_json(ceilings)
        print(in_words(ceilings), flush=True)
        sections = [section(ceilings, effort) for section in (forward, scaling, bounds, lp, low_precision, passes)]
    machine |= surroundings(*VERSIONS)  # now with those that were found on the way
    write(options.output, machine, in_words(ceilings), [rows for rows in sections if rows])


def forward(ceilings: Ceilings, effort: Effort) -> list[Row]:
    """Measures the forward beside its peers and the register peak, in turns; shares are of fastest turns."""
    rows = []
    for size in (1024, 5120):
        for batch in (1, 32, 256):
            peers.fresh_compiler()
            contenders = peers.linf_forward(*pair(batch, size))
            check_forward(contenders, *pair(batch, size))
            measured = interleave({**contenders, PEAK: ceilings.steps}, CPU, effort)
            peak = ceilings.step_count / measured[PEAK].least
            for name in contenders:
                figures = _forward_figures(measured, name, batch, size)
                figures["of register peak"] = batch * size * size / measured[name].least / peak
                if batch == 1 and size == 5120:
                    read = 4 * size * size / measured[name].least
                    figures["of read bandwidth"] = read / ceilings.bandwidth
                rows.append(Row(FORWARD, f"{size}, B = {batch}", name, measured[name], figures))
    return show(rows)


def scaling(_: Ceilings, effort: Effort) -> list[Row]:
    """Measures what a second thread is worth; where fewer processors were used than asked for, others had them."""
    x, w = pair(256, 1024)
    peers.fresh_compiler()
    found = peers.linf_forward(x, w)
    chosen = {name: found[name] for name in (peers.OURS, "torch.compile")}
    calls = {
        f"{name}, {count} thread{'s' * (count > 1)}": partial(_with_threads, count, call)
        for name, call in chosen.items()
        for count in (1, 2)
    }
    measured, busy = (interleave(calls, clock, effort) for clock in (WALL, PROCESS))
    rows = []
    for name in calls:
        alone = measured[f"{name.partition(',')[0]}, 1 thread"].median
        figures = {
            "Ge/s": _rate(measured[name], 256, 1024),
            "times one thread": alone / measured[name].median,
            "processors used": busy[name].median / measured[name].median,
        }
        rows.append(Row(SCALING, "1024, B = 256", name, measured[name], figures))
    return show(rows)


def bounds(_: Ceilings, effort: Effort) -> list[Row]:
    """Measures interval bounds beside the forward, and those of a net beside auto_LiRPA."""
    rows = []
    for batch in (32, 256):
        x, w = pair(batch, 1024)
        lower, upper = x - np.float32(0.1), x + np.float32(0.1)
        calls: peers.Contenders = {
            "forward": partial(linf_dist, x, w),
            "bounds": partial(linf_dist_bounds, lower, upper, w),
        }
        rows += relative(BOUNDS, f"1024, B = {batch}", calls, "times forward", effort)
    x, w = pair(32, 1024)
    last = pair(10, 1024)[0]
    contenders = peers.bounds(x - np.float32(0.1), x + np.float32(0.1), [w, last])
    own = contenders[peers.OURS]()
    for name, call in contenders.items():
        for ours, theirs in zip(own, call(), strict=True):
            check_bits(name, np.asarray(theirs), ours)
    rows += relative(BOUNDS, "1024-1024-10, B = 32", contenders, "times linfdeploy", effort)
    return show(rows)


def lp(_: Ceilings, effort: Effort) -> list[Row]:
    """Measures the l_p distance with both gradients, and how far each is from float64."""
    x, w = pair(64, 1024)
    rows = []
    for p in POWERS:
        peers.fresh_compiler()
        contenders = peers.lp_gradients(x, w, p)
        exact = peers.lp_exact(x, w, p)
        measured = interleave(contenders, CPU, effort)
        for name, call in contenders.items():
            figures = {
                "Ge/s": _rate(measured[name], 64, 1024),
                "times linfdeploy": measured[name].median / measured[peers.OURS].median,
                **_errors([value.detach().numpy() for value in call()], exact),
            }
            rows.append(Row(LP, f"1024, B = 64, p = {p:g}", name, measured[name], figures))
    return show(rows)


def low_precision(_: Ceilings, effort: Effort) -> list[Row]:
    """Measures the forward on narrower types, where the kernels take them."""
    x, w = pair(256, 1024)
    calls: peers.Contenders = {"float32": partial(linf_dist, x, w)}
    for name, (narrow_x, narrow_w) in narrow_pairs(256, 1024).items():
        try:
            y = linf_dist(narrow_x, narrow_w)
        except KernelError as error:
            print(f"{name} is left out: {error}")
            continue
        check_narrow(name, y, narrow_x, narrow_w)
        calls[name] = partial(linf_dist, narrow_x, narrow_w)
    measured = interleave(calls, CPU, effort)
    rows = []
    for name in calls:
        rate = _rate(measured[name], 256, 1024)
        figures = {"Ge/s": rate, "times float32's speed": rate / _rate(measured["float32"], 256, 1024)}
        rows.append(Row(LOW, "1024, B = 256", name, measured[name], figures))
    return show(rows)


def passes(_: Ceilings, effort: Effort) -> list[Row]:
    """Measures the forward with argmax and the backward's scatter beside the forward."""
    importlib.import_module("linfdeploy.kernels.torch.linf_dist")  # registers the torch op
    rows = []
    for batch in (32, 256):
        x, w = pair(batch, 1024)
        index = torch.from_numpy(linf_dist_argmax(x, w)[1])
        arguments = torch.from_numpy(x), torch.from_numpy(w), index, torch.ones(index.shape)
        calls: peers.Contenders = {
            "forward": partial(linf_dist, x, w),
            "forward with argmax": partial(linf_dist_argmax, x, w),
            "backward scatter": partial(torch.ops.linfdeploy.linf_dist_backward, *arguments, [True, True]),
        }
        rows += relative(PASSES, f"1024, B = {batch}", calls, "times forward", effort)
    return show(rows)


def relative(
    section: str, case: str, calls: Mapping[str, Callable[[], Any]], column: str, effort: Effort
) -> list[Row]:
    """Measures calls in turns and relates each one's CPU time to the first's."""
    measured = interleave(calls, CPU, effort)
    base = next(iter(measured.values())).median
    return [Row(section, case, name, one, {column: one.median / base}) for name, one in measured.items()]


def pair(batch: int, size: int) -> tuple[Array, Array]:
    """Returns normally distributed x (batch, size) and w (size, size) float32, the same ones each time."""
    generator = np.random.default_rng(SEED)
    return (
        generator.standard_normal((batch, size), np.float32),
        generator.standard_normal((size, size), np.float32),
    )


def narrow_pairs(batch: int, size: int) -> dict[str, tuple[Array, Array]]:
    """Returns x and w for each type that is narrower than float32."""
    generator = np.random.default_rng(SEED)
    found = {name: tuple(_whole_range(generator, name, rows, size) for rows in (batch, size)) for name in INTEGERS}
    x, w = pair(batch, size)
    return {**found, "float16": (x.astype(np.float16), w.astype(np.float16))}


def check_forward(contenders: Mapping[str, Callable[[], Any]], x: Array, w: Array) -> None:
    """Compares our rows with the definition and every other result with ours, to the bit."""
    ours = contenders[peers.OURS]()
    for row in range(0, len(x), max(len(x) // 4, 1)):
        check_bits(peers.OURS, ours[row], np.abs(x[row] - w).max(1))
    for name, call in contenders.items():
        check_bits(name, np.asarray(call()).astype(np.float32), ours)


def check_narrow(name: str, y: Array, x: Array, w: Array) -> None:
    """Compares a few rows with the definition in float32, which holds every difference of these types."""
    for row in range(0, len(x), 64):
        expected = np.abs(x[row].astype(np.float32) - w.astype(np.float32)).max(1)
        kind = np.float16 if name == "float16" else np.float32
        check_bits(name, *(value.astype(kind).astype(np.float32) for value in (y[row], expected)))


def check_bits(name: str, found: Array, expected: Array) -> None:
    """Stops the benchmark where two float32 results differ in any bit."""
    if not np.array_equal(found.view(np.int32), expected.view(np.int32)):
        raise SystemExit(f"{name} gives another result than the definition: nothing is measured")


def show(rows: list[Row]) -> list[Row]:
    """Prints a section."""
    print(plain(rows), flush=True)
    return rows


def ceilings_json(ceilings: Ceilings) -> dict[str, Any]:
    """Returns the ceilings for the JSON file."""
    return {
        "register_peak_triples_per_second": float(f"{ceilings.peak:.4g}"),
        "register_peak_accumulators": ceilings.unrolling,
        "read_bytes_per_second": float(f"{ceilings.bandwidth:.4g}"),
        "read_bytes_per_second_two_threads": float(f"{ceilings.bandwidth_two:.4g}"),
    }


def in_words(ceilings: Ceilings) -> str:
    """Returns the ceilings as a sentence."""
    return (
        f"On registers alone one {ceilings.isa} thread does {ceilings.peak / 1e9:.1f} Ge/s "
        f"({ceilings.unrolling} accumulators); it reads {ceilings.bandwidth / 1e9:.1f} GB/s from memory, "
        f"and two threads together {ceilings.bandwidth_two / 1e9:.1f} GB/s."
    )


def write(folder: Path, machine: dict[str, Any], words: str, sections: Sequence[list[Row]]) -> None:
    """Writes the JSON file, the Markdown tables and the chart."""
    result = {"machine": machine, "rows": [row.to_json() for rows in sections for row in rows]}
    named = ", ".join(
        f"{name} {machine[name]}" for name in ("date", "cpu", "processors", *VERSIONS) if name in machine
    )
    about = (
        f"# CPU kernels\n\n{named}. {words} Times are medians of turns; Ge/s are 1e9 (b, o, i) triples a second.\n"
    )
    peak = machine["register_peak_triples_per_second"] / 1e9
    files = {
        "json": json.dumps(result, indent=2) + "\n",
        "md": "\n".join([about, *map(markdown, sections)]),
        "svg": bar_chart(sections[0], "Ge/s", (peak, PEAK)),
    }
    for suffix, text in files.items():
        write_bytes(folder / f"cpu_kernels.{suffix}", text.encode())


def _forward_figures(measured: Mapping[str, Measurement], name: str, batch: int, size: int) -> dict[str, float]:
    return {
        "Ge/s": _rate(measured[name], batch, size),
        "times linfdeploy": measured[name].median / measured[peers.OURS].median,
    }


def _rate(measured: Measurement, batch: int, size: int) -> float:
    return float(batch * size * size / measured.median / 1e9)


def _whole_range(generator: np.random.Generator, dtype: str, rows: int, columns: int) -> Array:
    limits = np.iinfo(dtype)
    return generator.integers(limits.min, limits.max, (rows, columns), dtype, endpoint=True)


def _with_threads(count: int, call: Callable[[], Any]) -> Any:
    with threads(count):
        return call()


def _errors(found: Sequence[Array], exact: Sequence[Array]) -> dict[str, float]:
    """Returns the largest relative error of y, and that of the gradients relative to their largest entry."""
    forward_error = np.max(np.abs(found[0] - exact[0]) / exact[0])
    gradients = zip(found[1:], exact[1:], strict=True)
    return {
        "forward error": float(forward_error),
        "gradient error": float(max(np.abs(g - e).max() / np.abs(e).max() for g, e in gradients)),
    }


if __name__ == "__main__":
    main()
