# SPDX-License-Identifier: Apache-2.0
"""Folding: everything that is no distance disappears into weights and biases.

l_inf-distance nets are positively homogeneous and commute with translations, so in real numbers nothing changes
but the unit: `logits_pixel = 255 std logits`. A convolution that shows zeros beside its image must be shown the
same there: zeros in front of the first are the mean pixel, which a centre takes to 0, and shifts stay in front of
the zeros of the next, in the bias of the layer before. A head takes its features in pixels, so its first weights
are divided by that unit, and its logits are what they were.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TypeAlias

import numpy as np

from linfdeploy.errors import ExportError
from linfdeploy.onnx.chain import Centre, Chain, Distance, Doubles, Linear, Normalize, Shift, Step, Tanh
from linfdeploy.onnx.pixel_net import PIXEL_MAX

__all__ = ["fold_centre", "fold_head", "fold_normalization", "fold_shifts", "folding_error"]

Pairs: TypeAlias = tuple[tuple[Doubles, Doubles], ...]


def fold_normalization(chain: Chain) -> Chain:
    """Moves a net to pixel units: `W_1 = 255 (mean + std W_1)`, and `W_l`, `b_l` times `255 std` for the rest.

    Where the first layer is a convolution that shows zeros, its mean becomes a Centre in front of it instead. The
    first linear layer's weights are divided by `255 std`; its bias and what follows stay.

    Args:
        chain: A chain that starts with Normalize, for images in [0, 1].

    Returns:
        A chain without Normalize, for images in [0, 255].

    Raises:
        ExportError: The chain does not start with Normalize and a Distance.
    """
    if (
        len(chain.steps) < 2
        or not isinstance(chain.steps[0], Normalize)
        or not isinstance(chain.steps[1], Distance)
    ):
        raise ExportError("the net does not start with (image - mean) / std and a distance layer; expected both")
    normalize, first, *rest = chain.steps
    assert isinstance(normalize, Normalize)
    assert isinstance(first, Distance)
    unit = PIXEL_MAX * normalize.std
    if not 0 < unit < math.inf:
        raise ExportError(f"std is {normalize.std:g} in float32; expected a finite positive number: train again")
    steps = _first_in_pixels(PIXEL_MAX * normalize.mean, unit, first, chain.input_shape[0])
    for step in rest:
        if isinstance(step, Normalize):
            raise ExportError("the net normalises its input twice; expected once, at the start")
        steps.append(_in_pixels(step, unit, steps[-1]))
    return Chain(chain.input_shape, tuple(steps))


def _first_in_pixels(mean: Doubles, unit: float, first: Distance, channels: int) -> list[Step]:
    """Returns the first distance in pixels, with a Centre before it where it shows zeros; mean is (I,)."""
    if first.window is None:
        return [replace(first, weight=mean + unit * first.weight)]
    by_channel = mean.reshape(channels, -1)[:, 0]
    assert (mean.reshape(channels, -1) == by_channel[:, None]).all(), "a mean is one number for each channel"
    scaled = replace(first, weight=unit * first.weight)
    centre = Centre(by_channel)
    return [centre, scaled] if first.window.pads else [_moved(scaled, by_channel)]


def _moved(convolution: Distance, by_channel: Doubles) -> Distance:
    """Returns a convolution whose weights are larger by a number for each channel, (C,)."""
    repeats = convolution.weight.shape[1] // len(by_channel)
    return replace(convolution, weight=np.repeat(by_channel, repeats) + convolution.weight)


def fold_centre(chain: Chain, centre: Doubles | None) -> Chain:
    """Moves what a rounded centre leaves out into the first weights, and leaves the Centre out.

    `x - c - w` is `x - centre - (w + c - centre)`; only where zeros are shown does a distance move, by at most the
    largest `|c - centre|`.

    Args:
        chain: In pixels.
        centre: (C,), what the deployed net subtracts; None where the chain has no Centre.
    """
    if centre is None:
        return chain
    before, first, *rest = chain.steps
    assert isinstance(before, Centre)
    assert isinstance(first, Distance)
    return Chain(chain.input_shape, (_moved(first, before.offset - centre), *rest))


def _in_pixels(step: Step, unit: float, before: Step) -> Step:
    match step:
        case Distance():
            return replace(step, weight=unit * step.weight)
        case Shift():
            return Shift(unit * step.offset)
        case Linear() if isinstance(before, Distance | Shift):
            return Linear(step.weight / unit, step.bias)
        case _:
            return step


def fold_shifts(chain: Chain) -> Pairs:
    """Gathers each distance's following shifts (mean shift, bias) into one bias.

    Returns:
        A (weight, bias) pair, (O, I) and (O,), for each distance layer.

    Raises:
        ExportError: A shift comes before the first distance.
    """
    layers: list[tuple[Doubles, Doubles]] = []
    for step in chain.distances:
        if isinstance(step, Distance):
            layers.append((step.weight, 0.0 * step.weight[:, 0]))
        elif isinstance(step, Shift) and layers:
            weight, bias = layers[-1]
            layers[-1] = (weight, bias + step.offset)
        else:
            raise ExportError(f"a {type(step).__name__} comes before the first distance; expected none there")
    return tuple(layers)


def fold_head(chain: Chain) -> Pairs:
    """Gathers the head's linear layers, with tanh behind all but the last.

    Returns:
        A (weight, bias) pair, (O, I) and (O,), for each linear layer; none of a pure net.

    Raises:
        ExportError: The steps behind the first linear layer are others.
    """
    linear, between = chain.head[::2], chain.head[1::2]
    plain = all(isinstance(step, Tanh) for step in between) and len(linear) == len(between) + bool(linear)
    if not plain or not all(isinstance(step, Linear) for step in linear):
        found = ", ".join(type(step).__name__ for step in chain.head)
        raise ExportError(f"the head is {found}; expected Linear layers with Tanh between them")
    return tuple((step.weight, step.bias) for step in linear if isinstance(step, Linear))


def folding_error(chain: Chain) -> float:
    """Bounds how far the float64 roundings of folding move any logit of a pure net, or any feature, in pixels.

    Each constant is the sum of few products, each rounded a few times, by at most 2^-53 of the sum of the moduli;
    each layer adds what its constants moved by. Eight roundings and two terms more are allowed for than there are.

    Args:
        chain: As it was traced, before folding.
    """
    moduli, unit = 0.0, 1.0
    for step in chain.distances:
        if isinstance(step, Normalize):
            unit = PIXEL_MAX * step.std
            moduli += PIXEL_MAX * float(np.abs(step.mean).max())
        elif isinstance(step, Distance | Shift):
            values = step.weight if isinstance(step, Distance) else step.offset
            moduli += unit * float(np.abs(values).max())
    return 2.0**-50 * (len(chain.steps) + 1) * moduli
