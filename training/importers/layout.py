# SPDX-License-Identifier: Apache-2.0
"""What a recogniser tells of a checkpoint, and what all recognisers share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from linfdeploy.errors import CheckpointError

__all__ = [
    "Evidence",
    "Found",
    "Layer",
    "Linear",
    "Moves",
    "State",
    "check_names",
    "count",
    "counted",
    "layer",
    "linear",
    "names_of",
    "size",
]

State = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Evidence:
    """What is known of a checkpoint's origin besides its tensors.

    Attributes:
        has_optimizer: Whether the optimizer's state was saved with it.
        logged_model: The class that the run's log names, or None.
        stated: The repository that the user names, or None.
        keep: The chance of an input to be in a subset of a sort neuron, or None: nobody says.
        stride: Pixels between the crops of a net that takes several, or None: no log says.
        shape: (C, H, W) of an image, as the user says, or None.
    """

    has_optimizer: bool
    logged_model: str | None
    stated: str | None
    keep: float | None = None
    stride: int | None = None
    shape: tuple[int, int, int] | None = None


@dataclass(frozen=True)
class Moves:
    """How the square window of a convolution moves over images with zeros around them."""

    kernel: int
    stride: int
    padding: int


@dataclass(frozen=True, eq=False)
class Layer:
    """An l_inf-distance layer, or one of sort neurons.

    Attributes:
        weight: (O, I) float32; of a convolution I is C*kernel*kernel.
        mean: (O,) float32, the running mean that is subtracted, or None.
        bias: (O,) float32, or None.
        keep: Of sort neurons, the chance of an input to be in a subset; 1 without them.
        moves: Of a convolution, how its window moves; None of a dense layer.
    """

    weight: torch.Tensor
    mean: torch.Tensor | None
    bias: torch.Tensor | None
    keep: float = 1.0
    moves: Moves | None = None


@dataclass(frozen=True, eq=False)
class Linear:
    """A linear layer of a head, `W x / sqrt(I) + b`.

    Attributes:
        weight: (O, I) float32, as it is stored: not divided.
        bias: (O,) float32.
    """

    weight: torch.Tensor
    bias: torch.Tensor


@dataclass(frozen=True, eq=False)
class Found:
    """A recognised net.

    Attributes:
        repository: The name of the repository whose code wrote it.
        model: The class of its net there.
        parts: What it is made of, in words.
        layers: The distance layers of the net.
        head: The linear layers behind them, with tanh between each two; none in a pure net.
        scale: What the loss multiplied the logits with, or None.
    """

    repository: str
    model: str
    parts: str
    layers: tuple[Layer, ...]
    head: tuple[Linear, ...] = ()
    scale: float | None = None


def count(state: State, prefix: str) -> int:
    """Returns how many layers `prefix0.weight`, `prefix1.weight`, ... there are."""
    total = 0
    while f"{prefix}{total}.weight" in state:
        total += 1
    return total


def counted(number: int, thing: str) -> str:
    """Returns a number of things in words."""
    return f"{number} {thing}{'s' * (number != 1)}"


def names_of(prefix: str, parts: Iterable[str], layers: int | None = None) -> set[str]:
    """Returns the names of the tensors of one layer, or of as many as `layers` says, numbered from 0."""
    places = [prefix] if layers is None else [f"{prefix}{index}" for index in range(layers)]
    return {f"{place}.{part}" for place in places for part in parts}


def check_names(state: State, expected: set[str], what: str) -> None:
    """Checks that these are the tensors that there are.

    Raises:
        CheckpointError: One is missing or unknown.
    """
    if set(state) != expected:
        missing, unknown = sorted(expected - set(state))[:10], sorted(set(state) - expected)[:10]
        raise CheckpointError(
            f"its tensors look like {what}, but it lacks {missing} and has the unknown {unknown}; expected a file "
            "as that code saves it"
        )


def layer(state: State, place: str, mean: str | None, dimensions: int) -> Layer:
    """Takes a layer out of the state.

    Args:
        state: All tensors.
        place: The name of the layer.
        mean: The name of its running mean below that; None: it has a bias in its stead.
        dimensions: Of the weight as it is stored; those behind the first two are 1.

    Raises:
        CheckpointError: Sizes that do not fit each other.
    """
    weight = state[f"{place}.weight"]
    shift = state[f"{place}.{mean or 'bias'}"]
    if weight.ndim != dimensions or set(weight.shape[2:]) - {1} or shift.shape != weight.shape[:1]:
        expected = f"(outputs, inputs{', 1' * (dimensions - 2)}) and (outputs,)"
        raise CheckpointError(
            f"{place} has a weight of shape {tuple(weight.shape)} and a {mean or 'bias'} of shape "
            f"{tuple(shift.shape)}; expected {expected}"
        )
    return Layer(weight.flatten(1), shift if mean else None, None if mean else shift)


def linear(state: State, place: str) -> Linear:
    """Takes a linear layer out of the state.

    Args:
        state: All tensors.
        place: The name of the layer.

    Raises:
        CheckpointError: Sizes that do not fit each other.
    """
    weight, bias = state[f"{place}.weight"], state[f"{place}.bias"]
    if weight.ndim != 2 or bias.shape != weight.shape[:1]:
        raise CheckpointError(
            f"{place} has a weight of shape {tuple(weight.shape)} and a bias of shape {tuple(bias.shape)}; "
            "expected (outputs, inputs) and (outputs,)"
        )
    return Linear(weight, bias)


def size(tensor: torch.Tensor, axis: int) -> int:
    """Returns a size for a text; 0 where there is no such axis."""
    return tensor.shape[axis] if tensor.ndim > axis else 0
