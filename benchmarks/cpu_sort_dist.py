# SPDX-License-Identifier: Apache-2.0
"""Measures sorted distances on the CPU: `python benchmarks/cpu_sort_dist.py [--quick] [-o FOLDER]`.

Ten terms, as SortNet's nets have; beside the l_inf distance of the same rows and `torch.topk` of their
differences, in turns, one thread, processor time. Prints tables and writes `cpu_sort_dist.{json,md}` to the
folder, `benchmarks/results` unless told otherwise. Bits are compared with the definition's before any is timed.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

# Threads that wait for work must not take the time of those that are measured; torch reads this when it is loaded.
os.environ["OMP_WAIT_POLICY"] = "passive"

import numpy as np
import torch
from tables import Row, markdown, plain
from timing import CPU, Effort, interleave, surroundings, threads

from linfdeploy.files import write_bytes
from linfdeploy.kernels import _cpu, linf_dist, linf_dist_bounds, sort_dist, sort_dist_bounds

RESULTS = Path(__file__).parent / "results"
QUICK = Effort(rounds=5, least_seconds=0.03, budget_seconds=4.0)
SECTION = "Sorted distances of ten terms, one thread"
CASES = ((1, 1024), (32, 256), (32, 512), (32, 1024), (32, 5120))
KEEP, TERMS = 0.7, 10
SEED = 7

Array = Any


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="shorter turns, and fewer of them")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS, help="the folder for the results")
    options = parser.parse_args()
    effort = QUICK if options.quick else Effort()
    with threads(1):
        rows = [row for batch, size in CASES for row in measured(batch, size, effort)]
    machine = {**surroundings("linfdeploy", "numpy", "torch"), "isa": _cpu.active(), "quick": options.quick}
    result = {"machine": machine, "rows": [row.to_json() for row in rows]}
    about = ", ".join(f"{name} {value}" for name, value in machine.items())
    write_bytes(options.output / "cpu_sort_dist.json", (json.dumps(result, indent=2) + "\n").encode())
    text = f"# Sorted distances on the CPU\n\n{about}. Times are medians of turns.\n\n{markdown(rows)}"
    write_bytes(options.output / "cpu_sort_dist.md", text.encode())


def measured(batch: int, size: int, effort: Effort) -> list[Row]:
    """Measures rows (batch, size) against (outputs, size), of which there are at most 1024."""
    generator = np.random.default_rng(SEED)
    x, w = (generator.standard_normal((rows, size), np.float32) for rows in (batch, min(size, 1024)))
    series = KEEP * (1 - KEEP) ** np.arange(TERMS)
    c = (series / series.sum()).astype(np.float32)
    check(sort_dist(x, w, c), x, w, c)
    box = x - np.float32(0.1), x + np.float32(0.1)
    calls: dict[str, Callable[[], Any]] = {
        "linf_dist": partial(linf_dist, x, w),
        "sort_dist": partial(sort_dist, x, w, c),
        "linf_dist_bounds": partial(linf_dist_bounds, *box, w),
        "sort_dist_bounds": partial(sort_dist_bounds, *box, w, c),
        "torch.topk": partial(by_topk, *map(torch.from_numpy, (x, w, c))),
    }
    found = interleave(calls, CPU, effort)
    base = found["linf_dist"].median
    rows = [
        Row(SECTION, f"{size}, B = {batch}", name, one, {"times linf_dist": one.median / base})
        for name, one in found.items()
    ]
    print(plain(rows), flush=True)
    return rows


def by_topk(x: torch.Tensor, w: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """Returns the sorted distances as torch alone gives them, a row of x at a time."""
    return torch.stack([(row - w).abs().topk(len(c), 1).values @ c for row in x])


def check(y: Array, x: Array, w: Array, c: Array) -> None:
    """Stops the benchmark where rows have other bits than the definition."""
    for row in range(0, len(x), max(len(x) // 4, 1)):
        falling = -np.sort(-np.abs(x[row] - w), axis=1)
        expected = c[0] * falling[:, 0]
        for k in range(1, len(c)):
            expected = expected + c[k] * falling[:, k]
        if not np.array_equal(y[row].view(np.int32), expected.view(np.int32)):
            raise SystemExit("sort_dist gives another result than the definition: nothing is measured")


if __name__ == "__main__":
    main()
