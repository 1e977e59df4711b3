# SPDX-License-Identifier: Apache-2.0
"""Trains the digits recipe with five seeds: `python benchmarks/digits_seeds.py`.

Prints a table and writes it, with the machine it was measured on, to `benchmarks/results/digits-0.1.json`.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from linfdeploy.files import write_bytes
from linfdeploy.training.loop import train
from linfdeploy.training.recipe import Recipe, load_recipe

RECIPE = "digits-0.1"
SEEDS = range(5)
FIGURES = ("clean", "certified_interval", "certified_margin", "seconds", "cpu_seconds")
RESULTS = Path(__file__).parent / "results" / f"{RECIPE}.json"


def main() -> None:
    """Measures, prints and writes."""
    print("seed  " + "  ".join(f"{figure:>18}" for figure in FIGURES))
    runs = []
    for seed in SEEDS:
        runs.append(measure(load_recipe(RECIPE, [f"seed={seed}"])))
        print_row(str(seed), runs[-1])
    mean = {figure: statistics.mean(run[figure] for run in runs) for figure in FIGURES}
    deviation = {figure: statistics.stdev(run[figure] for run in runs) for figure in FIGURES}
    print_row("mean", mean)
    print_row("sd", deviation)
    result = {
        **surroundings(),
        "recipe": load_recipe(RECIPE).to_json(),
        "runs": runs,
        "mean": mean,
        "sd": deviation,
    }
    write_bytes(RESULTS, (json.dumps(result, indent=2) + "\n").encode())


def measure(recipe: Recipe) -> dict[str, Any]:
    """Trains once; the times include reading the data and writing the checkpoint, but not importing torch.

    `seconds` is wall time, which depends on what else the machine does; `cpu_seconds` is summed over the threads.
    """
    with tempfile.TemporaryDirectory() as folder:
        begin, cpu_begin = time.perf_counter(), time.process_time()
        found = train(recipe, Path(folder) / "ckpt.pt")
        seconds, cpu_seconds = time.perf_counter() - begin, time.process_time() - cpu_begin
    return {
        "seed": recipe.seed,
        "clean": found.clean,
        "certified_interval": found.certified,
        "certified_margin": found.certified_margin,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu_seconds, 1),
    }


def print_row(title: str, run: dict[str, Any]) -> None:
    """Prints one line of the table."""
    figures = [f"{run[name]:>18.1f}" if "seconds" in name else f"{run[name]:>18.2%}" for name in FIGURES]
    print(f"{title:<4}  " + "  ".join(figures), flush=True)


def surroundings() -> dict[str, Any]:
    """Returns when and on what was measured."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "cpu": cpu_model(),
        "processors": os.cpu_count(),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }


def cpu_model() -> str:
    """Returns the processor's name as Linux gives it, or else its architecture."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    main()
