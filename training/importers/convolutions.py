# SPDX-License-Identifier: Apache-2.0
"""Convolutions of a stranger's checkpoint: the sizes that their weights do not say."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from linfdeploy.errors import CheckpointError
from linfdeploy.nets.spec import LinfDistConvSpec, SortDistConvSpec
from linfdeploy.training.importers.layout import Layer
from linfdeploy.training.importers.linf_dist_net import FILTERS
from linfdeploy.training.importers.run_log import RunLog
from linfdeploy.training.importers.sortnet import TERMS

__all__ = ["check_convolutional_log", "convolution_specs", "image_values"]


def image_values(layers: Sequence[Layer]) -> int:
    """Returns how many values an image has, as far as the layers tell: strides may have left a remainder out."""
    first, moved = layers[0].weight.shape[1], [layer for layer in layers if layer.moves is not None]
    if (moves := layers[0].moves) is None:
        return first
    channels = first // moves.kernel**2
    if len(moved) == len(layers):
        # Crops at the four corners of the image: two a side.
        return channels * (moves.kernel + moves.stride) ** 2
    positions = layers[len(moved)].weight.shape[1] // len(moved[-1].weight)
    steps = math.prod(layer.moves.stride for layer in moved if layer.moves)
    return channels * positions * steps**2


def convolution_specs(layers: Sequence[Layer], shape: tuple[int, int, int]) -> Iterator[LinfDistConvSpec]:
    """Yields the specs of the convolutions in front.

    Args:
        layers: All distance layers.
        shape: (C, H, W) of an image.

    Raises:
        CheckpointError: A window does not fit into what reaches it.
    """
    for layer in layers:
        if (moves := layer.moves) is None:
            return
        channels = layer.weight.shape[1] // moves.kernel**2
        sizes = channels, *shape[1:], len(layer.weight), moves.kernel, moves.stride, moves.padding
        shifts = layer.mean is not None, layer.bias is not None
        spec = LinfDistConvSpec(*sizes, *shifts)
        if layer.keep != 1:
            spec = SortDistConvSpec(*sizes, *shifts, keep=layer.keep, terms=min(channels * moves.kernel**2, TERMS))
        yield spec
        shape = spec.output_shape


def check_convolutional_log(layers: Sequence[Layer], model: str, log: RunLog) -> None:
    """Compares the sizes of a convolutional net with those that a run tells of.

    Raises:
        CheckpointError: It is the log of another run.
    """
    filters, hidden = (len(layer.weight) for layer in (layers[0], layers[5]))
    said = log.model.name, log.model.arguments.get("width"), log.model.arguments.get("hidden", "512")
    if said != (model, str(filters / FILTERS).removesuffix(".0"), str(hidden)):
        raise CheckpointError(
            f"it holds {model} of {filters} filters and {hidden} hidden units, but {log.path} tells of {said[0]} "
            f"of width {said[1]}, each {FILTERS} filters, and {said[2]} hidden units; expected the log of the "
            "same run: name it with --log"
        )
