# SPDX-License-Identifier: Apache-2.0
"""Steps of the second paper's nets at full size, held against float64: `python benchmarks/full_size_steps.py`.

Trains the first ten steps of `mnist-0.3` (83 million weights) and `cifar10-8` (121 million) on the CPU, with a
small batch, and then one step each in the middle of p's growth and at p = inf. Before each, a plain float64
implementation computes the loss and every gradient from the same weights, layer by layer and some outputs at a
time. With `--data-root` the images of a data set that lies there are its own; otherwise they are random, in its
layout: what is checked is arithmetic, not learning.

Differences of gradients are relative, tensor by tensor, to the largest entry. Behind a mean shift most of an
entry's terms cancel, and their roundings do not: a second figure is relative to the largest entry that the tensor
would have if no terms of it cancelled, and where less is left of that than float32 tells apart there is no first
figure. How far the same formulas are from float64 in plain float32 stands beside some of the steps. A term is a
ratio to the power p - 1, so its rounding grows with p.

Writes its part of `benchmarks/results/full_size_steps.json`.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from timing import surroundings

from linfdeploy.errors import DatasetError
from linfdeploy.files import write_bytes
from linfdeploy.nets.layers import DistanceLayer
from linfdeploy.training.data import Dataset, load_dataset
from linfdeploy.training.recipe import Recipe, load_recipe
from linfdeploy.training.schedules import Dials, dials_at
from linfdeploy.training.step import Settings
from linfdeploy.training.trainer import Trainer

RESULTS = Path(__file__).parent / "results" / "full_size_steps.json"
LAYOUTS = {
    "mnist-0.3": ((1, 28, 28), (0.1307,), 0.3081),
    "cifar10-8": ((3, 32, 32), (0.4914, 0.4822, 0.4465), 0.2009),
}
"""Of the images of each recipe: shape, means, deviation."""
Passed: TypeAlias = tuple[torch.Tensor, torch.Tensor]
Batch: TypeAlias = tuple[torch.Tensor, torch.Tensor]

AT_ONCE = 2**17
"""Terms that are computed at a time: in float64 a core's cache holds them."""
TINY = 1e-30
CANCELLED = 2.0**-20
"""Of what there would be without cancelling: some float32 roundings."""
FIRST = 10
PLAIN_EVERY = 9
STEPS_PER_EPOCH = 117
"""Of MNIST in the recipes' batches of 512; it sets p alone, in the two steps behind the first."""


@dataclass(frozen=True)
class Result:
    """Of a step: the loss, gradients by name, and the largest entry of each if none of its terms cancelled."""

    loss: float
    gradients: dict[str, torch.Tensor]
    sizes: dict[str, float]


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--recipes", nargs="+", default=list(LAYOUTS))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for name in arguments.recipes:
        run = {**surroundings("torch"), **measured(name, arguments.batch, arguments.data_root)}
        runs = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        write_bytes(RESULTS, (json.dumps({**runs, name: run}, indent=2) + "\n").encode())


def measured(name: str, batch: int, root: Path | None) -> dict[str, Any]:
    """Trains and compares; a row a step."""
    recipe = replace(load_recipe(name), batch_size=batch)
    images, dataset = images_of(name, recipe, root)
    trainer = Trainer(recipe, dataset)
    trainer.net.train()
    rows = []
    batches = trainer.batches.of_epoch(0)
    for step in steps_of(recipe, STEPS_PER_EPOCH):
        begin = time.monotonic()
        dials = dials_at(recipe, step, STEPS_PER_EPOCH)
        rows.append(compared(trainer, next(batches), dials, rounded=step % PLAIN_EVERY == 0))
        rows[-1] = {"step": step, **rows[-1], "seconds": round(time.monotonic() - begin, 1)}
        print(name, images, rows[-1], flush=True)
    weights = sum(parameter.numel() for parameter in trainer.net.parameters())
    return {"images": images, "batch": batch, "weights": weights, "steps": rows}


