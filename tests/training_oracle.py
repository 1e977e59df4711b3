# SPDX-License-Identifier: Apache-2.0
"""Training as the papers write it, a second time: in float64, by broadcasting, with gradients derived by hand.

Shares no line with the package and imports none of it. A net is a list of dictionaries of arrays: layers of
distances have `weight` and either `mean` (hidden) or `bias` (the last of a pure net), convolutions also `conv`,
(C, H, W, kernel, stride, padding), linear ones `weight`, `bias` and `linear`. Layers of sorted distances are
trained on subsets of their inputs, which are given as masks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = [
    "Adam",
    "Array",
    "Dial",
    "Gradients",
    "Layer",
    "Loss",
    "decayed",
    "first_schedule",
    "gradients",
    "second_schedule",
]

Array: TypeAlias = npt.NDArray[np.float64]
Labels: TypeAlias = npt.NDArray[np.int64]
Layer: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Dial:
    """One step of a schedule: eps in [0, 1] pixels, `progress` of p."""

    p: float
    eps: float
    lr: float
    progress: float


def first_schedule(epochs: tuple[int, ...], time: float, lr: float, eps: float, p: tuple[float, float]) -> Dial:
    """The first paper's, at a time in epochs: p from b to d, eps from a for c epochs, the cosine from b."""
    a, b, c, d, e = epochs
    reached = min(max((time - b) / (d - b), 0.0), 1.0)
    warm = min(max((time - a) / c, 0.0), 1.0) if c else 1.0
    fall = 0.5 * (1 + math.cos(math.pi * max(time - b, 0.0) / (e - b)))
    return Dial(_norm(p, reached), eps * warm, lr * fall, reached)


def second_schedule(
    epochs: tuple[int, ...], time: float, lr: float, eps: float, p: tuple[float, float], corner: float = 0.0
) -> Dial:
    """That of the second and the third paper: eps from a to b, p from c to d, the cosine over everything."""
    a, b, c, d, e = epochs
    reached = min(max((time - c) / (d - c), 0.0), 1.0)
    warm = min(max((time - a) / (b - a), 0.0), 1.0) if b > a else 1.0
    if corner:
        k = 1 / ((4 - 3 * corner) * corner**3)
        line = (1 - k * corner**4) / (1 - corner)
        warm = k * warm**4 if warm < corner else 1 - line * (1 - warm)
    return Dial(_norm(p, reached), eps * warm, 0.5 * lr * (1 + math.cos(math.pi * time / e)), reached)


def _norm(ends: tuple[float, float], reached: float) -> float:
    return math.inf if reached >= 1 else math.exp((1 - reached) * math.log(ends[0]) + reached * math.log(ends[1]))


@dataclass(frozen=True)
class Loss:
    """A loss and its gradients: by logits, by worst margins (0 in the column of the label) and by the scale."""

    kind: str
    mix: float = 0.75
    kappa: float = 1.0
    divide: bool = False

    def of(self, z: Array, worst: Array, y: Labels, s: float, lam: float) -> tuple[float, Array, Array, float]:
        """`worst` is divided by 2 eps already, where that is wanted; that of `mixture` always is."""
        none = np.zeros_like(z)
        if self.kind in {"mixture", "ce_hinge"}:
            entropy, by_scaled = _cross_entropy(s * z, y)
            if self.kind == "mixture":
                hinge, by_worst = _clipped(worst)
            else:
                hinge, by_worst = _hinge_of_correct(worst, y, (s * z).argmax(1) == y)
            return lam * entropy + hinge, lam * s * by_scaled, by_worst, lam * float((z * by_scaled).sum())
        clean = z - z[np.arange(len(y)), y][:, None]
        value, by_worst = self._single(worst, y)
        other, by_clean = self._single(clean, y)
        by_logits = (1 - self.kappa) * by_clean
        by_logits[np.arange(len(y)), y] -= (1 - self.kappa) * by_clean.sum(1)
        return self.kappa * value + (1 - self.kappa) * other, none + by_logits, self.kappa * by_worst, 0.0

    def _single(self, margins: Array, y: Labels) -> tuple[float, Array]:
        if self.kind == "crossentropy":
            return _cross_entropy(margins, y)
        n, classes = margins.shape
        top = margins.argmax(1)
        largest = margins[np.arange(n), top]
        grad = (1 - self.mix) * (margins > 0) / (n * classes)
        grad[np.arange(n), top] += self.mix * (largest > 0) / n
        value = self.mix * np.maximum(largest, 0).mean() + (1 - self.mix) * np.maximum(margins, 0).mean()
        return float(value), grad


