# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of L_inf-dist-net.

Zhang et al., "Towards Certifying l_inf Robustness using Neural Networks with l_inf-dist Neurons", ICML 2021.
"""

from __future__ import annotations

from linfdeploy.errors import CheckpointError
from linfdeploy.training.importers.layout import (
    Found,
    Layer,
    Moves,
    State,
    check_names,
    count,
    counted,
    layer,
    linear,
    names_of,
    size,
)

__all__ = ["FILTERS", "REPOSITORY", "STRIDES", "WIDTH", "recognise"]

REPOSITORY = "L_inf-dist-net"
WIDTH = 1024
"""The units of a hidden layer of a net of width 1."""
FILTERS = 32
"""The filters of the first convolution of a convolutional net of width 1."""
KERNEL = 3
STRIDES = (1, 1, 2, 1, 1)
"""Of the convolutions, which stand in that code alone, as does their padding of 1."""

MEAN = "normalize.running_mean"
FIRST, SECOND = "predictor.fc1", "predictor.fc2"
HEAD = names_of(FIRST, ("weight", "bias")) | names_of(SECOND, ("weight", "bias"))
LAST = names_of("feature.fc_last", ("weight", "bias"))


def recognise(state: State) -> Found | None:
    """Tells which net of this repository a state is; None: of another one.

    Raises:
        CheckpointError: A tensor is missing or unknown, or its shape does not fit.
    """
    if not any(name.startswith("feature.") for name in state):
        return None
    head = any(name.startswith("predictor.") for name in state)
    if any(name.startswith("feature.conv.") for name in state):
        return _convolutional(state, head)
    model, depth = "MLPFeature" if head else "MLP", count(state, "feature.fc.")
    dense = names_of("feature.fc.", ("weight", MEAN), depth)
    check_names(state, dense | (HEAD if head else LAST), f"{model} of {REPOSITORY}")
    hidden = [layer(state, f"feature.fc.{index}", MEAN, 4) for index in range(depth)]
    if head:
        parts = f"{counted(depth, 'l_inf-distance layer')} and {_head(state)}"
        behind = linear(state, FIRST), linear(state, SECOND)
        return Found(REPOSITORY, model, parts, tuple(hidden), behind)
    layers = (*hidden, layer(state, "feature.fc_last", None, 4))
    return Found(REPOSITORY, model, counted(depth + 1, "l_inf-distance layer"), layers)


def _convolutional(state: State, head: bool) -> Found:
    model, depth = "ConvFeature" if head else "Conv", count(state, "feature.conv.")
    dense = names_of("feature.conv.", ("weight", MEAN), depth) | names_of("feature.fc", ("weight", MEAN))
    check_names(state, dense | (HEAD if head else LAST), f"{model} of {REPOSITORY}")
    rest = f"a dense one and {_head(state)}" if head else "2 dense ones"
    parts = f"{counted(depth, 'l_inf-distance convolution')}, {rest}"
    if depth != len(STRIDES):
        raise CheckpointError(
            f"it holds {model} of {REPOSITORY} with {parts}; expected {len(STRIDES)} convolutions"
        )
    layers = [_convolution(state, index) for index in range(depth)] + [layer(state, "feature.fc", MEAN, 4)]
    if head:
        return Found(REPOSITORY, model, parts, tuple(layers), (linear(state, FIRST), linear(state, SECOND)))
    return Found(REPOSITORY, model, parts, (*layers, layer(state, "feature.fc_last", None, 4)))


def _convolution(state: State, index: int) -> Layer:
    place = f"feature.conv.{index}"
    weight, mean = state[f"{place}.weight"], state[f"{place}.{MEAN}"]
    if weight.ndim != 4 or weight.shape[2:] != (KERNEL, KERNEL) or mean.shape != weight.shape[:1]:
        raise CheckpointError(
            f"{place} has a weight of shape {tuple(weight.shape)} and a {MEAN} of shape {tuple(mean.shape)}; "
            f"expected (outputs, inputs, {KERNEL}, {KERNEL}) and (outputs,)"
        )
    return Layer(weight.flatten(1), mean, None, moves=Moves(KERNEL, STRIDES[index], 1))


def _head(state: State) -> str:
    return f"an MLP head of {size(state['predictor.fc1.weight'], 0)} hidden units"
