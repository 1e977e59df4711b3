# SPDX-License-Identifier: Apache-2.0
"""Trains, deploys and audits a recipe with several seeds: `python benchmarks/recipe_seeds.py digits-0.1`.

Prints a table and writes it, with the machine it was measured on, to `benchmarks/results/RECIPE.json`, and the
curves of the last run beside it. The certified shares are those of the deployed exact engine; `float64_bits` is
the share of its logits that float64 arithmetic on the same weights gives to the bit.

`--checkpoint ckpt.pt ...` takes runs that `linfdeploy train` has finished, and the last one's curves; their
seconds are then those of their epochs, and those of the processor are not known.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from timing import surroundings

from linfdeploy.cli.progress import Notes
from linfdeploy.cli.steps import VerifyRequest, build, export, verify
from linfdeploy.engines.build import open_engine
from linfdeploy.files import write_bytes
from linfdeploy.nets.checkpoint import load_checkpoint
from linfdeploy.onnx.pixel_net import PixelNet
from linfdeploy.ranks import ALONE
from linfdeploy.training.data import load_dataset
from linfdeploy.training.loop import train
from linfdeploy.training.recipe import Recipe, load_recipe

FIGURES = ("clean", "exact", "interval", "delta", "attacked", "float64_bits", "seconds", "cpu_seconds")
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Measures, prints and writes."""
    options = parsed()
    print("seed  " + "  ".join(f"{figure:>12}" for figure in FIGURES))
    runs = []
    for seed, checkpoint in enumerate(options.checkpoint or [None] * options.seeds):
        runs.append(measure(load_recipe(options.recipe, [f"seed={seed}"]), checkpoint, options))
        print_row(str(runs[-1]["seed"]), runs[-1])
    result = {**surroundings("torch"), "recipe": load_recipe(options.recipe).to_json(), "runs": runs}
    if len(runs) > 1:
        for name, of in (("mean", statistics.mean), ("sd", statistics.stdev)):
            known = [figure for figure in FIGURES if all(run[figure] is not None for run in runs)]
            result[name] = dict.fromkeys(FIGURES) | {figure: of(run[figure] for run in runs) for figure in known}
            print_row(name, result[name])
    write_bytes(RESULTS / f"{options.recipe}.json", (json.dumps(result, indent=2) + "\n").encode())


def parsed() -> argparse.Namespace:
    """Returns the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--eps", help="the radius of the audit; that of the recipe without it")
    parser.add_argument("--attack", choices=["none", "fast", "standard"], default="standard")
    parser.add_argument("--samples", type=int, help="of the test images; all without it")
    parser.add_argument("--checkpoint", type=Path, nargs="+", default=[])
    return parser.parse_args()


def measure(recipe: Recipe, finished: Path | None, options: argparse.Namespace) -> dict[str, Any]:
    """Trains, unless there is a finished checkpoint, deploys and audits once.

    The times are of training alone, without importing torch. `seconds` is wall time, which depends on what else
    the machine does; `cpu_seconds` is summed over the threads.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = finished or folder / "ckpt.pt"
        times = {} if finished else trained(recipe, checkpoint, options.data_root)
        curve = curve_of(checkpoint)
        write_bytes(RESULTS / f"{recipe.name}.png", checkpoint.with_suffix(".png").read_bytes())
        return {
            "seed": load_checkpoint(checkpoint).provenance["seed"],
            **deploy(checkpoint, folder, recipe, options),
            "seconds": round(sum(epoch["seconds"] for epoch in curve), 1),
            "cpu_seconds": None,
            **times,
            "curve": [epoch for epoch in curve if epoch["certified"] is not None],
        }


def trained(recipe: Recipe, checkpoint: Path, data_root: Path | None) -> dict[str, float]:
    """Trains a net; returns the times."""
    begin, cpu_begin = time.perf_counter(), time.process_time()
    train(recipe, checkpoint, data_root=data_root)
    ends = time.perf_counter() - begin, time.process_time() - cpu_begin
    return {"seconds": round(ends[0], 1), "cpu_seconds": round(ends[1], 1)}


def curve_of(checkpoint: Path) -> Sequence[dict[str, Any]]:
    """Returns what each epoch of a run came to."""
    return [json.loads(line) for line in checkpoint.with_suffix(".log.jsonl").read_text().splitlines()]


def deploy(checkpoint: Path, folder: Path, recipe: Recipe, options: argparse.Namespace) -> dict[str, Any]:
    """Exports, builds and audits a checkpoint as the demonstration does."""
    model, engine = folder / "model.onnx", folder / "model.engine"
    export(checkpoint, model, precision="exact", grid=None, form="auto", radius=True, opset=18)
    build(model, engine, None, {})
    eps = options.eps or str(recipe.eps_test)
    data = recipe.dataset, options.data_root
    report, _ = verify(
        VerifyRequest(
            engine, checkpoint, *data, eps, "pixels", options.attack, options.samples, 0, None, folder / "report"
        ),
        Notes(silent=True),
        ALONE,
    )
    return {
        "verdict": report.verdict,
        "clean": report.accuracy.clean,
        "reference_clean": report.accuracy.reference_clean,
        "exact": report.certified.exact,
        "interval": report.certified.interval,
        "delta": report.certified.delta,
        "reference_interval": report.certified.reference,
        "same_set": report.certified.same_set,
        "attacked": None if report.attack is None else report.attack.robust_accuracy,
        "bit_identical": report.conformance.bit_identical,
        "samples": report.samples,
        "float64_bits": float64_bits(engine, *data),
    }


def float64_bits(engine: Path, name: str, root: Path | None) -> float:
    """Returns the share of the engine's logits on the first test images that float64 gives to the bit."""
    opened = open_engine(engine)
    images = load_dataset(name, "test", root).images[:500]
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
    formats = {name: "{:>12.1f}" if "seconds" in name else "{:>12.2%}" for name in FIGURES}
    figures = [f"{'-':>12}" if run[name] is None else formats[name].format(run[name]) for name in FIGURES]
    print(f"{title:<4}  " + "  ".join(figures), flush=True)


if __name__ == "__main__":
    main()
