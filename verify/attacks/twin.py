# SPDX-License-Identifier: Apache-2.0
"""The deployed net as a differentiable function, and the boxes that it is attacked in."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from linfdeploy.engines.base import Images
from linfdeploy.kernels.torch.linf_dist import linf_dist
from linfdeploy.kernels.torch.lp_dist import lp_dist
from linfdeploy.kernels.torch.sort_dist import sort_dist
from linfdeploy.nets.windows import Window
from linfdeploy.onnx.pixel_net import PIXEL_MAX, PixelNet
from linfdeploy.verify.attacks.attempt import Rows

__all__ = ["Best", "Boxes", "Twin", "few_threads", "margins", "strongest_others"]

Loss = Callable[[torch.Tensor], torch.Tensor]


# Of nets with fewer differences a step takes milliseconds, of which threads that wait for each other take most.
SMALL = 2**20


@contextmanager
def few_threads(net: PixelNet) -> Iterator[None]:
    """Keeps torch to one thread while a small net is attacked."""
    before = torch.get_num_threads()
    if sum(layer.weight.size * layer.positions for layer in net.layers) < SMALL:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Twin:
    """A pixel net as a differentiable torch function, with the graph's own weights, in pixels."""

    def __init__(self, net: PixelNet) -> None:
        self._layers = [
            (
                torch.from_numpy(layer.weight.astype(np.float32)),
                torch.from_numpy(layer.output_bias.astype(np.float32)),
                None if layer.sort is None else torch.from_numpy(layer.sort.copy()),
                layer.window,
            )
            for layer in net.layers
        ]
        self._centre = torch.from_numpy(net.input_centre)
        self._steps = 2.0 ** (net.grid or 0)
        head = () if net.head is None else zip(net.head.weights, net.head.biases, strict=True)
        self._head = [
            (torch.from_numpy(weight.astype(np.float32)), torch.from_numpy(bias.astype(np.float32)))
            for weight, bias in head
        ]
        self._activation = None if net.head is None else net.head.activation

    def logits(self, x: torch.Tensor, p: float = math.inf) -> torch.Tensor:
        """Returns logits (N, K), of a pure net in pixels, for x (N, I) in pixels, at norm p.

        Sorted distances are what they are at every p: several inputs have a gradient already.
        """
        x = x - self._centre
        for weight, bias, sort, window in self._layers:
            rows = x if window is None else _rows(x, window)
            if sort is not None:
                y = self._rounded(sort_dist(rows, weight, sort))
            else:
                y = linf_dist(rows, weight) if math.isinf(p) else lp_dist(rows, weight, p)
            x = (y if window is None else _flat(y, window)) + bias
        if not self._head:
            return -x
        for index, (weight, bias) in enumerate(self._head):
            x = F.linear(self._activated(x) if index else x, weight, bias)
        return x

    def _activated(self, x: torch.Tensor) -> torch.Tensor:
        return x.tanh() if self._activation == "tanh" else x.clamp(-1, 1)

    def _rounded(self, distance: torch.Tensor) -> torch.Tensor:
        """Rounds sorted distances to the grid, and lets gradients through."""
        rounded = (distance.detach() * self._steps + 0.5).floor() / self._steps
        return distance + (rounded - distance.detach())

    def gradient(self, x: torch.Tensor, p: float, loss: Loss) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Returns the logits (N, K) at norm p, each row's loss (N,), and its gradient, (N, I).

        Args:
            x: (N, I), in pixels.
            p: The norm.
            loss: From logits (N, K) to a loss for each row, (N,).
        """
        x = x.detach().requires_grad_(True)
        logits = self.logits(x, p)
        losses = loss(logits)
        (gradient,) = torch.autograd.grad(losses.sum(), x)
        return logits.detach(), losses.detach(), gradient


def _rows(x: torch.Tensor, window: Window) -> torch.Tensor:
    """Returns what windows show of flat images, as `Window.rows` does."""
    shown = F.unfold(x.view(-1, *window.shape), window.kernel, 1, window.padding, window.stride)
    return shown.transpose(1, 2).reshape(-1, window.terms)


def _flat(y: torch.Tensor, window: Window) -> torch.Tensor:
    """Returns the flat images that rows make up, as `Window.flat` does."""
    return y.view(-1, window.positions, y.shape[1]).transpose(1, 2).flatten(1)


@dataclass(frozen=True)
class Boxes:
    """Samples as rows of pixels, and what an attacker can put in their place.

    Attributes:
        centre: (N, I) float32, whole numbers, in pixels. Likewise the ends.
        lower: Lower ends, at least 0.
        upper: Upper ends, at most 255.
        levels: (N, 1) float32, at least 0, how far an attacker can go.
        labels: (N,) int64, the labels to get away from.
        shape: (C, H, W) of an image.
        samples: (N,) int64, which samples these are.
    """

    centre: torch.Tensor
    lower: torch.Tensor
    upper: torch.Tensor
    levels: torch.Tensor
    labels: torch.Tensor
    shape: tuple[int, ...]
    samples: Rows

    @classmethod
    def of(cls, images: Images, labels: npt.NDArray[np.int64], levels: int | npt.NDArray[np.int64]) -> Boxes:
        """Takes images (N, C, H, W) and levels, one for all or (N,)."""
        centre = torch.from_numpy(images.reshape(len(images), -1).astype(np.float32))
        reach = torch.from_numpy(np.broadcast_to(levels, len(images)).astype(np.float32))[:, None]
        return cls(
            centre,
            (centre - reach).clamp(min=0),
            (centre + reach).clamp(max=PIXEL_MAX),
            reach,
            torch.from_numpy(labels),
            images.shape[1:],
            np.arange(len(images)),
        )

    def __len__(self) -> int:
        return len(self.centre)

    def take(self, which: Rows) -> Boxes:
        """Returns some of the samples, by their place in this one."""
        index = torch.from_numpy(which)
        centre, lower, upper, levels = (t[index] for t in (self.centre, self.lower, self.upper, self.levels))
        return Boxes(centre, lower, upper, levels, self.labels[index], self.shape, self.samples[which])

    def clip(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the nearest points of the boxes."""
        return torch.minimum(torch.maximum(x, self.lower), self.upper)

    def images(self, x: torch.Tensor) -> Images:
        """Rounds points (N, I) to uint8 images; the boxes' ends are integers, so that stays inside."""
        images: Images = self.clip(x.round()).to(torch.uint8).numpy().reshape(len(x), *self.shape)
        return images