def _cross_entropy(z: Array, y: Labels) -> tuple[float, Array]:
    rows = np.arange(len(y))
    shifted = z - z.max(1, keepdims=True)
    chances = np.exp(shifted) / np.exp(shifted).sum(1, keepdims=True)
    value = float((np.log(np.exp(shifted).sum(1)) - shifted[rows, y]).mean())
    chances[rows, y] -= 1
    return value, chances / len(y)


def _clipped(worst: Array) -> tuple[float, Array]:
    rows, top = np.arange(len(worst)), worst.argmax(1)
    largest = worst[rows, top]
    grad = np.zeros_like(worst)
    grad[rows, top] = ((largest > 0) & (largest < 1)) / len(worst)
    return float(np.clip(largest, 0, 1).mean()), grad


def _hinge_of_correct(worst: Array, y: Labels, correct: npt.NDArray[np.bool_]) -> tuple[float, Array]:
    rows = np.arange(len(y))
    rivals = 1 + worst
    rivals[rows, y] = -np.inf
    top = rivals.argmax(1)
    largest = np.maximum(rivals[rows, top], 0)
    grad = np.zeros_like(worst)
    grad[rows, top] = correct * (largest > 0) / len(y)
    return float((correct * largest).mean()), grad


@dataclass
class Gradients:
    """What a batch gives.

    `sizes` are the gradients of distances with every term counted as positive: what their roundings are
    relative to, however much of the sum cancels.
    """

    loss: float
    layers: list[dict[str, Array]]
    sizes: list[Array]
    means: list[Array | None]
    scale: float


def gradients(
    net: list[Layer],
    x: Array,
    y: Labels,
    loss: Loss,
    p: float,
    eps: float,
    lam: float,
    s: float,
    kept: Sequence[Array | None] | None = None,
) -> Gradients:
    """The loss of normalised images (N, I) and its gradients; eps is in normalised pixels.

    `kept` has, for each layer of distances, 1 where a sample keeps an input and 0 elsewhere, (N, I), or None where
    every sample keeps all. A unit's mean is that of the samples whose next layer keeps it; where none does, it is
    the running one.
    """
    distances = [layer for layer in net if "linear" not in layer]
    head = [layer for layer in net if "linear" in layer]
    all_kept = np.ones((len(x), 1))
    before = [all_kept if mask is None else mask for mask in kept or [None] * len(distances)]
    behind = [*before[1:], all_kept]
    inputs, means = [], []
    for layer, mine, next_one in zip(distances, before, behind, strict=True):
        rows = _windows_of(layer, x)
        inputs.append(rows)
        places = len(rows) // len(x)
        u, _ = _distance(rows, layer["weight"], p, np.repeat(mine, places, 0))
        if "mean" in layer:
            keeping = np.repeat(next_one, places, 0)
            count = keeping.sum(0)
            mean = (u * keeping).sum(0) / np.maximum(count, 1)
            means.append(np.where(count > 0, mean, layer["mean"]))
            x = _images_of(layer, u - mean)
        else:
            means.append(None)
            x = _images_of(layer, u + layer["bias"])
    value, by_features, of_head, by_scale = (_through_head if head else _negated)(head, x, y, loss, eps, lam, s)
    grads: list[dict[str, Array]] = []
    sizes: list[Array] = []
    reach = np.abs(by_features)
    for layer, z, mine, next_one in zip(distances[::-1], inputs[::-1], before[::-1], behind[::-1], strict=True):
        places = len(z) // len(by_features)
        keeping = np.repeat(next_one, places, 0)
        _, slope = _distance(z, layer["weight"], p, np.repeat(mine, places, 0))
        by_features, reach = _by_place(layer, by_features), _by_place(layer, reach)
        by_bias = by_features.sum(0)
        if "mean" in layer:
            share = keeping / np.maximum(keeping.sum(0), 1)
            by_features, reach = by_features - share * by_features.sum(0), reach + share * reach.sum(0)
        pull, size = by_features[:, :, None] * slope, reach[:, :, None] * np.abs(slope)
        grads.insert(0, {"weight": -pull.sum(0)} | ({} if "mean" in layer else {"bias": by_bias}))
        sizes.insert(0, size.sum(0))
        by_features, reach = _by_pixel(layer, pull.sum(1)), _by_pixel(layer, size.sum(1))
    return Gradients(value, grads + of_head, sizes, means, by_scale)


