# SPDX-License-Identifier: Apache-2.0
"""Holds the attacks of `linfdeploy verify` against others on the same samples.

    python benchmarks/attack_strength.py demo/model.engine

Each sample is attacked at 1, 1.1 and 1.5 times the radius that certificate J proved for it, rounded up to whole
levels. At 1 nothing may fall, and peers are not run. Peers are torchattacks' PGD, Square and AutoAttack, on the
same net as a torch module with pixels in [0, 1]; their images are rounded to uint8 and clipped into the box like
ours, and all are run on the engine. They take one eps for all samples, and their time goes with the number of
different ones: so the samples are those with the most frequent radii. Without torchattacks the table says so.

Writes `benchmarks/results/attack_strength.json` and `.md`.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import torch

from linfdeploy.engines.base import Images, Logits
from linfdeploy.engines.reference import PER_OP
from linfdeploy.files import write_bytes
from linfdeploy.onnx.pixel_net import PIXEL_MAX, PixelNet
from linfdeploy.verify.attacks import ATTACKS, Attempt, Twin, Victim, run_attack
from linfdeploy.verify.certificates import Certifier
from linfdeploy.verify.threat import box_of

RESULTS = Path(__file__).parent / "results"
SEED = 0
FACTORS = {"1": Fraction(1), "1.1": Fraction(11, 10), "1.5": Fraction(3, 2)}
NEEDS = "peers left out: pip install --no-deps torchattacks"

Flags = npt.NDArray[np.bool_]


class UnitRange(torch.nn.Module):
    """The net for pixels in [0, 1], with logits in units of `scale` pixels: in pixels a softmax saturates."""

    def __init__(self, net: PixelNet, scale: float) -> None:
        super().__init__()
        self._twin, self._scale = Twin(net), scale
        self.anchor = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns logits (N, K) of images (N, C, H, W)."""
        return self._twin.logits((x * PIXEL_MAX).flatten(1)) / self._scale


def main_of(engine_path: Path, data_name: str, frequent: int, plan: str) -> dict[str, Any]:
    """Attacks one engine at each factor; returns the figures."""
    from linfdeploy.engines.build import open_engine
    from linfdeploy.training.data import load_dataset
    from linfdeploy.verify.conformance import run_batched

    opened = open_engine(engine_path)
    data = load_dataset(data_name, "test", None)
    images, labels = data.images, data.labels

    def run(images: Images) -> Logits:
        return run_batched(opened.engine, images)

    certifier = Certifier(opened.graph.net, PER_OP, images, logits := run(images))
    radii = certifier.radii.joint
    assert radii is not None
    # Samples that are right and certified at some radius; the others have no radius to multiply.
    eligible = (logits.argmax(1) == labels) & (radii >= 1) & (radii < PIXEL_MAX)
    values, counts = np.unique(radii[eligible], return_counts=True)
    chosen = np.flatnonzero(eligible & np.isin(radii, values[np.argsort(-counts, kind="stable")[:frequent]]))
    samples = images[chosen], certifier.labels[chosen], radii[chosen]
    rows = [
        row
        for name, factor in FACTORS.items()
        for row in _at(opened.graph.net, run, samples, (name, factor), plan)
    ]
    return {"data": data.name, "samples": len(chosen), "plan": plan, "seed": SEED, "rows": rows}


def _at(
    net: PixelNet,
    run: Callable[[Images], Logits],
    samples: tuple[Images, npt.NDArray[np.int64], npt.NDArray[np.int64]],
    named: tuple[str, Fraction],
    plan: str,
) -> Iterator[dict[str, Any]]:
    images, labels, radii = samples
    name, factor = named
    levels = np.array([min(math.ceil(radius * factor), PIXEL_MAX) for radius in radii.tolist()])
    victim = Victim(net, images, labels, np.ones(len(images), bool), levels, np.zeros(len(images), bool))

    def submit(attempt: Attempt) -> Logits:
        moved = np.abs(attempt.images.astype(int) - images[attempt.rows]).max((1, 2, 3))
        assert (moved <= levels[attempt.rows]).all()
        return run(attempt.images)

    start = time.perf_counter()
    result = run_attack(victim, ATTACKS[plan], SEED, submit)
    yield _row(name, "linfdeploy, all together", result.fallen, time.perf_counter() - start)
    for attack, fell in result.fell.items():
        yield _row(name, f"linfdeploy, {attack}", fell, None)
    if find_spec("torchattacks") is not None and factor > 1:
        for peer, make in _peers(net.classes).items():
            start = time.perf_counter()
            fell = _peer_falls(net, run, (images, labels, levels), make)
            yield _row(name, f"torchattacks, {peer}", fell, time.perf_counter() - start)


