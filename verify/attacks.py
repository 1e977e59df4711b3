# SPDX-License-Identifier: Apache-2.0
"""Attacks on a torch twin of the deployed net; what they find is run on the engine itself.

The twin has the graph's own weights, in pixels. Its gradients are those of the l_p relaxation where `p` is finite:
at p = inf each logit moves with one pixel alone, and sign gradients starve.

Sources: Madry et al. 2018 (PGD), with the settings of Zhang et al. 2021 and 2022: a clipped normal start of eps/4,
steps of eps/4, cross-entropy, no restart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from linfdeploy.engines.base import Images
from linfdeploy.kernels.torch.linf_dist import linf_dist
from linfdeploy.kernels.torch.lp_dist import lp_dist
from linfdeploy.onnx.pixel_net import PIXEL_MAX, PixelNet

__all__ = ["ATTACKS", "AttackPlan", "Attempt", "Twin", "run_attack"]

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class AttackPlan:
    """How hard to attack.

    Attributes:
        steps: Of the papers' untargeted PGD.
        targets: How many of the strongest other classes are targeted, each with its own random start.
        target_steps: Steps of each targeted run.
    """

    steps: int
    targets: int
    target_steps: int


ATTACKS = {"fast": AttackPlan(20, 2, 20), "standard": AttackPlan(100, 9, 40)}


@dataclass(frozen=True)
class Attempt:
    """One run of an attack.

    Attributes:
        name: Which run.
        images: (N, C, H, W) uint8, one for each attacked image, inside the threat's box.
        robust_by_step: Share of all images that are right and that the twin still gave their label after each
            step; empty for targeted runs.
    """

    name: str
    images: Images
    robust_by_step: tuple[float, ...] = ()


class Twin:
    """A pixel net as a differentiable torch function."""

    def __init__(self, net: PixelNet) -> None:
        self._layers = [
            (torch.from_numpy(layer.weight.astype(np.float32)), torch.from_numpy(layer.bias.astype(np.float32)))
            for layer in net.layers
        ]

    def logits(self, x: torch.Tensor, p: float = math.inf) -> torch.Tensor:
        """Returns logits (N, K) in pixels for x (N, I) in pixels, at norm p."""
        for weight, bias in self._layers:
            x = (linf_dist(x, weight) if math.isinf(p) else lp_dist(x, weight, p)) + bias
        return -x


def run_attack(
    net: PixelNet,
    images: Images,
    labels: npt.NDArray[np.int64],
    right: npt.NDArray[np.bool_],
    levels: int,
    plan: AttackPlan,
    seed: int,
) -> Iterator[Attempt]:
    """Yields adversarial candidates, one attempt at a time.

    Args:
        net: The deployed net.
        images: (N, C, H, W) uint8.
        labels: (N,) the labels to get away from.
        right: (N,) whether they are the true ones; all are attacked, only these count as robust.
        levels: The threat, in pixels.
        plan: How hard to attack.
        seed: Of the random starts.
    """
    twin, generator = Twin(net), torch.Generator().manual_seed(seed)
    centre = torch.from_numpy(images.reshape(len(images), -1).astype(np.float32))
    truth = torch.from_numpy(labels)
    search = _Search(twin, centre, levels, generator)
    adversarial, robust = search.untargeted(truth, torch.from_numpy(right), plan.steps)
    yield Attempt(f"PGD-{plan.steps}", _to_images(adversarial, images), robust)
    others = _strongest_others(twin.logits(centre), truth)[:, : plan.targets]
    for rank in range(others.shape[1]):
        adversarial = search.targeted(truth, others[:, rank], plan.target_steps)
        yield Attempt(f"targeted PGD-{plan.target_steps}, class rank {rank + 2}", _to_images(adversarial, images))


@dataclass(frozen=True)
class _Search:
    """Projected gradient search in boxes of `levels` around `centre` (N, I), clipped to the pixel range."""

    twin: Twin
    centre: torch.Tensor
    levels: int
    generator: torch.Generator

    def untargeted(
        self, labels: torch.Tensor, right: torch.Tensor, steps: int
    ) -> tuple[torch.Tensor, tuple[float, ...]]:
        """Runs the papers' PGD; returns the last points and the share of robust images after each step."""
        x, robust = self._start(), []

        def loss(logits: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
            # In units of eps: pixels would saturate the softmax.
            return F.cross_entropy(logits / self.levels, labels, reduction="sum")

        for _ in range(steps):
            x = self._step(x, self.levels / 4, math.inf, loss)
            stands = (self.twin.logits(x.round()).argmax(1) == labels) & right
            robust.append(float(stands.float().mean()))
        return x, tuple(robust)

    def targeted(self, labels: torch.Tensor, targets: torch.Tensor, steps: int) -> torch.Tensor:
        """Raises the target's logit above the label's, on the relaxation with p rising and steps shrinking."""
        x = self._start()
        rows = torch.arange(len(labels))

        def loss(logits: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
            return (logits[rows, targets] - logits[rows, labels]).sum()

        for step in range(steps):
            progress = step / max(steps - 1, 1)
            p = 6.0 * (200.0 / 6.0) ** progress
            x = self._step(x, self.levels / 2 * (1 - progress) + 1, p, loss)
        return x

    def _start(self) -> torch.Tensor:
        noise = torch.randn(self.centre.shape, generator=self.generator) * (self.levels / 4)
        return (self.centre + noise.clamp(-self.levels / 2, self.levels / 2)).clamp(0, PIXEL_MAX)

    def _step(self, x: torch.Tensor, size: float, p: float, loss: Loss) -> torch.Tensor:
        x = x.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(loss(self.twin.logits(x, p), x), x)
        moved = x.detach() + size * gradient.sign()
        return torch.clamp(moved, self.centre - self.levels, self.centre + self.levels).clamp(0, PIXEL_MAX)


def _strongest_others(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Returns the classes other than the label, (N, K-1), by falling logit."""
    masked = logits.detach().clone()
    masked[torch.arange(len(labels)), labels] = -math.inf
    return masked.argsort(1, descending=True)[:, :-1]


def _to_images(x: torch.Tensor, like: Images) -> Images:
    # The box's ends are integers, so rounding stays inside.
    images: Images = x.round().to(torch.uint8).numpy().reshape(like.shape)
    return images
