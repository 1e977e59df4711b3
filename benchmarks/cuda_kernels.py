# SPDX-License-Identifier: Apache-2.0
"""Checks and measures the CUDA kernels: `python benchmarks/cuda_kernels.py [--quick] [--out FOLDER] [--only ...]`.

Every kernel is checked first; where one is wrong nothing is measured, and the exit code is 1. Without a CUDA card
it is 2. Prints tables and writes `cuda_kernels.{json,md,svg}` to the folder, `benchmarks/results` unless told
otherwise. All in one process: the card's ceilings (cuda_ceilings.py), the floors that follow from them
(cuda_floors.py), the kernels (cuda_sections.py), and their peers in the same turns (cuda_peers.py); those that are
not installed or fail are left out, with a line that says so. Times are the card's own, without launches, on inputs
that are not in its cache.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from cuda_ceilings import ceilings_in_words, ceilings_json, measure_card, settings
from cuda_checks import CheckError, check_all
from cuda_sections import PEAK, SECTIONS, Bench, measured_sections
from cuda_timing import EventClock
from tables import Row, bar_chart, markdown, plain
from timing import Effort, surroundings

from linfdeploy.errors import LinfDeployError
from linfdeploy.files import write_bytes

RESULTS = Path(__file__).parent / "results"
FULL = Effort(rounds=15, least_seconds=0.04, budget_seconds=6.0)
QUICK = Effort(rounds=5, least_seconds=0.02, budget_seconds=1.0)
VERSIONS = ("linfdeploy", "torch", "cuda-bindings", "nvidia-cuda-nvrtc")


def main() -> None:
    """Checks, measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="shorter turns, fewer of them, and fewer cases")
    parser.add_argument("-o", "--out", type=Path, default=RESULTS, help="the folder for the results")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="sections to measure")
    parser.add_argument("--seed", type=int, default=None, help="of the numbers of the checks; fresh if left out")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        stop(
            f"torch {torch.__version__} finds no CUDA card; expected one of compute capability 7.5 or later: "
            "run this where nvidia-smi shows a card, with a build of torch for CUDA",
            2,
        )
    try:
        run(options, torch.device("cuda", torch.cuda.current_device()))
    except CheckError as error:
        stop(f"a check failed, so nothing is measured: {error}", 1)
    except LinfDeployError as error:
        stop(str(error), error.exit_code)


def run(options: argparse.Namespace, device: torch.device) -> None:
    """Does what the options ask for on a card."""
    machine = {**machine_of(device), "quick": options.quick}
    print(", ".join(f"{name} {value}" for name, value in machine.items()), flush=True)
    prepare(device)
    checked = check(device, options.seed)
    effort = QUICK if options.quick else FULL
    ceilings = measure_card(effort, device)
    print(ceilings_in_words(ceilings), flush=True)
    bench = Bench(ceilings, device, EventClock(), effort, options.quick)
    machine |= {**ceilings_json(ceilings), "checked": checked}
    sections: list[list[Row]] = []
    for name in options.only:
        sections += [show(rows) for rows in measured_sections(bench, name)]
        # What was measured is kept, whatever becomes of the rest.
        write(options.out, machine, ceilings_in_words(ceilings), sections)


def stop(text: str, code: int) -> None:
    """Ends with a line about the reason."""
    print(f"cuda_kernels: {text}", file=sys.stderr)
    raise SystemExit(code)


def machine_of(device: torch.device) -> dict[str, Any]:
    """Returns when, on what and with which versions is measured."""
    found = {**surroundings(*VERSIONS), "cuda": torch.version.cuda}
    return {**found, "card": torch.cuda.get_device_name(device), **settings(device)}


def prepare(device: torch.device) -> None:
    """Compiles and loads all kernels."""
    from linfdeploy.kernels.torch import cuda

    begin = time.perf_counter()
    cuda.prepare(device)
    print(
        f"All kernels compiled, or read from disk, and loaded in {time.perf_counter() - begin:.1f} s.", flush=True
    )


def check(device: torch.device, seed: int | None) -> list[str]:
    """Checks all kernels, and tells what was checked."""
    seed = torch.seed() % 2**32 if seed is None else seed
    print(f"Checks with --seed {seed}:", flush=True)
    lines = check_all(device, seed)
    print("\n".join(lines), flush=True)
    return lines


def show(rows: list[Row]) -> list[Row]:
    """Prints a section."""
    print(plain(rows), flush=True)
    return rows


def write(folder: Path, machine: dict[str, Any], words: str, sections: Sequence[list[Row]]) -> None:
    """Writes the JSON file, the Markdown tables and the chart of the first section with a rate."""
    result = {"machine": machine, "rows": [row.to_json() for rows in sections for row in rows]}
    told = ("date", "card", "driver", "cuda", "max_clock_mhz", "memory_clock_mhz", "power_limit_w", *VERSIONS)
    named = ", ".join(f"{name} {machine[name]}" for name in told if name in machine)
    about = f"# CUDA kernels\n\n{named}. {words} Times are medians; Ge/s are 1e9 (b, o, i) triples a second.\n"
    checked = "\n".join(["Checked before:\n", *(f"* {line}" for line in machine["checked"]), ""])
    peak = machine["register_peak_triples_per_second"] / 1e9
    drawn = next((rows for rows in sections if "Ge/s" in rows[0].figures), None)
    files = {
        "json": json.dumps(result, indent=2) + "\n",
        "md": "\n".join([about, checked, *map(markdown, sections)]),
    }
    if drawn:
        files["svg"] = bar_chart(drawn, "Ge/s", (peak, PEAK))
    for suffix, text in files.items():
        write_bytes(folder / f"cuda_kernels.{suffix}", text.encode())


if __name__ == "__main__":
    main()
