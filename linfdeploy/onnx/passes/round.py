# SPDX-License-Identifier: Apache-2.0
"""Rounding of folded weights to what is deployed: a dyadic grid (exact), float32 or float16."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from linfdeploy.errors import ExportError
from linfdeploy.onnx.chain import Doubles
from linfdeploy.onnx.mlp_head import MlpHead
from linfdeploy.onnx.pixel_net import PixelLayer, Precision

__all__ = ["round_head", "round_layers"]


def round_layers(
    layers: tuple[tuple[Doubles, Doubles], ...], precision: Precision, grid: int
) -> tuple[PixelLayer, ...]:
    """Rounds weights and biases to the deployed format.

    On the grid the function moves by at most `2^-(grid+1)` pixel for the weights and again for the biases of
    a layer, so by at most `layers * 2^-grid` pixel in all: each layer is 1-Lipschitz, so errors add only.

    Args:
        layers: (weight, bias) pairs in float64 pixels.
        precision: `exact` snaps to multiples of 2^-grid pixel, in float32; `fp32` and `fp16` round to the format.
        grid: k of the grid; used by `exact` only.

    Raises:
        ExportError: A value is beyond the format's range.
    """
    rounded = (
        (_rounded(values, precision, grid, f"layer {index}") for values in pair)
        for index, pair in enumerate(layers)
    )
    return tuple(PixelLayer(weight, bias) for weight, bias in rounded)


def round_head(layers: tuple[tuple[Doubles, Doubles], ...], precision: Precision) -> MlpHead | None:
    """Rounds a head's weights and biases once, to float32 or float16; no grid makes products exact.

    Args:
        layers: (weight, bias) pairs in float64, for features in pixels; none of a pure net.
        precision: `fp16` rounds to float16, all others to float32.

    Raises:
        ExportError: A value is beyond the format's range.
    """
    if not layers:
        return None
    to: Precision = "fp16" if precision == "fp16" else "fp32"
    weights, biases = zip(
        *(
            [_rounded(values, to, 0, f"layer {index} of the head", "") for values in pair]
            for index, pair in enumerate(layers)
        ),
        strict=True,
    )
    return MlpHead(tuple(weights), tuple(biases), "tanh")


def _rounded(
    values: Doubles, precision: Precision, grid: int, where: str, unit: str = " pixels"
) -> npt.NDArray[np.float32] | npt.NDArray[np.float16]:
    dtype = np.float16 if precision == "fp16" else np.float32
    # Negated, so that NaN does not pass.
    if not (largest := float(np.abs(values).max())) <= float(np.finfo(dtype).max) / 4:
        raise ExportError(
            f"{where} holds {largest:g}{unit}, too large for {np.dtype(dtype).name}; "
            "expected weights near the pixel range: check the checkpoint or use --precision fp32"
        )
    if precision == "exact":
        values = np.rint(values * 2.0**grid) / 2.0**grid
    # Adding zero turns -0 into 0: the file's bits then depend on the values alone.
    if precision == "fp16":
        return values.astype(np.float16) + np.float16(0)
    return values.astype(np.float32) + np.float32(0)