def images_of(name: str, recipe: Recipe, root: Path | None) -> tuple[str, Dataset]:
    """The training images, or as many random ones as there are steps for, and which they are."""
    if root is not None:
        try:
            return f"of {recipe.dataset}", load_dataset(recipe.dataset, "train", root)
        except DatasetError as error:
            print(error)
    shape, mean, std = LAYOUTS[name]
    images = np.random.default_rng(0).integers(0, 256, (recipe.batch_size * FIRST * 2, *shape)).astype(np.uint8)
    return "random", Dataset(recipe.dataset, images, np.arange(len(images)) % 10, 10, mean, std)


def steps_of(recipe: Recipe, steps_per_epoch: int) -> Iterator[int]:
    """The first ones, one while p grows, one at p = inf."""
    yield from range(FIRST)
    yield (recipe.p_from_epoch + recipe.p_until_epoch) // 2 * steps_per_epoch
    yield recipe.p_until_epoch * steps_per_epoch


def compared(trainer: Trainer, batch: Batch, dials: Dials, rounded: bool) -> dict[str, Any]:
    """Takes a step, and returns how far its loss and gradients are from those in float64.

    With `rounded` also how far the same formulas are from that in plain float32.
    """
    exact = plainly(trainer, batch, dials, torch.float64)
    plain = differences(plainly(trainer, batch, dials, torch.float32), exact) if rounded else None
    loss = trainer._step(*batch, Settings.of(dials, trainer.net.spec.std)).item()
    found = differences(Result(loss, gradients(trainer), {}), exact)
    p = dials.p if math.isfinite(dials.p) else "inf"
    return {"p": p, "loss": exact.loss, "kernels": found, "plain_float32": plain}


def differences(result: Result, exact: Result) -> dict[str, Any]:
    """How far a result is from the one in float64: the loss, then tensor by tensor, in either measure."""
    of_largest: dict[str, float | None] = {}
    uncancelled = {}
    for name, grad in exact.gradients.items():
        off = (result.gradients[name] - grad).abs_().max().item()
        left = max(-grad.min().item(), grad.max().item())
        of_largest[name] = off / left if left > CANCELLED * exact.sizes[name] else None
        uncancelled[name] = off / exact.sizes[name]
    loss = abs(result.loss - exact.loss) / exact.loss
    return {"loss": loss, "gradients": of_largest, "uncancelled": uncancelled}


