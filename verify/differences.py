# SPDX-License-Identifier: Apache-2.0
"""Names the difference between the weights that were found and those that were expected."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from linfdeploy.onnx.pixel_net import PixelLayer, PixelNet
from linfdeploy.report.model import Violation

__all__ = ["weight_differences"]

Array = npt.NDArray[np.float32] | npt.NDArray[np.float16]


def weight_differences(found: PixelNet, expected: PixelNet) -> tuple[Violation, ...]:
    """Compares two nets bit for bit.

    Returns:
        One violation a layer that differs, of kind `precision`, `shape`, `classes`, `bias`, `weight bit` or
        `weights`, naming where and by how much; nothing when every bit is equal.
    """
    if found.format != expected.format:
        return (Violation("precision", f"weights are {found.precision}; {expected.precision} was promised"),)
    if _shapes(found) != _shapes(expected):
        return (Violation("shape", f"layers are {_sizes(found)}; the reference has {_sizes(expected)}"),)
    if swapped := _swapped_classes(found, expected):
        return (Violation("classes", swapped),)
    return tuple(_layer_differences(found, expected))


def _layer_differences(found: PixelNet, expected: PixelNet) -> Iterator[Violation]:
    if not np.array_equal(found.input_centre, expected.input_centre):
        yield Violation("weights", "the centre that is subtracted from the pixels differs")
    for index, (ours, theirs) in enumerate(zip(_layers(found), _layers(expected), strict=True)):
        if _bits(ours.bias) != _bits(theirs.bias):
            yield Violation("bias", _bias_difference(index, ours.bias, theirs.bias, expected.grid))
        if _bits(ours.weight) != _bits(theirs.weight):
            yield _weight_difference(index, ours.weight, theirs.weight)
        if _sort_bits(ours) != _sort_bits(theirs):
            yield Violation("weights", f"layer {index}'s weights of sorted distances differ")


def _bias_difference(index: int, found: Array, expected: Array, grid: int | None) -> str:
    where = np.flatnonzero(_words(found) != _words(expected))
    output = int(where[0])
    change = float(found[output]) - float(expected[output])
    steps = f" ({change * 2.0**grid:+g} grid steps)" if grid is not None else ""
    return f"{len(where)} of layer {index}'s biases differ; output {output} is off by {change:+g} pixel{steps}"


def _weight_difference(index: int, found: Array, expected: Array) -> Violation:
    differs = _words(found) != _words(expected)
    rows, columns = np.nonzero(differs)
    if len(rows) == 1:
        return _single(index, found, expected, int(rows[0]), int(columns[0]))
    if _bits(found) == _bits(expected.T):
        return Violation("weights", f"layer {index}'s weights are transposed")
    if len(set(columns.tolist())) == 1:
        detail = f"input column {columns[0]} of layer {index} is replaced in {len(rows)} rows"
        return Violation("input column", detail)
    largest = float(np.abs(found.astype(np.float64) - expected.astype(np.float64)).max())
    return Violation("weights", f"{len(rows)} of layer {index}'s weights differ, by up to {largest:g} pixel")


def _single(index: int, found: Array, expected: Array, row: int, column: int) -> Violation:
    flipped = int(_words(found)[row, column]) ^ int(_words(expected)[row, column])
    change = (
        f"layer {index}, weight [{row}, {column}]: {found[row, column]} where {expected[row, column]} was exported"
    )
    if flipped.bit_count() == 1:
        return Violation("weight bit", f"bit {flipped.bit_length() - 1} is flipped in {change}")
    return Violation("weights", f"one weight differs: {change}")


def _swapped_classes(found: PixelNet, expected: PixelNet) -> str | None:
    """Says which classes changed places, when the last layers are equal up to that."""
    rows, wanted = _class_rows(found), _class_rows(expected)
    if rows == wanted or sorted(rows) != sorted(wanted):
        return None
    moved = [index for index, (row, other) in enumerate(zip(rows, wanted, strict=True)) if row != other]
    return f"classes {', '.join(map(str, moved))} have changed places in the last layer"


def _sort_bits(layer: PixelLayer) -> bytes | None:
    return None if layer.sort is None else _bits(layer.sort)


def _class_rows(net: PixelNet) -> list[bytes]:
    last = _layers(net)[-1]
    return [_bits(weight) + _bits(bias) for weight, bias in zip(last.weight, last.bias, strict=True)]


def _bits(values: Array) -> bytes:
    return np.ascontiguousarray(values).tobytes()


def _words(values: Array) -> npt.NDArray[np.unsignedinteger]:
    return np.ascontiguousarray(values).view(np.uint16 if values.dtype == np.float16 else np.uint32)


def _sizes(net: PixelNet) -> str:
    return "-".join(str(size) for size in (net.inputs, *(layer.outputs for layer in _layers(net))))


def _layers(net: PixelNet) -> list[PixelLayer]:
    """Returns the layers of distances and then those of the head, which are numbered on."""
    head = () if net.head is None else zip(net.head.weights, net.head.biases, strict=True)
    return [*net.layers, *(PixelLayer(*pair) for pair in head)]


def _shapes(net: PixelNet) -> tuple[int, list[tuple[object, ...]]]:
    return len(net.layers), [(layer.weight.shape, layer.window) for layer in _layers(net)]
