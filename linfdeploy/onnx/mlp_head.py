# SPDX-License-Identifier: Apache-2.0
"""The linear layers behind distance features, as numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from linfdeploy.errors import InputError

__all__ = ["Activation", "Floats", "MlpHead"]

Activation: TypeAlias = Literal["tanh", "clamp"]
Floats: TypeAlias = npt.NDArray[np.float32] | npt.NDArray[np.float16]


@dataclass(frozen=True)
class MlpHead:
    """Linear layers `W z + b` with an activation between each two.

    Attributes:
        weights: Of each layer, (O, I) float32 or float16, as the engine holds them.
        biases: Of each layer, (O,).
        activation: `tanh`, or `clamp` to [-1, 1].
    """

    weights: tuple[Floats, ...]
    biases: tuple[Floats, ...]
    activation: Activation

    def __post_init__(self) -> None:
        """Refuses layers that do not fit each other.

        Raises:
            InputError: A shape, a number of layers or a value that does not fit.
        """
        if not self.weights or len(self.weights) != len(self.biases):
            raise InputError(
                f"the head has {len(self.weights)} weights and {len(self.biases)} biases; "
                "expected as many of each, at least one: give every layer both"
            )
        inputs = self.features
        for index, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            if weight.ndim != 2 or weight.shape[1] != inputs or bias.shape != weight.shape[:1] or not inputs:
                raise InputError(
                    f"layer {index} of the head has weights {weight.shape} and biases {bias.shape}; expected "
                    f"(O, {inputs}) and (O,): check the order of the layers"
                )
            if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
                raise InputError(f"layer {index} of the head is not finite: check the checkpoint")
            inputs = len(bias)

    @property
    def features(self) -> int:
        """Number of inputs of the first layer."""
        return int(self.weights[0].shape[-1]) if self.weights[0].ndim else 0

    @property
    def classes(self) -> int:
        """Number of outputs of the last layer."""
        return len(self.biases[-1])
