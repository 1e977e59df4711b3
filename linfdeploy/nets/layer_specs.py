# SPDX-License-Identifier: Apache-2.0
"""The types of layers, as plain data.

A further type is a dataclass and its row in LAYER_TYPES; its torch layer is a row in `linfdeploy.nets.net`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Protocol

from linfdeploy.errors import CheckpointError, brief
from linfdeploy.nets.windows import Window

__all__ = [
    "LAYER_TYPES",
    "MOST_TERMS",
    "LayerSpec",
    "LinearSpec",
    "LinfDistConvSpec",
    "LinfDistSpec",
    "SortDistConvSpec",
    "SortDistSpec",
    "layer_from_json",
    "read_fields",
]

ACTIVATIONS = ("none", "tanh")

MOST_TERMS = 32
"""The most differences that the kernels' sorted distance weighs."""

# By the annotations of a spec's fields.
KINDS: Mapping[str, type] = {"int": int, "float": float, "bool": bool, "str": str}


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
class LinfDistConvSpec:
    """One layer, `y_o = max_i |x_i - w_oi| - mean_o + b_o` of every window x of an image, with zeros beside it.

    The zeros stand in the space of the layer's input, behind normalisation and mean shifts.

    Attributes:
        channels: Of the image that enters.
        height: Its height.
        width: Its width.
        filters: Number of channels that leave.
        kernel: Side of the window.
        stride: Step of the window, both ways.
        padding: Rows and columns of zeros at each side.
        mean_shift: Whether each channel's batch mean (training) or running mean (evaluation) is subtracted.
        bias: Whether a bias is added, one a channel.
    """

    is_distance: ClassVar[bool] = True

    channels: int
    height: int
    width: int
    filters: int
    kernel: int
    stride: int
    padding: int
    mean_shift: bool
    bias: bool
    type: str = "linf_dist_conv"

    def __post_init__(self) -> None:
        """Checks that the window fits.

        Raises:
            CheckpointError: It does not.
        """
        assert self.window.positions

    @property
    def window(self) -> Window:
        """How the window moves."""
        return Window((self.channels, self.height, self.width), self.kernel, self.stride, self.padding)

    @property
    def output_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the image that leaves."""
        return self.filters, *self.window.places

    @property
    def inputs(self) -> int:
        """Number of values that enter."""
        return self.window.inputs

    @property
    def outputs(self) -> int:
        """Number of values that leave."""
        return self.filters * self.window.positions

    @property
    def parts(self) -> str:
        """What belongs to the layer besides its weights, in words."""
        shifts = LinfDistSpec(self.inputs, self.outputs, self.mean_shift, self.bias).parts
        shapes = " to ".join("x".join(map(str, shape)) for shape in (self.window.shape, self.output_shape))
        return f"{shapes}, kernel {self.kernel}, stride {self.stride}, padding {self.padding}, {shifts}"


@dataclass(frozen=True)
class SortDistSpec:
    """One layer, `y_o = sum_k c_k |x - w_o|_(k) - mean_o + b_o`, of the K largest differences, falling.

    With `c_k = q (1 - q)^(k - 1) / (1 - (1 - q)^K)` it is, but for being cut off behind K terms, the mean over
    random subsets of the inputs of their largest difference; so training takes subsets.

    Source: Zhang et al., "Rethinking Lipschitz Neural Networks and Certified Robustness: A Boolean Function
    Perspective", NeurIPS 2022.

    Attributes:
        inputs: Number of inputs I.
        outputs: Number of outputs O.
        mean_shift: Whether the batch mean (training) or the running mean (evaluation) is subtracted.
        bias: Whether a bias is added.
        keep: q, the chance of an input to be in a subset; 1 is the l_inf distance.
        terms: K, at most I and MOST_TERMS.
    """

    is_distance: ClassVar[bool] = True

    inputs: int
    outputs: int
    mean_shift: bool
    bias: bool
    keep: float
    terms: int
    type: str = "sort_dist"

    def __post_init__(self) -> None:
        """Checks that there are weights.

        Raises:
            CheckpointError: `keep` or `terms` is out of range.
        """
        if not 0 < self.keep <= 1:
            raise CheckpointError(f"keep is {self.keep}; expected a chance above 0 and at most 1")
        if not 1 <= self.terms <= min(self.inputs, MOST_TERMS):
            raise CheckpointError(
                f"terms is {brief(self.terms)} for {brief(self.inputs)} inputs; expected 1 to the number of "
                f"inputs, and at most {MOST_TERMS}"
            )

    @property
    def weights(self) -> tuple[float, ...]:
        """The weights c of the largest differences, falling; their sum is 1."""
        series = [self.keep * (1 - self.keep) ** k for k in range(self.terms)]
        total = sum(series)
        return tuple(weight / total for weight in series)

    @property
    def parts(self) -> str:
        """What belongs to the layer besides its weights, in words."""
        shifts = LinfDistSpec(self.inputs, self.outputs, self.mean_shift, self.bias).parts
        return f"{shifts}, keep {self.keep:g}, {self.terms} terms"


@dataclass(frozen=True)
class SortDistConvSpec(LinfDistConvSpec):
    """The layer of `SortDistSpec` on every window of an image, with zeros beside it.

    Attributes:
        keep: The chance of an input to be in a subset.
        terms: The most differences that are weighed, at most what a window shows and MOST_TERMS.
    """

    keep: float = field(kw_only=True)
    terms: int = field(kw_only=True)
    type: str = "sort_dist_conv"

    def __post_init__(self) -> None:
        """Checks that the window fits and that there are weights.

        Raises:
            CheckpointError: One is not so.
        """
        super().__post_init__()
        assert self.on_rows

    @property
    def on_rows(self) -> SortDistSpec:
        """The dense layer on what a window shows."""
        shown = self.window.terms
        return SortDistSpec(shown, self.filters, self.mean_shift, self.bias, self.keep, self.terms)

    @property
    def parts(self) -> str:
        """What belongs to the layer besides its weights, in words."""
        return f"{super().parts}, keep {self.keep:g}, {self.terms} terms"


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


LAYER_TYPES: Mapping[str, type[Any]] = {
    "linear": LinearSpec,
    "linf_dist": LinfDistSpec,
    "linf_dist_conv": LinfDistConvSpec,
    "sort_dist": SortDistSpec,
    "sort_dist_conv": SortDistConvSpec,
}
"""Dataclasses that are `LayerSpec`s. Fields are int, float, bool or str; `__post_init__` checks what they mean."""


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
