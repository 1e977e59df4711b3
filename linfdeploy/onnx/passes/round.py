# SPDX-License-Identifier: Apache-2.0
"""Rounding of folded weights to what is deployed: a dyadic grid (exact), float32 or float16."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from linfdeploy.errors import ExportError
from linfdeploy.onnx.chain import Centre, Chain, Distance, Doubles
from linfdeploy.onnx.mlp_head import Floats, MlpHead
from linfdeploy.onnx.passes.fold import fold_centre, fold_shifts
from linfdeploy.onnx.pixel_net import PIXEL_MAX, PixelLayer, Precision

__all__ = ["round_centre", "round_distances", "round_head", "round_layers"]


def round_distances(chain: Chain, precision: Precision, grid: int) -> tuple[tuple[PixelLayer, ...], Floats | None]:
    """Rounds what stands in front of the head to the deployed format, see `round_layers` and `round_centre`.

    Args:
        chain: In pixels.
        precision: Of the deployed net.
        grid: k of the grid; used by `exact` only.

    Returns:
        The layers, their sort weights left out; and what is subtracted before them, (C,), or None.

    Raises:
        ExportError: A value is beyond the format's range.
    """
    centre = round_centre(chain, precision, grid)
    folded = fold_centre(chain, None if centre is None else centre.astype(np.float64))
    layers = round_layers(fold_shifts(folded), precision, grid)
    windows = [step.window for step in folded.steps if isinstance(step, Distance)]
    return tuple(replace(layer, window=of) for layer, of in zip(layers, windows, strict=True)), centre


def round_centre(chain: Chain, precision: Precision, grid: int) -> Floats | None:
    """Rounds a chain's Centre so far that no difference of a pixel and it is ever rounded in the deployed format.

    Args:
        chain: In pixels.
        precision: `exact` rounds to the grid, which the proof of the net judges; `fp32` and `fp16` to the finest
            multiples of a power of two with which all differences fit.
        grid: k of the grid; used by `exact` only.

    Returns:
        (C,) in the deployed format; None: there is no Centre.

    Raises:
        ExportError: A value is beyond the format's range.
    """
    if not isinstance(step := chain.steps[0], Centre):
        return None
    if precision != "exact":
        dtype = np.float16 if precision == "fp16" else np.float32
        reach = float(np.maximum(np.abs(step.offset), np.abs(PIXEL_MAX - step.offset)).max()) + 1.0
        grid = np.finfo(dtype).nmant + 1 - math.frexp(reach)[1]
    return _rounded(np.rint(step.offset * 2.0**grid) / 2.0**grid, precision, grid, "the centre")


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
