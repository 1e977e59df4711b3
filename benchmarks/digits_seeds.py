# SPDX-License-Identifier: Apache-2.0
"""Trains, deploys and audits the digits recipe with five seeds: `python benchmarks/digits_seeds.py`.

Prints a table and writes it, with the machine it was measured on, to `benchmarks/results/digits-0.1.json`. The
certified shares are those of the deployed exact engine; `float64_bits` is the share of its logits that float64
arithmetic on the same weights gives to the bit.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from timing import surroundings

from linfdeploy.cli.steps import VerifyRequest, build, export, verify
from linfdeploy.engines.build import open_engine
from linfdeploy.files import write_bytes
from linfdeploy.onnx.pixel_net import PixelNet
from linfdeploy.training.data import load_dataset
from linfdeploy.training.loop import train
from linfdeploy.training.recipe import Recipe, load_recipe

RECIPE = "digits-0.1"
EPS = "0.1"
SEEDS = range(5)
FIGURES = ("clean", "exact", "interval", "delta", "attacked", "float64_bits", "seconds", "cpu_seconds")
RESULTS = Path(__file__).parent / "results" / f"{RECIPE}.json"


def main() -> None:
    """Measures, prints and writes."""
    print("seed  " + "  ".join(f"{figure:>12}" for figure in FIGURES))
    runs = []
    for seed in SEEDS:
        runs.append(measure(load_recipe(RECIPE, [f"seed={seed}"])))
        print_row(str(seed), runs[-1])
    mean = {figure: statistics.mean(run[figure] for run in runs) for figure in FIGURES}
    deviation = {figure: statistics.stdev(run[figure] for run in runs) for figure in FIGURES}
    print_row("mean", mean)
    print_row("sd", deviation)
    result = {
        **surroundings("torch"),
        "recipe": load_recipe(RECIPE).to_json(),
        "runs": runs,
        "mean": mean,
        "sd": deviation,
    }
    write_bytes(RESULTS, (json.dumps(result, indent=2) + "\n").encode())


def measure(recipe: Recipe) -> dict[str, Any]:
    """Trains, deploys and audits once. The times are of training alone, without importing torch.

    `seconds` is wall time, which depends on what else the machine does; `cpu_seconds` is summed over the threads.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        begin, cpu_begin = time.perf_counter(), time.process_time()
        train(recipe, folder / "ckpt.pt")
        seconds, cpu_seconds = time.perf_counter() - begin, time.process_time() - cpu_begin
        return {
            "seed": recipe.seed,
            **deploy(folder),
            "seconds": round(seconds, 1),
            "cpu_seconds": round(cpu_seconds, 1),
        }


def deploy(folder: Path) -> dict[str, Any]:
    """Exports, builds and audits the folder's checkpoint as the demonstration does."""
    checkpoint, model, engine = folder / "ckpt.pt", folder / "model.onnx", folder / "model.engine"
    export(checkpoint, model, precision="exact", grid=12, form="auto", radius=True, opset=18)
    build(model, engine, None, {})
    request = VerifyRequest(
        engine, checkpoint, "digits", None, EPS, "pixels", "standard", None, 0, None, folder / "report"
    )
    report, _ = verify(request, lambda _: None)
    assert report.attack is not None
    return {
        "verdict": report.verdict,
        "clean": report.accuracy.clean,
        "reference_clean": report.accuracy.reference_clean,
        "exact": report.certified.exact,
        "interval": report.certified.interval,
        "delta": report.certified.delta,
        "reference_interval": report.certified.reference,
        "same_set": report.certified.same_set,
        "attacked": report.attack.robust_accuracy,
        "bit_identical": report.conformance.bit_identical,
        "float64_bits": float64_bits(engine),
    }


def float64_bits(engine: Path) -> float:
    """Returns the share of the engine's logits on the test images that float64 gives to the bit."""
    opened = open_engine(engine)
    images = load_dataset("digits", "test", None).images
    expected = float64_logits(opened.graph.net, images)
    return float((opened.engine.run(images) == expected).mean())


def float64_logits(net: PixelNet, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Evaluates a net in float64, straight from the definition."""
    x = images.reshape(len(images), -1).astype(np.float64)
    for layer in net.layers:
        weight, bias = layer.weight.astype(np.float64), layer.bias.astype(np.float64)
        x = np.stack([np.abs(x - row).max(1) for row in weight], axis=1) + bias
    return -x


def print_row(title: str, run: dict[str, Any]) -> None:
    """Prints one line of the table."""
    figures = [f"{run[name]:>12.1f}" if "seconds" in name else f"{run[name]:>12.2%}" for name in FIGURES]
    print(f"{title:<4}  " + "  ".join(figures), flush=True)


if __name__ == "__main__":
    main()