def _places_of(layer: Layer) -> list[list[int]]:
    """Which value of a flat image each window holds, place by place; -1 is a zero beside it."""
    channels, height, width, kernel, stride, padding = layer["conv"]
    places = []
    for top in range(-padding, height + padding - kernel + 1, stride):
        for left in range(-padding, width + padding - kernel + 1, stride):
            window = [
                (c * height + row) * width + column if 0 <= row < height and 0 <= column < width else -1
                for c in range(channels)
                for row in range(top, top + kernel)
                for column in range(left, left + kernel)
            ]
            places.append(window)
    return places


def _windows_of(layer: Layer, x: Array) -> Array:
    """The rows that a layer looks at, of flat images (N, I)."""
    if "conv" not in layer:
        return x
    padded = np.concatenate([x, np.zeros((len(x), 1))], axis=1)
    places = _places_of(layer)
    return np.asarray([row[place] for row in padded for place in places])


def _images_of(layer: Layer, rows: Array) -> Array:
    """Flat images, channel by channel, of rows that are places of images."""
    if "conv" not in layer:
        return rows
    places = rows.reshape(-1, len(_places_of(layer)), rows.shape[1])
    return np.stack([image.T.reshape(-1) for image in places])


def _by_place(layer: Layer, flat: Array) -> Array:
    """What `_images_of` was given, of what it returned."""
    if "conv" not in layer:
        return flat
    channels = len(layer["weight"])
    return np.concatenate([image.reshape(channels, -1).T for image in flat])


def _by_pixel(layer: Layer, rows: Array) -> Array:
    """The sum over all windows that hold a pixel, of what each gives to it."""
    if "conv" not in layer:
        return rows
    places = _places_of(layer)
    images = rows.reshape(-1, len(places), rows.shape[1])
    flat = np.zeros((len(images), math.prod(layer["conv"][:3]) + 1))
    for place, window in enumerate(places):
        for term, pixel in enumerate(window):
            flat[:, pixel] += images[:, place, term]
    return flat[:, :-1]


def _distance(x: Array, w: Array, p: float, kept: Array) -> tuple[Array, Array]:
    """The distances (N, O) over the inputs that are kept, and their slopes in x, (N, O, I)."""
    d = x[:, None, :] - w[None]
    # What is not kept is never the largest, and its power adds nothing.
    a = np.abs(d) * kept[:, None, :]
    largest = a.max(-1, keepdims=True)
    sign = np.where(d >= 0, 1.0, -1.0)
    if math.isinf(p):
        return largest[..., 0], sign * (np.arange(a.shape[-1]) == a.argmax(-1)[..., None])
    u = largest * ((a / largest) ** p).sum(-1, keepdims=True) ** (1 / p)
    return u[..., 0], sign * (a / u) ** (p - 1)


Through: TypeAlias = tuple[float, Array, list[dict[str, Array]], float]


