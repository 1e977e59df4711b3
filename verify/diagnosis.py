# SPDX-License-Identifier: Apache-2.0
"""Names what an engine computes instead, when its logits are not the evaluator's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from linfdeploy.engines.base import Images, Logits
from linfdeploy.engines.reference import ReferenceEngine, roundings_of
from linfdeploy.kernels import linf_dist, sort_dist
from linfdeploy.onnx.pixel_net import PixelNet

__all__ = ["diagnose"]

FEW = 4


def diagnose(net: PixelNet, images: Images, found: Logits, expected: Logits) -> str:
    """Tries what goes wrong in practice and returns the one that explains every logit, in words.

    Args:
        net: The pure net that the engine should compute.
        images: (N, C, H, W) uint8 probes.
        found: (N, K) the engine's logits.
        expected: (N, K) the bit-exact evaluator's logits.
    """
    return (
        _not_finite(found)
        or _swapped_classes(found, expected)
        or _wrong_rows(found, expected)
        or _bias_offset(found, expected)
        or _half_precision(net, images, found)
        or _dropped_column(net, images, found)
        or "no known fault explains it"
    )


def _not_finite(found: Logits) -> str | None:
    if np.isfinite(found).all():
        return None
    return f"{(~np.isfinite(found)).sum()} logits are infinite or NaN"


def _swapped_classes(found: Logits, expected: Logits) -> str | None:
    columns = {expected[:, j].tobytes(): j for j in range(expected.shape[1])}
    order = [columns.get(found[:, j].tobytes()) for j in range(found.shape[1])]
    moved = [j for j, source in enumerate(order) if source != j]
    if None in order or not moved:
        return None
    return f"classes {', '.join(map(str, moved))} have changed places"


def _wrong_rows(found: Logits, expected: Logits) -> str | None:
    known = {row.tobytes() for row in expected}
    wrong = [i for i, row in enumerate(found) if row.tobytes() != expected[i].tobytes()]
    if all(found[i].tobytes() in known for i in wrong):
        return f"{len(wrong)} rows of the batch hold another image's logits, the first at row {wrong[0]}"
    return None


def _bias_offset(found: Logits, expected: Logits) -> str | None:
    change = found.astype(np.float64) - expected.astype(np.float64)
    if np.ptp(change, axis=0).max() > 0:
        return None
    moved = np.flatnonzero(change[0])
    return f"the bias of class {moved[0]} is off by {-change[0, moved[0]]:+g} pixel"


def _half_precision(net: PixelNet, images: Images, found: Logits) -> str | None:
    if net.format == np.float16 or net.sorts:
        return None
    layers = tuple(
        replace(layer, weight=layer.weight.astype(np.float16), bias=layer.bias.astype(np.float16))
        for layer in net.layers
    )
    centre = None if net.centre is None else net.centre.astype(np.float16)
    half = replace(net, layers=layers, grid=None, centre=centre)
    # Few images rule most roundings out.
    few = slice(None, FEW)
    for rounding in roundings_of(half):
        evaluator = ReferenceEngine(half, rounding)
        if evaluator.explains(images[few], found[few]).all() and evaluator.explains(images, found).all():
            return "it computes in fp16"
    return None


def _dropped_column(net: PixelNet, images: Images, found: Logits) -> str | None:
    """Tries each layer, and then all of them at once, with the last input column left out."""
    wide = {
        index
        for index, layer in enumerate(net.layers)
        if layer.weight.shape[1] > (1 if layer.sort is None else len(layer.sort))
    }
    for index in wide:
        if np.array_equal(_without_column(net, {index}, images), found):
            return f"the last input column of layer {index} is dropped"
    if len(wide) == len(net.layers) and np.array_equal(_without_column(net, wide, images), found):
        return "the last input column of every layer is dropped"
    return None


def _without_column(net: PixelNet, dropped: set[int], images: Images) -> Logits:
    """Evaluates the net, per-op, without the last input of some layers."""
    x = images.reshape(len(images), -1).astype(np.float32) - net.input_centre
    for index, layer in enumerate(net.layers):
        kept = slice(None, -1) if index in dropped else slice(None)
        rows, weight = layer.rows(x)[:, kept], layer.weight.astype(np.float32)[:, kept]
        distance = linf_dist(rows, weight) if layer.sort is None else sort_dist(rows, weight, layer.sort, net.grid)
        x = layer.flat(distance).astype(net.format) + layer.output_bias.astype(net.format)
        x = x.astype(np.float32)
    return -x
