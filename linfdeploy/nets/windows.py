# SPDX-License-Identifier: Apache-2.0
"""How the window of a convolution moves over an image, and what it shows: a dense layer's rows, place by place.

A convolution of windows is the dense layer on the rows that `Window.rows` returns. No torch is needed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from linfdeploy.errors import CheckpointError, brief

__all__ = ["MAX_WINDOW", "Window"]

MAX_WINDOW = 2**16
"""The largest size, step or padding, as in the kernels: no arithmetic on sizes overflows."""
MAX_VALUES = 2**24
"""The most values of an image, or of a window; beyond it a file is taken for hostile."""
MAX_SHOWN = 2**26
"""The most values that a window may show at all its places; likewise."""

Shape: TypeAlias = tuple[int, int, int]
Scalar = TypeVar("Scalar", bound=np.generic)


@dataclass(frozen=True)
class Window:
    """A square window over images (C, H, W), which hold zeros outside: those take part.

    Attributes:
        shape: (C, H, W) of an image.
        kernel: Side of the window.
        stride: Step of the window, both ways.
        padding: Rows and columns of zeros at each side.
    """

    shape: Shape
    kernel: int
    stride: int
    padding: int

    def __post_init__(self) -> None:
        """Checks that there is a place for the window.

        Raises:
            CheckpointError: There is none, or a size is out of range.
        """
        sizes = (*self.shape, self.kernel, self.stride, self.padding + 1)
        if not all(1 <= size <= MAX_WINDOW for size in sizes):
            raise CheckpointError(
                f"an image of {brief(self.shape)}, kernel {brief(self.kernel)}, stride {brief(self.stride)} and "
                f"padding {brief(self.padding)}; expected sizes from 1 to {MAX_WINDOW}, and a padding from 0"
            )
        if self.kernel > min(self.shape[1:]) + 2 * self.padding:
            raise CheckpointError(
                f"a window of {self.kernel} on an image of {self.shape[1]} x {self.shape[2]} with padding "
                f"{self.padding}; expected one that fits into the padded image"
            )
        shown = self.positions * self.terms
        if max(self.inputs, self.terms) > MAX_VALUES or shown > MAX_SHOWN:
            raise CheckpointError(
                f"an image of {self.inputs} values, of which windows of {self.terms} show {shown}; expected at "
                f"most {MAX_VALUES} in each, and {MAX_SHOWN} in all windows"
            )

    @property
    def places(self) -> tuple[int, int]:
        """Rows and columns of places, (H', W')."""
        height, width = ((size + 2 * self.padding - self.kernel) // self.stride + 1 for size in self.shape[1:])
        return height, width

    @property
    def positions(self) -> int:
        """Number of places."""
        return math.prod(self.places)

    @property
    def inputs(self) -> int:
        """Number of values of an image, C*H*W."""
        return math.prod(self.shape)

    @property
    def terms(self) -> int:
        """Number of values that a window shows, C*kernel*kernel."""
        return self.shape[0] * self.kernel**2

    @property
    def pads(self) -> bool:
        """Whether some place shows a zero beside the image."""
        return self.padding > 0

    @property
    def index(self) -> npt.NDArray[np.int64]:
        """Which value of the flat image each place shows, (positions, terms); `inputs` is a zero beside it."""
        return _index(self)

    def rows(self, x: npt.NDArray[Scalar]) -> npt.NDArray[Scalar]:
        """Returns what the windows show of flat images (N, inputs): (N * positions, terms), place by place."""
        padded = np.concatenate([x, np.zeros((len(x), 1), x.dtype)], axis=1)
        return padded[:, self.index].reshape(-1, self.terms)

    def flat(self, y: npt.NDArray[Scalar]) -> npt.NDArray[Scalar]:
        """Returns the images that rows (N * positions, O) make up, flat: (N, O * positions)."""
        outputs = y.shape[1]
        places = y.reshape(-1, self.positions, outputs).transpose(0, 2, 1)
        return np.ascontiguousarray(places.reshape(len(places), outputs * self.positions))


@lru_cache(maxsize=32)
def _index(window: Window) -> npt.NDArray[np.int64]:
    channels, height, width = window.shape
    rows, columns = (
        np.arange(places)[:, None] * window.stride + np.arange(window.kernel) - window.padding
        for places in window.places
    )
    image = np.arange(window.inputs).reshape(channels, height, width)
    padded: npt.NDArray[Any] = np.full(
        (channels, *(size + 2 * window.padding for size in (height, width))), window.inputs
    )
    inner = slice(window.padding, window.padding + height), slice(window.padding, window.padding + width)
    padded[:, inner[0], inner[1]] = image
    shown = padded[:, rows[:, None, :, None] + window.padding, columns[None, :, None, :] + window.padding]
    index: npt.NDArray[np.int64] = shown.transpose(1, 2, 0, 3, 4).reshape(window.positions, window.terms)
    index.setflags(write=False)
    return index
