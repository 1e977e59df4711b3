# SPDX-License-Identifier: Apache-2.0
"""Convolutions of a stranger's checkpoint: the sizes that their weights do not say."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from linfdeploy.errors import CheckpointError
from linfdeploy.nets.spec import LinfDistConvSpec
from linfdeploy.training.importers.layout import Layer
from linfdeploy.training.importers.linf_dist_net import FILTERS
from linfdeploy.training.importers.run_log import RunLog

__all__ = ["check_convolutional_log", "convolution_specs", "image_values"]


def image_values(layers: Sequence[Layer]) -> int:
    """Returns how many values an image has, as far as the layers tell: strides may have left a remainder out."""
    first = layers[0].weight.shape[1]
    convolutions = [layer for layer in layers if layer.moves is not None]
    if not convolutions:
        return first
    positions = layers[len(convolutions)].weight.shape[1] // len(convolutions[-1].weight)
    steps = math.prod(layer.moves.stride for layer in convolutions if layer.moves)
    return first // layers[0].moves.kernel ** 2 * positions * steps**2 if layers[0].moves else first


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
        spec = LinfDistConvSpec(
            channels,
            *shape[1:],
            len(layer.weight),
            moves.kernel,
            moves.stride,
            moves.padding,
            layer.mean is not None,
            layer.bias is not None,
        )
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