def _row(factor: str, attack: str, fell: Flags, seconds: float | None) -> dict[str, Any]:
    row = {"factor": factor, "attack": attack, "fell": int(fell.sum()), "share": float(fell.mean())}
    click.echo(
        f"{factor:>4}  {attack:45} {fell.sum():5} of {len(fell)}" + (f"  {seconds:.0f} s" if seconds else "")
    )
    return {**row, "seconds": None if seconds is None else round(seconds, 1)}


def _peers(classes: int) -> dict[str, Callable[[UnitRange, float], Any]]:
    import torchattacks as peers

    return {
        "PGD-20": lambda net, eps: peers.PGD(net, eps=eps, alpha=eps / 4, steps=20),
        "PGD-100": lambda net, eps: peers.PGD(net, eps=eps, alpha=eps / 4, steps=100),
        "Square 5000": lambda net, eps: peers.Square(net, eps=eps, n_queries=5000, seed=SEED),
        "AutoAttack standard": lambda net, eps: peers.AutoAttack(net, eps=eps, n_classes=classes, seed=SEED),
    }


def _peer_falls(
    net: PixelNet,
    run: Callable[[Images], Logits],
    samples: tuple[Images, npt.NDArray[np.int64], npt.NDArray[np.int64]],
    make: Callable[[UnitRange, float], Any],
) -> Flags:
    """Which samples a peer breaks: it takes one eps at a time, so samples are grouped by their levels."""
    images, labels, levels = samples
    fell = np.zeros(len(images), bool)
    for level in np.unique(levels).tolist():
        rows = np.flatnonzero(levels == level)
        torch.manual_seed(SEED)
        attack = make(UnitRange(net, level).eval(), level / PIXEL_MAX)
        x = torch.from_numpy(images[rows].astype(np.float32) / PIXEL_MAX)
        found = attack(x, torch.from_numpy(labels[rows])).detach().numpy() * PIXEL_MAX
        lower, upper = box_of(images[rows], level)
        fell[rows] = run(np.clip(np.rint(found), lower, upper).astype(np.uint8)).argmax(1) != labels[rows]
    return fell


def _table(result: dict[str, Any]) -> str:
    names = list(dict.fromkeys(row["attack"] for row in result["rows"]))
    share = {(row["attack"], row["factor"]): row["share"] for row in result["rows"]}
    lines = [
        f"# Attacks at multiples of the certified radius: {result['samples']} images of {result['data']}",
        "",
        f"Share of the images whose label the engine changed; plan `{result['plan']}`, seed {result['seed']}.",
        "The radius is each image's own, of certificate J, and multiples are rounded up to whole levels.",
        "" if find_spec("torchattacks") else f"\n{NEEDS}\n",
        f"| attack | {' | '.join(f'{factor} x' for factor in FACTORS)} |",
        f"|---|{'---:|' * len(FACTORS)}",
    ]
    for name in names:
        cells = (f"{share[name, factor]:.2%}" if (name, factor) in share else "-" for factor in FACTORS)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


@click.command()
@click.argument("engine", type=click.Path(path_type=Path))
@click.option("--data", default="digits", show_default=True)
@click.option("--radii", type=int, default=4, show_default=True, help="How many of the most frequent radii.")
@click.option("--plan", type=click.Choice(list(ATTACKS)), default="standard", show_default=True)
@click.option("--name", default="attack_strength", show_default=True, help="Of the files written.")
def main(engine: Path, data: str, radii: int, plan: str, name: str) -> None:
    """Attacks ENGINE, such as `demo/model.engine` of `make demo`."""
    torch.set_num_threads(1)
    result = main_of(engine, data, radii, plan)
    write_bytes(RESULTS / f"{name}.json", (json.dumps(result, indent=2) + "\n").encode())
    write_bytes(RESULTS / f"{name}.md", _table(result).encode())


if __name__ == "__main__":
    main()
