# SPDX-License-Identifier: Apache-2.0
"""The types of layers, as plain data.

A further type is a dataclass and its row in LAYER_TYPES; its torch layer is a row in `linfdeploy.nets.layers`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Protocol

from linfdeploy.errors import CheckpointError, brief

__all__ = ["LAYER_TYPES", "LayerSpec", "LinearSpec", "LinfDistSpec", "layer_from_json", "read_fields"]

ACTIVATIONS = ("none", "tanh")

# By the annotations of a spec's fields.
KINDS: Mapping[str, type] = {"int": int, "bool": bool, "str": str}


class LayerSpec(Protocol):
    """What every type of layer tells of itself; its other fields are its own.

    Attributes:
        is_distance: Whether the layer is 1-Lipschitz in l_inf and stands in front of the head.
    """

    is_distance: ClassVar[bool]

    @property
    def type(self) -> str:
        """The key in LAYER_TYPES."""

    @property
    def inputs(self) -> int:
        """Number of inputs."""

    @property
    def outputs(self) -> int:
        """Number of outputs."""

    @property
    def parts(self) -> str:
        """What belongs to the layer besides its weights, in words."""


@dataclass(frozen=True)
class LinfDistSpec:
    """One layer, `y_o = max_i |x_i - w_oi| - mean_o + b_o`.

    Attributes:
        inputs: Number of inputs I.
        outputs: Number of outputs O.
        mean_shift: Whether the batch mean (training) or the running mean (evaluation) is subtracted.
        bias: Whether a bias is added.
    """

    is_distance: ClassVar[bool] = True

    inputs: int
    outputs: int
    mean_shift: bool
    bias: bool
    type: str = "linf_dist"

    @property
    def parts(self) -> str:
        """What belongs to the layer besides its weights, in words."""
        parts = [name for name, on in (("mean shift", self.mean_shift), ("bias", self.bias)) if on]
        return ", ".join(parts) or "no bias"


@dataclass(frozen=True)
class LinearSpec:
    """One layer of the head, `y = activation(W x / sqrt(I) + b)`: `W` is what is trained and stored.

    Attributes:
        inputs: Number of inputs I.
        outputs: Number of outputs O.
        activation: `tanh`, or `none`.
    """

    is_distance: ClassVar[bool] = False

    inputs: int
    outputs: int
    activation: str
    type: str = "linear"

    def __post_init__(self) -> None:
        """Checks the activation.

        Raises:
            CheckpointError: It is unknown.
        """
        if self.activation not in ACTIVATIONS:
            raise CheckpointError(
                f"activation is {brief(self.activation)}; expected one of {', '.join(ACTIVATIONS)}"
            )

    @property
    def parts(self) -> str:
        """What belongs to the layer besides its weights, in words."""
        return "bias" if self.activation == "none" else f"bias, {self.activation}"


LAYER_TYPES: Mapping[str, type[Any]] = {"linear": LinearSpec, "linf_dist": LinfDistSpec}
"""Dataclasses that are `LayerSpec`s. Their fields are int, bool or str; `__post_init__` checks what those mean."""


def layer_from_json(index: int, data: object) -> LayerSpec:
    """Reads a layer of any type, trusting nothing.

    Args:
        index: The layer's place, for messages.
        data: The dataclass's fields by name.

    Raises:
        CheckpointError: A field is missing, unknown, of the wrong type or of no meaning.
    """
    what = f"layer {index}"
    known = f"one of the types {', '.join(LAYER_TYPES)}"
    if not isinstance(data, Mapping) or "type" not in data:
        raise CheckpointError(f"{what} is {_found(data)}; expected a mapping with {known}")
    cls = LAYER_TYPES.get(data["type"]) if isinstance(data["type"], str) else None
    if cls is None:
        raise CheckpointError(f"{what} is of type {brief(data['type'])}; expected {known}")
    kinds = {field.name: KINDS[str(field.type)] for field in fields(cls)}
    values = read_fields(data, set(kinds), what)
    for name, kind in kinds.items():
        if type(values[name]) is not kind:
            raise CheckpointError(f"{what}: {name} is {brief(values[name])}; expected {kind.__name__}")
    try:
        layer: LayerSpec = cls(**values)
    except CheckpointError as error:
        raise CheckpointError(f"{what}: {error}") from None
    return layer


def read_fields(data: object, expected: set[str], what: str) -> Mapping[str, Any]:
    """Returns a mapping that has these fields and no other.

    Raises:
        CheckpointError: It is none.
    """
    if not isinstance(data, Mapping) or set(data) != expected:
        raise CheckpointError(f"{what} is {_found(data)}; expected the fields {sorted(expected)}")
    return data


def _found(data: object) -> str:
    return brief(list(data)) if isinstance(data, Mapping) else type(data).__name__
