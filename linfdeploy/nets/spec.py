# SPDX-License-Identifier: Apache-2.0
"""What a net is, as plain data: it travels in checkpoints and in the metadata of exported graphs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

from linfdeploy.errors import CheckpointError, brief
from linfdeploy.nets.layer_specs import (
    LayerSpec,
    LinearSpec,
    LinfDistConvSpec,
    LinfDistSpec,
    SortDistConvSpec,
    SortDistSpec,
    layer_from_json,
    read_fields,
)

__all__ = [
    "MAX_UNITS",
    "LayerSpec",
    "LinearSpec",
    "LinfDistConvSpec",
    "LinfDistSpec",
    "NetSpec",
    "SortDistConvSpec",
    "SortDistSpec",
]

MAX_UNITS = 2**24
"""The most inputs or outputs a layer may claim; beyond it a file is taken for hostile."""

# The net holds mean and std in float32, where a larger number is infinite and a smaller std zero.
LARGEST = (2 - 2**-23) * 2.0**127
SMALLEST_STD = 2.0**-126


@dataclass(frozen=True)
class NetSpec:
    """A net of distance layers on normalised images, with or without a head of linear layers behind them.

    The logits of a pure net are negated distances, those of a net with a head the head's own outputs.

    Attributes:
        input_shape: (C, H, W) of an image.
        mean: Per channel, in [0, 1] pixel units; the input is `(image - mean) / std`.
        std: One positive scalar, so that an l_inf ball of images stays a ball.
        layers: Distance layers, convolutions first, then the linear ones of the head, if there is one: tanh behind
            all but the last. The last layer has one output per class.
    """

    input_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: float
    layers: tuple[LayerSpec, ...]

    def __post_init__(self) -> None:
        """Checks that the parts fit together.

        Raises:
            CheckpointError: They do not.
        """
        _check_input(self.input_shape, self.mean, self.std)
        _check_layers(self.layers, math.prod(self.input_shape))
        _check_order(self.layers)
        _check_images(self.layers, self.input_shape)

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.layers[-1].outputs

    @property
    def distances(self) -> tuple[LayerSpec, ...]:
        """The layers in front of the head."""
        return tuple(layer for layer in self.layers if layer.is_distance)

    @property
    def convolves(self) -> bool:
        """Whether there are convolutions."""
        return any(isinstance(layer, LinfDistConvSpec) for layer in self.layers)

    @property
    def head(self) -> tuple[LinearSpec, ...]:
        """The linear layers behind the distance layers; none in a pure net."""
        return tuple(layer for layer in self.layers if isinstance(layer, LinearSpec))

    def to_json(self) -> dict[str, Any]:
        """Returns the spec as data that JSON can hold."""
        return {**asdict(self), "classes": self.classes}

    @staticmethod
    def from_json(data: object) -> NetSpec:
        """Reads what `to_json` wrote, trusting nothing.

        Raises:
            CheckpointError: A field is missing, unknown, of the wrong type or contradicts another.
        """
        fields = read_fields(data, {"input_shape", "mean", "std", "layers", "classes"}, "the spec")
        layers = tuple(layer_from_json(index, layer) for index, layer in enumerate(_sequence(fields, "layers")))
        spec = NetSpec(
            input_shape=_shape(fields),
            mean=tuple(_number(value, "mean") for value in _sequence(fields, "mean")),
            std=_number(fields["std"], "std"),
            layers=layers,
        )
        if type(fields["classes"]) is not int or fields["classes"] != spec.classes:
            raise CheckpointError(
                f"the spec claims {brief(fields['classes'])} classes but its last layer has "
                f"{spec.classes} outputs; expected the same number"
            )
        return spec

    def sorting(self, keep: float, terms: int) -> NetSpec:
        """Returns the same net with sorted distances in all distance layers but the first.

        Args:
            keep: The chance of an input to be in a subset.
            terms: The most differences that are weighed.
        """
        first, *others = self.layers
        return replace(self, layers=(first, *(_sorted_layer(layer, keep, terms) for layer in others)))

    @staticmethod
    def mlp(
        input_shape: tuple[int, int, int],
        mean: tuple[float, ...],
        std: float,
        hidden: tuple[int, ...],
        classes: int,
        head: tuple[int, ...] | None = None,
        convolutions: tuple[tuple[int, int], ...] = (),
    ) -> NetSpec:
        """Returns the papers' net: hidden layers with mean shift, then an output layer with bias or a head.

        Convolutions stand in front, with windows of 3 x 3, zeros around the image and mean shift.

        Args:
            input_shape: (C, H, W) of an image.
            mean: Per channel.
            std: Of all channels.
            hidden: Units of the hidden distance layers.
            classes: Number of classes.
            head: Units of the head's hidden linear layers; None: there is no head.
            convolutions: Filters and stride of each convolution.
        """
        layers: list[LayerSpec] = list(_convolutions(input_shape, convolutions))
        sizes = (layers[-1].outputs if layers else math.prod(input_shape), *hidden)
        layers += [LinfDistSpec(i, o, mean_shift=True, bias=False) for i, o in pairwise(sizes)]
        if head is None:
            layers.append(LinfDistSpec(sizes[-1], classes, mean_shift=False, bias=True))
        else:
            *inner, last = pairwise((sizes[-1], *head, classes))
            layers += [*(LinearSpec(i, o, "tanh") for i, o in inner), LinearSpec(*last, "none")]
        return NetSpec(input_shape, mean, std, tuple(layers))


def _convolutions(
    shape: tuple[int, int, int], convolutions: tuple[tuple[int, int], ...]
) -> Iterator[LinfDistConvSpec]:
    for filters, stride in convolutions:
        spec = LinfDistConvSpec(*shape, filters, 3, stride, 1, mean_shift=True, bias=False)
        yield spec
        shape = spec.output_shape


def _sorted_layer(layer: LayerSpec, keep: float, terms: int) -> LayerSpec:
    if not isinstance(layer, LinfDistSpec):
        return layer
    return SortDistSpec(
        layer.inputs, layer.outputs, layer.mean_shift, layer.bias, keep=keep, terms=min(terms, layer.inputs)
    )


def _check_input(shape: tuple[int, int, int], mean: tuple[float, ...], std: float) -> None:
    if len(shape) != 3 or min(shape) < 1:
        raise CheckpointError(f"input shape is {brief(shape)}; expected three positive sizes (C, H, W)")
    if len(mean) != shape[0] or not all(abs(value) <= LARGEST for value in mean):
        raise CheckpointError(
            f"mean is {brief(mean)}; expected {brief(shape[0])} finite float32 numbers, one per channel"
        )
    if not SMALLEST_STD <= std <= LARGEST:
        raise CheckpointError(f"std is {std}; expected one finite positive float32 number")


def _check_layers(layers: tuple[LayerSpec, ...], inputs: int) -> None:
    if not layers:
        raise CheckpointError("the spec has no layers; expected at least one")
    for index, layer in enumerate(layers):
        if layer.inputs != inputs or not 1 <= layer.outputs <= MAX_UNITS or inputs > MAX_UNITS:
            raise CheckpointError(
                f"layer {index} claims {brief(layer.inputs)} inputs and {brief(layer.outputs)} outputs; "
                f"expected {inputs} inputs and between 1 and {MAX_UNITS} outputs"
            )
        inputs = layer.outputs
    if inputs < 2:
        raise CheckpointError(f"the last layer has {inputs} output; expected at least 2 classes")


def _check_order(layers: tuple[LayerSpec, ...]) -> None:
    distances = [layer.is_distance for layer in layers]
    if not distances[0] or distances != sorted(distances, reverse=True):
        raise CheckpointError(
            f"the layers are of the types {brief([layer.type for layer in layers])}; expected at least one "
            "distance layer first, and linear layers behind all of them"
        )
    found = [layer.activation for layer in layers if isinstance(layer, LinearSpec)]
    if found and found != ["tanh"] * (len(found) - 1) + ["none"]:
        raise CheckpointError(
            f"the head's activations are {brief(found)}; expected 'tanh' behind every linear layer but the last, "
            "and 'none' there"
        )


def _check_images(layers: tuple[LayerSpec, ...], shape: tuple[int, int, int]) -> None:
    """Checks that convolutions come first, each on the image that the one before it leaves."""
    convolutions = [layer for layer in layers if isinstance(layer, LinfDistConvSpec)]
    first = layers[: len(convolutions)]
    if len(convolutions) == len(layers) or any(not isinstance(layer, LinfDistConvSpec) for layer in first):
        raise CheckpointError(
            f"the layers are of the types {brief([layer.type for layer in layers])}; expected convolutions in "
            "front of all other layers, and another layer behind them"
        )
    for index, layer in enumerate(convolutions):
        if layer.window.shape != shape:
            raise CheckpointError(
                f"layer {index} takes images of {brief(layer.window.shape)}; expected {shape}, which reach it"
            )
        shape = layer.output_shape


def _sequence(fields: Mapping[str, Any], name: str) -> list[Any]:
    if not isinstance(fields[name], list | tuple):
        raise CheckpointError(f"{name} is {brief(fields[name])}; expected a list")
    return list(fields[name])


def _shape(fields: Mapping[str, Any]) -> tuple[int, int, int]:
    values = _sequence(fields, "input_shape")
    if len(values) != 3 or any(type(value) is not int for value in values):
        raise CheckpointError(f"input shape is {brief(values)}; expected three positive sizes (C, H, W)")
    return values[0], values[1], values[2]


def _number(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise CheckpointError(f"{name} holds {brief(value)}; expected a number")
    try:
        return float(value)
    except OverflowError:
        return math.inf
