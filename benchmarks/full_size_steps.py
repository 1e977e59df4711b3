# SPDX-License-Identifier: Apache-2.0
"""Steps of the second paper's nets at full size, held against float64: `python benchmarks/full_size_steps.py`.

Trains the first ten steps of `mnist-0.3` (83 million weights) and `cifar10-8` (121 million) on the CPU, with a
small batch, and then one step each in the middle of p's growth and at p = inf. Before each, a plain float64
implementation computes the loss and every gradient from the same weights, layer by layer and some outputs at a
time. The images are random, in the layout of the data set: what is checked is arithmetic, not learning.

Differences of gradients are relative to the largest entry that the tensor would have if no terms of it cancelled,
as they do behind a mean shift. A term is a ratio to the power p - 1, so its rounding grows with p. Writes
`benchmarks/results/full_size_steps.json`.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from timing import surroundings

from linfdeploy.files import write_bytes
from linfdeploy.nets.layers import DistanceLayer
from linfdeploy.training.data import Dataset
from linfdeploy.training.recipe import Recipe, load_recipe
from linfdeploy.training.schedules import Dials, dials_at
from linfdeploy.training.step import Settings
from linfdeploy.training.trainer import Trainer

RESULTS = Path(__file__).parent / "results" / "full_size_steps.json"
LAYOUTS = {
    "mnist-0.3": ((1, 28, 28), (0.1307,), 0.3081),
    "cifar10-8": ((3, 32, 32), (0.4914, 0.4822, 0.4465), 0.2009),
}
Passed: TypeAlias = tuple[torch.Tensor, torch.Tensor]

OUTPUTS_AT_ONCE = 16
FIRST = 10


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--recipes", nargs="+", default=list(LAYOUTS))
    arguments = parser.parse_args()
    runs = {}
    for name in arguments.recipes:
        runs[name] = measured(name, arguments.batch)
        result = {**surroundings("torch"), "batch": arguments.batch, "images": "random", "runs": runs}
        write_bytes(RESULTS, (json.dumps(result, indent=2) + "\n").encode())


def measured(name: str, batch: int) -> list[dict[str, Any]]:
    """Trains and compares; a row a step."""
    recipe = replace(load_recipe(name), batch_size=batch)
    shape, mean, std = LAYOUTS[name]
    steps_per_epoch = 100
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch * FIRST * 2, *shape)).astype(np.uint8)
    dataset = Dataset(recipe.dataset, images, np.arange(len(images)) % 10, 10, mean, std)
    trainer = Trainer(recipe, dataset)
    trainer.net.train()
    rows = []
    batches = trainer.batches.of_epoch(0)
    for step in steps_of(recipe, steps_per_epoch):
        begin = time.monotonic()
        rows.append(compared(trainer, next(batches), dials_at(recipe, step, steps_per_epoch)))
        rows[-1] = {"step": step, **rows[-1], "seconds": time.monotonic() - begin}
        print(name, rows[-1], flush=True)
    return rows


def steps_of(recipe: Recipe, steps_per_epoch: int) -> Iterator[int]:
    """The first ones, one while p grows, one at p = inf."""
    yield from range(FIRST)
    yield (recipe.p_from_epoch + recipe.p_until_epoch) // 2 * steps_per_epoch
    yield recipe.p_until_epoch * steps_per_epoch


def compared(trainer: Trainer, batch: tuple[torch.Tensor, torch.Tensor], dials: Dials) -> dict[str, Any]:
    """Takes a step, and returns how far its loss and gradients are from those in float64."""
    std = trainer.net.spec.std
    layers = trainer.net.distances
    weights = [layer.weight.detach().clone() for layer in layers]
    bias = layers[-1].bias
    assert bias is not None
    passed, logits = forward(trainer, batch[0], dials.p)
    logits = logits.requires_grad_()
    scale = trainer.scale.detach().double().requires_grad_()
    expected = mixture(logits, batch[1], scale, dials.eps / std, dials.weight)
    by_logits, by_scale = torch.autograd.grad(expected, (logits, scale))
    loss = trainer._step(*batch, Settings.of(dials, std)).item()
    assert trainer.scale.grad is not None
    assert bias.grad is not None
    excess = [relative(trainer.scale.grad, by_scale), relative(bias.grad, -by_logits.sum(0))]
    grad = -by_logits
    for layer, weight, (x, u) in zip(reversed(layers), reversed(weights), reversed(passed), strict=True):
        if layer.mean_shift is not None:
            grad = grad - grad.mean(0)
        grad, by_weight, largest = backward((x, u), weight, dials.p, grad)
        assert layer.weight.grad is not None
        excess.append((layer.weight.grad.double() - by_weight).abs().max().item() / largest)
    return {
        "p": dials.p if math.isfinite(dials.p) else "inf",
        "loss": expected.item(),
        "loss_difference": abs(loss - expected.item()) / expected.item(),
        "gradient_difference": max(excess),
    }


def mixture(
    logits: torch.Tensor, labels: torch.Tensor, scale: torch.Tensor, eps: float, weight: float
) -> torch.Tensor:
    """`weight CE(scale logits) + mean max_j min(max(1 + (logit_j - logit_y) / 2 eps, 0), 1)`, written plainly."""
    rows = torch.arange(len(labels))
    scaled = scale * logits
    entropy = (scaled.logsumexp(1) - scaled[rows, labels]).mean()
    rivals = 1 + (logits - logits[rows, labels][:, None]) / (2 * eps)
    others = torch.ones_like(rivals, dtype=torch.bool)
    others[rows, labels] = False
    worst = rivals[others].view(len(labels), -1).max(1)[0]
    return weight * entropy + worst.clamp(0, 1).mean()


def forward(trainer: Trainer, images: torch.Tensor, p: float) -> tuple[list[Passed], torch.Tensor]:
    """Inputs and distances of each layer, and the logits, in float64."""
    spec = trainer.net.spec
    mean = torch.tensor(spec.mean, dtype=torch.float64)[:, None, None]
    x = ((images.double() - mean) / spec.std).flatten(1)
    passed = []
    for layer in trainer.net.distances:
        passed.append((x, torch.cat([distances(x, part, p) for part in parts(layer.weight.detach())], 1)))
        x = shifted(layer, passed[-1][1])
    return passed, -x


def shifted(layer: DistanceLayer, u: torch.Tensor) -> torch.Tensor:
    """Behind the distances: the mean of the batch, or the bias."""
    if layer.mean_shift is not None:
        return u - u.mean(0)
    assert layer.bias is not None
    return u + layer.bias.detach().double()


def parts(weight: torch.Tensor) -> Iterator[torch.Tensor]:
    """Some rows of a weight at a time, in float64."""
    yield from (part.double() for part in weight.split(OUTPUTS_AT_ONCE))


def distances(x: torch.Tensor, w: torch.Tensor, p: float) -> torch.Tensor:
    """Distances (N, O)."""
    a = (x[:, None] - w).abs()
    largest = a.amax(-1, keepdim=True)
    if math.isinf(p):
        return largest[..., 0]
    return (largest * power(a / largest, p).sum(-1, keepdim=True) ** (1 / p))[..., 0]


def slopes(x: torch.Tensor, w: torch.Tensor, p: float, u: torch.Tensor) -> torch.Tensor:
    """Slopes in x, (N, O, I), where the distances are u."""
    d = x[:, None] - w
    if math.isinf(p):
        index = d.abs().argmax(-1, keepdim=True)
        return torch.zeros_like(d).scatter_(-1, index, d.gather(-1, index).sign())
    return d.sign() * power(d.abs() / u[..., None], p - 1)


def power(base: torch.Tensor, exponent: float) -> torch.Tensor:
    """By squaring where the exponent is whole and small, which is many times faster."""
    if exponent != int(exponent) or exponent > 16:
        return base**exponent
    result, square, left = torch.ones_like(base), base, int(exponent)
    while left:
        result, square, left = (result * square if left % 2 else result), square * square, left // 2
    return result


def backward(
    passed: Passed, weight: torch.Tensor, p: float, grad: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """The gradients of a layer's input and weight, and the largest entry of the latter if nothing cancelled."""
    x, u = passed
    by_x, by_weight, largest = torch.zeros_like(x), [], 1e-30
    outputs = (each.split(OUTPUTS_AT_ONCE, 1) for each in (u, grad))
    for part, distance, by_u in zip(parts(weight), *outputs, strict=True):
        pull = by_u[:, :, None] * slopes(x, part, p, distance)
        by_weight.append(-pull.sum(0))
        largest = max(largest, pull.abs().sum(0).max().item())
        by_x += pull.sum(1)
    return by_x, torch.cat(by_weight), largest


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference beside the largest entry; 0 where all entries are."""
    largest = expected.abs().max().item()
    return (found.double() - expected).abs().max().item() / largest if largest else found.abs().max().item()


if __name__ == "__main__":
    main()
