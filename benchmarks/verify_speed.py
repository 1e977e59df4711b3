# SPDX-License-Identifier: Apache-2.0
"""Measures certifying a test set: `python benchmarks/verify_speed.py --data-root data`.

Certificates E, I and D of the 10,000 MNIST test images, at the threat's radius, on a net with hidden layers of
1024 units; beside one plain forward pass of the same images on the same evaluator, and, where auto_LiRPA is on
PYTHONPATH, beside its interval bounds of a few of them (tests/lirpa_net.py says how to get it). All contenders use
as many threads; on one thread times are CPU time, which other processes lengthen less than wall time.
Writes `benchmarks/results/verify_speed.json` and `.md`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from timing import PROCESS, WALL, Effort, Measurement, interleave, surroundings, threads

from linfdeploy.engines.reference import PER_OP, ReferenceEngine
from linfdeploy.files import write_bytes
from linfdeploy.onnx.pixel_net import PixelLayer, PixelNet
from linfdeploy.training.data import load_dataset
from linfdeploy.verify.certificates import Certifier
from linfdeploy.verify.conformance import ulp_distance
from linfdeploy.verify.determinism import run_batched
from linfdeploy.verify.threat import box_of

HERE = Path(__file__).parent
RESULT = HERE / "results" / "verify_speed.json"
GRID, LEVELS, SEED = 12, 76, 0
PEER = "auto_LiRPA, IBP"
BARS = {"of a forward pass": 4.0, "auto_LiRPA's of ours": 1000.0}


def random_net(widths: list[int], seed: int) -> PixelNet:
    """Returns an exact net with weights around its inputs' ranges."""
    rng, layers = np.random.default_rng(seed), []
    for index, (inputs, outputs) in enumerate(pairwise(widths)):
        values = rng.uniform(-20, 275, (outputs, inputs)), rng.uniform(-9, 9, outputs)
        weight, bias = (np.rint(value * 2.0**GRID) / 2.0**GRID for value in values)
        layers.append(PixelLayer((weight + 100 * (index > 0)).astype(np.float32), bias.astype(np.float32)))
    return PixelNet((1, 28, 28), tuple(layers), GRID)


def certify(net: PixelNet, images: npt.NDArray[np.uint8], logits: npt.NDArray[np.float32]) -> Any:
    """Certifies every image at the threat's radius by E, I, J and D."""
    return Certifier(net, PER_OP, images, logits).at(LEVELS)


def lirpa(net: PixelNet, images: npt.NDArray[np.uint8]) -> tuple[dict[str, Callable[[], Any]], str]:
    """Returns auto_LiRPA's bounds of the images, if there is one, and what is to be said of them."""
    sys.path.insert(0, str(HERE.parent / "tests"))
    from lirpa_net import MISSING, Lirpa

    if MISSING is not None:
        return {}, MISSING
    peer, box = Lirpa(net), box_of(images, LEVELS)
    apart = [
        int(ulp_distance(ours, theirs).max())
        for ours, theirs in zip(ReferenceEngine(net).bounds(*box), peer.bounds(*box), strict=True)
    ]

    def one_by_one() -> None:
        for lower, upper in zip(*box, strict=True):
            peer.bounds(lower[None], upper[None])

    ways = {f"{PEER}, in one batch": partial(peer.bounds, *box), f"{PEER}, one by one": one_by_one}
    return ways, f"its bounds are at most {max(apart)} ulp from ours"


def report(times: dict[str, Measurement], counts: dict[str, int]) -> tuple[dict[str, Any], str]:
    """Returns the figures, and a table of them: seconds for 10,000 images by the median turn."""
    each = {name: measured.median / counts[name] for name, measured in times.items()}
    ratios = {"of a forward pass": each["certify E, I, J, D"] / each["forward pass"]}
    if peers := [seconds for name, seconds in each.items() if name.startswith(PEER)]:
        ratios["auto_LiRPA's of ours"] = min(peers) / each["certify E, I, J, D"]
    rows = ["| what | images | CPU seconds for 10,000 |", "|---|---|---|"]
    rows += [f"| {name} | {counts[name]} | {10_000 * seconds:.3g} |" for name, seconds in each.items()]
    rows += [f"\n{name}: {ratio:.4g} times (bar: {BARS[name]:g})" for name, ratio in ratios.items()]
    figures = {"images": counts, "seconds": {name: measured.to_json() for name, measured in times.items()}}
    return {**figures, "ratios": {name: float(f"{ratio:.4g}") for name, ratio in ratios.items()}}, "\n".join(rows)


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description="Measures certifying a test set.")
    parser.add_argument("--data-root", type=Path, help="the folder of MNIST")
    parser.add_argument("--samples", type=int, default=10_000, help="of the test images")
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--depth", type=int, default=5, help="layers of this width, before that of the classes")
    parser.add_argument("--peer-samples", type=int, default=4, help="for auto_LiRPA: a second each")
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    images = load_dataset("mnist", "test", asked.data_root).images[: asked.samples]
    net = random_net([28 * 28, *[asked.width] * asked.depth, 10], SEED)
    with threads(asked.threads):
        logits = run_batched(engine := ReferenceEngine(net), images)
        contenders: dict[str, Callable[[], Any]] = {
            "forward pass": partial(run_batched, engine, images),
            "certify E, I, J, D": partial(certify, net, images, logits),
        }
        few = images[: asked.peer_samples]
        peers, said = lirpa(net, few)
        contenders |= peers
        effort = Effort(rounds=5, least_seconds=0.0, budget_seconds=120.0)
        times = interleave(contenders, PROCESS if asked.threads == 1 else WALL, effort)
    counts = {name: len(few) if name in peers else len(images) for name in contenders}
    figures, table = report(times, counts)
    facts = {"net": f"{asked.depth} x {asked.width}", "threads": asked.threads, "auto_LiRPA": said}
    print(f"{table}\n\nauto_LiRPA: {said}")
    write_bytes(RESULT, f"{json.dumps({**surroundings(), **facts, **figures}, indent=1)}\n".encode())
    write_bytes(RESULT.with_suffix(".md"), f"# Certifying a test set\n\n{table}\n\nauto_LiRPA: {said}.\n".encode())


if __name__ == "__main__":
    main()
