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
from linfdeploy.verify.draws import Draws

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
        kept: (N, steps) bool, whether the twin still gave an image its label after each step; None for targeted
            runs.
    """

    name: str
    images: Images
    kept: npt.NDArray[np.bool_] | None = None


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
    net: PixelNet, images: Images, labels: npt.NDArray[np.int64], levels: int, plan: AttackPlan, draws: Draws
) -> Iterator[Attempt]:
    """Yields adversarial candidates, one attempt at a time; those of an image depend on no other image.

    Args:
        net: The deployed net.
        images: (N, C, H, W) uint8.
        labels: (N,) the labels to get away from.
        levels: The threat, in pixels.
        plan: How hard to attack.
        draws: Of the N samples.
    """
    twin = Twin(net)
    centre = torch.from_numpy(images.reshape(len(images), -1).astype(np.float32))
    truth = torch.from_numpy(labels)
    search = _Search(twin, centre, levels, draws)
    adversarial, kept = search.untargeted(truth, plan.steps)
    yield Attempt(f"PGD-{plan.steps}", _to_images(adversarial, images), kept.numpy())
    others = _strongest_others(twin.logits(centre), truth)[:, : plan.targets]
    for rank in range(others.shape[1]):
        adversarial = search.targeted(truth, others[:, rank], plan.target_steps, f"targeted start {rank}")
        yield Attempt(f"targeted PGD-{plan.target_steps}, class rank {rank + 2}", _to_images(adversarial, images))


@dataclass(frozen=True)
class _Search:
    """Projected gradient search in boxes of `levels` around `centre` (N, I), clipped to the pixel range."""

    twin: Twin
    centre: torch.Tensor
    levels: int
    draws: Draws

    def untargeted(self, labels: torch.Tensor, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Runs the papers' PGD; returns the last points and (N, steps) whether labels stand after each step."""
        x, kept = self._start("start"), []

        def loss(logits: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
            # In units of eps: pixels would saturate the softmax.
            return F.cross_entropy(logits / self.levels, labels, reduction="sum")

        for _ in range(steps):
            x = self._step(x, self.levels / 4, math.inf, loss)
            kept.append(self.twin.logits(x.round()).argmax(1) == labels)
        return x, torch.stack(kept, 1)

    def targeted(self, labels: torch.Tensor, targets: torch.Tensor, steps: int, start: str) -> torch.Tensor:
        """Raises the target's logit above the label's, on the relaxation with p rising and steps shrinking."""
        x = self._start(start)
        rows = torch.arange(len(labels))

        def loss(logits: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
            return (logits[rows, targets] - logits[rows, labels]).sum()

        for step in range(steps):
            progress = step / max(steps - 1, 1)
            p = 6.0 * (200.0 / 6.0) ** progress
            x = self._step(x, self.levels / 2 * (1 - progress) + 1, p, loss)
        return x

    def _start(self, purpose: str) -> torch.Tensor:
        normals = torch.from_numpy(self.draws.normals(purpose, self.centre.shape[1]))
        noise = normals.to(torch.float32) * (self.levels / 4)
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
