# SPDX-License-Identifier: Apache-2.0
"""How sorted distances are trained: each as the norm over a random subset of its inputs.

Every 32 consecutive samples have subsets of their own. Their size is one for a layer and a batch, Binomial(I, q);
what no subset takes, the layer in front need not compute. So a layer with subsets on both sides costs q^2.

Source: Zhang et al., "Rethinking Lipschitz Neural Networks and Certified Robustness: A Boolean Function
Perspective", NeurIPS 2022.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TypeAlias

import torch

from linfdeploy.errors import KernelError
from linfdeploy.nets.convolutions import SortDistConv
from linfdeploy.nets.layers import MEAN_SHIFT_MOMENTUM, DistanceLayer, MeanShift, SortDist

__all__ = ["SUB_BATCH", "Subsets", "draw_subsets", "features_of_subsets", "share_of_subsets"]

SUB_BATCH = 32
"""Consecutive samples that share their subsets."""

Subsets: TypeAlias = Sequence[torch.Tensor | None]
"""For each layer the inputs that are kept, (S, n) int64 ascending, a row for each sub-batch; None: all."""


def draw_subsets(layers: Sequence[DistanceLayer], batch: int, generator: torch.Generator | None) -> Subsets:
    """Draws the inputs that each layer keeps for a batch.

    Args:
        layers: The distance layers of a net, on the CPU.
        batch: Number of samples.
        generator: None: torch's own.

    Raises:
        KernelError: There are convolutions of sorted distances.
    """
    if any(isinstance(layer, SortDistConv) for layer in layers):
        raise KernelError(
            "sort_dist_conv: a convolution of sorted distances in training, for which it has no subsets; expected "
            "evaluation: call eval()"
        )
    return [_drawn(layer, -(-batch // SUB_BATCH), generator) for layer in layers]


def share_of_subsets(subsets: Subsets, first: int, count: int) -> tuple[Subsets, list[int]]:
    """Returns what some consecutive samples have of a batch's subsets.

    Args:
        subsets: Of the whole batch.
        first: The first sample's place in the batch.
        count: Number of samples, at least 1.

    Returns:
        The subsets of the sub-batches that the samples are of, and how many are of each.
    """
    begin, end = first // SUB_BATCH, -(-(first + count) // SUB_BATCH)
    edges = [first, *range((begin + 1) * SUB_BATCH, first + count, SUB_BATCH), first + count]
    return [None if kept is None else kept[begin:end] for kept in subsets], [b - a for a, b in pairwise(edges)]


def features_of_subsets(
    layers: Sequence[DistanceLayer], x: torch.Tensor, subsets: Subsets, sizes: Sequence[int] | None = None
) -> torch.Tensor:
    """Puts samples through the layers in training, each on what it keeps.

    Args:
        layers: The distance layers of a net.
        x: (N, I) float32.
        subsets: Of `draw_subsets`, or of `share_of_subsets`.
        sizes: How many samples are of each sub-batch; None: the samples are a batch.

    Returns:
        (N, F) float32, what leaves the last layer.
    """
    sizes = list(share_of_subsets(subsets, 0, len(x))[1] if sizes is None else sizes)
    if subsets[0] is not None:
        x = torch.cat([rows[:, kept] for rows, kept in zip(torch.split(x, sizes), subsets[0], strict=True)])
    for layer, inputs, outputs in zip(layers, subsets, [*subsets[1:], None], strict=True):
        parts = zip(torch.split(x, sizes), _weights(layer, inputs, outputs), strict=False)
        x = torch.cat([layer.norm(rows, weight) for rows, weight in parts])
        x = _shifted(layer, x, outputs, sizes)
    return x


def _drawn(layer: DistanceLayer, sub_batches: int, generator: torch.Generator | None) -> torch.Tensor | None:
    if not isinstance(layer, SortDist) or layer.keep == 1:
        return None
    inputs = layer.weight.shape[1]
    size = max(int((torch.rand(inputs, generator=generator) < layer.keep).sum()), 1)
    order = torch.rand(sub_batches, inputs, generator=generator).argsort(1)
    return order[:, :size].sort(1).values


def _weights(
    layer: DistanceLayer, inputs: torch.Tensor | None, outputs: torch.Tensor | None
) -> Iterator[torch.Tensor]:
    """Yields each sub-batch's part of the weights; endless where all have the same."""
    sub_batches = next((len(kept) for kept in (inputs, outputs) if kept is not None), None)
    index = 0
    while sub_batches is None or index < sub_batches:
        weight = layer.weight if outputs is None else layer.weight[outputs[index]]
        yield weight if inputs is None else weight[:, inputs[index]]
        index += 1


def _shifted(
    layer: DistanceLayer, y: torch.Tensor, kept: torch.Tensor | None, sizes: Sequence[int]
) -> torch.Tensor:
    """Subtracts the means and adds the bias, of the outputs that are kept."""
    if layer.mean_shift is not None:
        y = (
            layer.mean_shift(y)
            if kept is None
            else y - _of_samples(_kept_mean(layer.mean_shift, y, kept, sizes), kept, sizes)
        )
    if layer.bias is None:
        return y
    return y + (layer.bias if kept is None else _of_samples(layer.bias, kept, sizes))


def _kept_mean(shift: MeanShift, y: torch.Tensor, kept: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
    """Returns each unit's mean (O,) over the samples that kept it; where none did, the running mean stays."""
    units = kept.reshape(-1)
    sums = torch.stack([rows.sum(0) for rows in torch.split(y, list(sizes))]).reshape(-1)
    each = torch.tensor(sizes, dtype=y.dtype)[:, None].expand(kept.shape).reshape(-1)
    total = torch.zeros_like(shift.running_mean).index_add(0, units, sums)
    sums = shift.over_all(torch.stack([total, torch.zeros_like(total).index_add(0, units, each)]))
    counts, mean = sums[1], sums[0] / sums[1].clamp(min=1)
    with torch.no_grad():
        moved = shift.running_mean.lerp(mean, MEAN_SHIFT_MOMENTUM)
        shift.running_mean.copy_(torch.where(counts > 0, moved, shift.running_mean))
    return mean


def _of_samples(values: torch.Tensor, kept: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
    """Returns what each sample's units have of values (O,), (N, n)."""
    return values[kept].repeat_interleave(torch.tensor(sizes), 0)