def _negated(_: list[Layer], u: Array, y: Labels, loss: Loss, eps: float, lam: float, s: float) -> Through:
    rows = np.arange(len(y))
    divisor = 2 * eps if loss.divide else 1.0
    worst = ((u[rows, y] + eps)[:, None] - (u - eps)) / divisor
    worst[rows, y] = 0
    value, by_logits, by_worst, by_scale = loss.of(-u, worst, y, s, lam)
    by_worst[rows, y] = 0
    by_u = -by_logits - by_worst / divisor
    by_u[rows, y] += by_worst.sum(1) / divisor
    return value, by_u, [], by_scale


def _through_head(head: list[Layer], f: Array, y: Labels, loss: Loss, eps: float, lam: float, s: float) -> Through:
    """One hidden layer: clean activations h, and intervals [h_low, h_up] around them."""
    first, last = head
    rows = np.arange(len(y))
    w1, w2 = (layer["weight"] / math.sqrt(layer["weight"].shape[1]) for layer in head)
    middle = f @ w1.T + first["bias"]
    spread = eps * np.abs(w1).sum(1)
    h, low, up = np.tanh(middle), np.tanh(middle - spread), np.tanh(middle + spread)
    z = h @ w2.T + last["bias"]
    difference = w2[None] - w2[y][:, None]
    centre, radius = (low + up) / 2, (up - low) / 2
    worst = np.einsum("njh,nh->nj", difference, centre) + np.einsum("njh,nh->nj", np.abs(difference), radius)
    worst += last["bias"] - last["bias"][y][:, None]
    worst[rows, y] = 0
    value, by_z, by_worst, by_scale = loss.of(z, worst, y, s, lam)
    by_worst[rows, y] = 0
    pull = by_worst[:, :, None] * (centre[:, None] + np.sign(difference) * radius[:, None])
    by_w2 = by_z.T @ h + pull.sum(0)
    by_b2 = by_z.sum(0) + by_worst.sum(0)
    for n, label in enumerate(y):
        by_w2[label] -= pull[n].sum(0)
        by_b2[label] -= by_worst[n].sum()
    by_centre = np.einsum("nj,njh->nh", by_worst, difference)
    by_radius = np.einsum("nj,njh->nh", by_worst, np.abs(difference))
    at_middle = (by_z @ w2) * (1 - h**2)
    at_up = (by_centre + by_radius) / 2 * (1 - up**2)
    at_low = (by_centre - by_radius) / 2 * (1 - low**2)
    total = at_middle + at_up + at_low
    by_w1 = total.T @ f + np.sign(w1) * eps * (at_up - at_low).sum(0)[:, None]
    one = {"weight": by_w1 / math.sqrt(w1.shape[1]), "bias": total.sum(0)}
    two = {"weight": by_w2 / math.sqrt(w2.shape[1]), "bias": by_b2}
    return value, total @ w1, [one, two], by_scale


def decayed(w: Array, p: float, rate: float) -> Array:
    """The decay by the norm of order p of each row, (O, I) or, of biases, (O,)."""
    if w.ndim == 1 or p == 2:
        return w - rate * w
    kept = w.copy()
    for row in kept:
        if math.isinf(p):
            row[np.abs(row).argmax()] *= 1 - rate
        else:
            size = np.sqrt(row**2 + 1e-10)
            norm = size.max() * ((size / size.max()) ** p).sum() ** (1 / p)
            row[:] = row - rate * (size / norm) ** (p - 2) * row
    return kept


@dataclass
class Adam:
    """Adam of one parameter."""

    beta1: float
    beta2: float
    eps: float
    m: Any = 0.0
    v: Any = 0.0
    steps: int = field(default=0)

    def step(self, w: Array, grad: Array, lr: float) -> Array:
        """Returns the parameter after a step."""
        self.steps += 1
        self.m = self.beta1 * self.m + (1 - self.beta1) * grad
        self.v = self.beta2 * self.v + (1 - self.beta2) * grad**2
        first, second = self.m / (1 - self.beta1**self.steps), self.v / (1 - self.beta2**self.steps)
        return np.asarray(w - lr * first / (np.sqrt(second) + self.eps))