class Best:
    """The best whole-numbered point of each box so far, as the twin sees it at p = inf.

    Attributes:
        x: (N, I) float32, whole numbers inside the boxes.
        margin: (N,) float32, the label's logit less the best other; below 0 the label is gone.
    """

    def __init__(self, twin: Twin, boxes: Boxes) -> None:
        self._twin, self._boxes = twin, boxes
        self.x = boxes.centre.clone()
        self.margin = margins(twin.logits(self.x), boxes.labels)

    def offer(self, x: torch.Tensor) -> torch.Tensor:
        """Looks at points (N, I), one for each box, rounded; returns their margins, (N,)."""
        whole = self._boxes.clip(x.detach().round())
        found = margins(self._twin.logits(whole), self._boxes.labels)
        better = found < self.margin
        self.x[better], self.margin[better] = whole[better], found[better]
        return found


def margins(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Returns the label's logit less the best other, (N,)."""
    rows = torch.arange(len(labels))
    others = logits.clone()
    others[rows, labels] = -math.inf
    return logits[rows, labels] - others.amax(1)


def strongest_others(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Returns the classes other than the label, (N, K-1), by falling logit."""
    masked = logits.detach().clone()
    masked[torch.arange(len(labels)), labels] = -math.inf
    return masked.argsort(1, descending=True)[:, :-1]
