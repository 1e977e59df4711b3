# SPDX-License-Identifier: Apache-2.0
"""The deployed net as numbers: weights in pixels, ready for an integer image in [0, 255].

    y_0 = image,   y_l = max_i |y_(l-1),i - W_l,oi| + B_l,o,   logits = -y_L, or the head of the features y_L

A layer may have sorted distances in the place of the maximum, in an exact net alone. The first layers may be
convolutions: the same on every window of an image, which holds zeros outside. Where the first of them shows these,
a centre is subtracted from the image before it: so zero is the pixel that the net was trained to see there.

Everything that is written to ONNX, evaluated bit-exactly or certified is one of these; no framework needed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from linfdeploy.nets.windows import Window
from linfdeploy.onnx.mlp_head import Floats, MlpHead

__all__ = [
    "EXACT_BITS",
    "MAX_GRID",
    "PIXEL_MAX",
    "PRECISIONS",
    "Floats",
    "PixelLayer",
    "PixelNet",
    "Precision",
    "on_grid",
]

Precision: TypeAlias = Literal["exact", "fp32", "fp16"]
PRECISIONS: tuple[Precision, ...] = ("exact", "fp32", "fp16")

Indices: TypeAlias = npt.NDArray[np.int64]
Scalar = TypeVar("Scalar", bound=np.generic)

PIXEL_MAX = 255
EXACT_BITS = 24
"""Significand bits of float32: multiples of 2^-k up to 2^(24-k) are represented exactly."""
MAX_GRID = EXACT_BITS - 1
"""The finest grid of which float32 can hold a whole pixel."""


@dataclass(frozen=True)
class PixelLayer:
    """One layer `max_i |x_i - weight_oi| + bias_o`, or with sorted distances; of its input or each window of it.

    Attributes:
        weight: (O, I) float32 or float16, in pixels; of a convolution I is what a window shows.
        bias: (O,), of the same dtype, in pixels.
        sort: (K,) float32, the weights of the K largest `|x_i - weight_oi|`, falling, whose sum is rounded to a
            multiple of the net's grid, halves upwards; None: the maximum.
        window: How a convolution's window moves; None: there is one row, the input.
    """

    weight: Floats
    bias: Floats
    sort: npt.NDArray[np.float32] | None = None
    window: Window | None = None

    @property
    def inputs(self) -> int:
        """Number of values that enter."""
        return int(self.weight.shape[1]) if self.window is None else self.window.inputs

    @property
    def positions(self) -> int:
        """How often each row of the weight is looked at: 1, or once for each place of the window."""
        return 1 if self.window is None else self.window.positions

    @property
    def outputs(self) -> int:
        """Number of values that leave: of a convolution channel by channel, (O, H', W') in row-major order."""
        return len(self.weight) * self.positions

    @property
    def output_bias(self) -> Floats:
        """The bias of each output, (outputs,)."""
        repeated: Floats = self.bias[np.arange(self.outputs) // self.positions]
        return repeated

    def rows(self, x: npt.NDArray[Scalar]) -> npt.NDArray[Scalar]:
        """Returns what rows of the weight meet, (N * positions, I), of inputs (N, inputs)."""
        return x if self.window is None else self.window.rows(x)

    def sources(self, outputs: Indices, terms: Indices) -> Indices:
        """Returns which inputs some outputs see at some columns of the weight; `inputs` is a zero beside an image.

        Args:
            outputs: Of the layer, of any shape.
            terms: Columns of the weight, of the same shape.
        """
        return terms if self.window is None else self.window.index[outputs % self.positions, terms]

    def flat(self, y: npt.NDArray[Scalar]) -> npt.NDArray[Scalar]:
        """Returns what leaves, (N, outputs), of what was found for each row of `rows`, (N * positions, O)."""
        return y if self.window is None else self.window.flat(y)


@dataclass(frozen=True)
class PixelNet:
    """A net in pixel units.

    Attributes:
        input_shape: (C, H, W) of a uint8 image.
        layers: The distance layers, all of one dtype.
        grid: k, when all weights and biases of `layers` are promised to be multiples of 2^-k pixel; None
            otherwise.
        head: What turns the last layer's outputs into logits, with tanh between its layers and in the same dtype;
            None: a negation does.
        centre: (C,) in the format of the layers, what is subtracted from each channel of an image, which never
            rounds; None: nothing is.
    """

    input_shape: tuple[int, int, int]
    layers: tuple[PixelLayer, ...]
    grid: int | None
    head: MlpHead | None = None
    centre: Floats | None = None

    @property
    def precision(self) -> Precision:
        """`exact` for float32 weights on a grid, else the name of the weights' format.

        A head is never exact: `exact` then speaks of the features alone.
        """
        if self.layers[0].weight.dtype == np.float16:
            return "fp16"
        return "fp32" if self.grid is None else "exact"

    @property
    def sorts(self) -> bool:
        """Whether there are sorted distances."""
        return any(layer.sort is not None for layer in self.layers)

    @property
    def inputs(self) -> int:
        """Number of pixel values of an image, C*H*W."""
        return math.prod(self.input_shape)

    @property
    def classes(self) -> int:
        """Number of logits."""
        return self.features if self.head is None else self.head.classes

    @property
    def distances(self) -> PixelNet:
        """The distance layers alone: a pure net, whose logits are the negated features."""
        return replace(self, head=None)

    @property
    def features(self) -> int:
        """Number of outputs of the last distance layer."""
        return self.layers[-1].outputs

    @property
    def convolves(self) -> bool:
        """Whether there are convolutions."""
        return any(layer.window is not None for layer in self.layers)

    @property
    def input_centre(self) -> npt.NDArray[np.float32]:
        """What is subtracted from each value of a flat image, (inputs,) float32; zeros where nothing is."""
        channels, *size = self.input_shape
        centre = np.zeros(channels, np.float32) if self.centre is None else self.centre.astype(np.float32)
        return np.repeat(centre, math.prod(size))

    @property
    def format(self) -> npt.DTypeLike:
        """The numpy dtype of weights and activations."""
        return self.layers[0].weight.dtype


def on_grid(values: Floats, grid: int) -> bool:
    """Returns whether every value is a multiple of 2^-grid; exact, since scaling by a power of two is."""
    scaled = values.astype(np.float64) * 2.0**grid
    return bool(np.all(scaled == np.rint(scaled)))