def gradients(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Those that the last step left, by the names of `plainly`."""
    layers = trainer.net.distances
    parameters = {f"weight {index}": layer.weight for index, layer in enumerate(layers)}
    parameters |= {"bias": layers[-1].bias, "scale": trainer.scale}
    return {name: parameter.grad for name, parameter in parameters.items()}


def plainly(trainer: Trainer, batch: Batch, dials: Dials, dtype: torch.dtype) -> Result:
    """Loss and gradients of the step to come, from the formulas."""
    std = trainer.net.spec.std
    layers = trainer.net.distances
    passed, logits = forward(trainer, batch[0], dials.p, dtype)
    logits, scale = logits.requires_grad_(), trainer.scale.detach().to(dtype).requires_grad_()
    scaled = scale * logits
    loss = mixture(logits, scaled, batch[1], dials.eps / std, dials.weight)
    grad, by_scaled = torch.autograd.grad(loss, (logits, scaled))
    found = {"scale": (by_scaled * logits).sum()[None].detach(), "bias": -grad.sum(0)}
    sizes = {"scale": (by_scaled * logits).abs().sum().item(), "bias": grad.abs().sum(0).max().item()}
    grad = -grad
    for index, (layer, (x, u)) in reversed(list(enumerate(zip(layers, passed, strict=True)))):
        if layer.mean_shift is not None:
            grad = grad - grad.mean(0)
        name = f"weight {index}"
        grad, found[name], sizes[name] = backward((x, u), layer.weight.detach(), dials.p, grad)
    return Result(loss.item(), found, sizes)


def mixture(
    logits: torch.Tensor, scaled: torch.Tensor, labels: torch.Tensor, eps: float, weight: float
) -> torch.Tensor:
    """`weight CE(scaled logits) + mean max_j min(max(1 + (logit_j - logit_y) / 2 eps, 0), 1)`, written plainly."""
    rows = torch.arange(len(labels))
    entropy = (scaled.logsumexp(1) - scaled[rows, labels]).mean()
    rivals = 1 + (logits - logits[rows, labels][:, None]) / (2 * eps)
    others = torch.ones_like(rivals, dtype=torch.bool)
    others[rows, labels] = False
    worst = rivals[others].view(len(labels), -1).max(1)[0]
    return weight * entropy + worst.clamp(0, 1).mean()


def forward(
    trainer: Trainer, images: torch.Tensor, p: float, dtype: torch.dtype
) -> tuple[list[Passed], torch.Tensor]:
    """Inputs and distances of each layer, and the logits."""
    spec = trainer.net.spec
    mean = torch.tensor(spec.mean, dtype=dtype)[:, None, None]
    x = ((images.to(dtype) - mean) / spec.std).flatten(1)
    passed = []
    for layer in trainer.net.distances:
        u = [distances(x, part, p) for part in parts(layer.weight.detach(), x)]
        passed.append((x, torch.cat(u, 1)))
        x = shifted(layer, passed[-1][1])
    return passed, -x


def shifted(layer: DistanceLayer, u: torch.Tensor) -> torch.Tensor:
    """Behind the distances: the mean of the batch, or the bias."""
    if layer.mean_shift is not None:
        return u - u.mean(0)
    assert layer.bias is not None
    return u + layer.bias.detach().to(u.dtype)


def outputs_at_once(weight: torch.Tensor, x: torch.Tensor) -> int:
    """How many rows of a weight (O, I) are taken at a time."""
    return max(AT_ONCE // (len(x) * weight.shape[1]), 1)


def parts(weight: torch.Tensor, x: torch.Tensor) -> Iterator[torch.Tensor]:
    """Some rows of a weight at a time, in the type of x."""
    yield from (part.to(x.dtype) for part in weight.split(outputs_at_once(weight, x)))


def distances(x: torch.Tensor, w: torch.Tensor, p: float) -> torch.Tensor:
    """Distances (N, O)."""
    a = (x[:, None] - w).abs_()
    largest = a.amax(-1, keepdim=True)
    if math.isinf(p):
        return largest[..., 0]
    return (largest * power(a.div_(largest), p).sum(-1, keepdim=True) ** (1 / p))[..., 0]


def slopes(x: torch.Tensor, w: torch.Tensor, p: float, u: torch.Tensor) -> torch.Tensor:
    """Slopes in x, (N, O, I), where the distances are u."""
    d = x[:, None] - w
    if math.isinf(p):
        index = d.abs().argmax(-1, keepdim=True)
        return torch.zeros_like(d).scatter_(-1, index, d.gather(-1, index).sign())
    return power(d.abs().div_(u[..., None]), p - 1).copysign_(d)


def power(base: torch.Tensor, exponent: float) -> torch.Tensor:
    """By squaring where the exponent is whole and small, which is many times faster; base is spent."""
    if exponent != int(exponent) or exponent > 16:
        return base.pow_(exponent)
    result, left = None, int(exponent)
    while True:
        if left % 2:
            result = base.clone() if result is None else result.mul_(base)
        left //= 2
        if not left:
            assert result is not None
            return result
        base.mul_(base)


def backward(
    passed: Passed, weight: torch.Tensor, p: float, grad: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """The gradients of a layer's input and weight, and the largest entry of the latter if nothing cancelled."""
    x, u = passed
    by_x, by_weight, largest = torch.zeros_like(x), torch.empty_like(weight, dtype=x.dtype), TINY
    at_once = outputs_at_once(weight, x)
    outputs = (each.split(at_once, 1) for each in (u, grad))
    for part, into, distance, by_u in zip(parts(weight, x), by_weight.split(at_once), *outputs, strict=True):
        pull = slopes(x, part, p, distance).mul_(by_u[:, :, None])
        torch.sum(pull, 0, out=into).neg_()
        by_x += pull.sum(1)
        largest = max(largest, pull.abs_().sum(0).max().item())
    return by_x, by_weight, largest


if __name__ == "__main__":
    main()
