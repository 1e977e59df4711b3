# SPDX-License-Identifier: Apache-2.0
"""Golden images and the bits that an engine must answer to them.

The arrays lie in the bundle as `.npy` files. Their headers are written here, to the byte, so that reading is
comparing: no header from outside is ever parsed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from linfdeploy.engines.base import Answers, Engine, Images
from linfdeploy.engines.plain import check_evaluator
from linfdeploy.engines.reference import ReferenceEngine
from linfdeploy.onnx.read import DeployedGraph

__all__ = [
    "ANSWERS",
    "PROBE",
    "Golden",
    "GoldenImages",
    "Labels",
    "answer_all",
    "array_from_npy",
    "golden_answers",
    "npy_from_array",
]

Labels: TypeAlias = npt.NDArray[np.int64]

PROBE = -1
"""The label of an image that has none: it is there to be compared, not to be classified."""

ANSWERS: Mapping[str, str] = {"logits": "<f4", "label": "<i8", "radius": "<f4"}
"""The outputs of a graph with their types; `logits` is always there, the others together or not at all."""

BATCH = 256
# For the evaluator against plain numpy, which is slow.
PLAIN_IMAGES = 8


@dataclass(frozen=True, eq=False)
class GoldenImages:
    """Images to run on every engine of a net.

    Attributes:
        data: Name of the data set that the first of them are from.
        images: (N, C, H, W) uint8; those of the data set first, then the probes.
        labels: (N,) int64; true classes, and PROBE for the probes.
        probes: How many images each family of probes has, by its name, in their order.
    """

    data: str
    images: Images
    labels: Labels
    probes: Mapping[str, int]

    @property
    def labelled(self) -> int:
        """How many images have a label."""
        return int((self.labels != PROBE).sum())


@dataclass(frozen=True, eq=False)
class Golden:
    """Golden images as they lie in a bundle, and the bit-exact evaluator's answers.

    Attributes:
        images: (N, C, H, W) uint8.
        labels: (N,) int64, PROBE where there is none; those with a label come first.
        answers: `logits` (N, K) float32, and for a graph with radius `label` (N,) int64 and `radius` (N,) float32.
    """

    images: Images
    labels: Labels
    answers: Answers


def golden_answers(graph: DeployedGraph, images: Images) -> Answers:
    """Computes every output of the graph by the definition of its operations, with an evaluator that was checked.

    Args:
        graph: What a device will build.
        images: (N, C, H, W) uint8.

    Raises:
        EngineError: The evaluator differs from plain numpy on this machine.
    """
    evaluator = ReferenceEngine(graph.net, radius=graph.options.radius)
    some = images[:: -(-len(images) // PLAIN_IMAGES)]
    check_evaluator(evaluator, some, some // 2, some)
    return answer_all(evaluator, images)


def answer_all(engine: Engine, images: Images) -> Answers:
    """Returns every output for all images, computed 256 at a time.

    Raises:
        EngineError: The images do not fit, or the engine fails.
    """
    parts = [engine.answer(images[start : start + BATCH]) for start in range(0, len(images), BATCH)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def npy_from_array(array: npt.NDArray[Any]) -> bytes:
    """Returns the `.npy` file of an array in little-endian, row-major order."""
    dtype = array.dtype.newbyteorder("<")
    return _header(dtype.str, array.shape) + np.ascontiguousarray(array, dtype).tobytes()


def array_from_npy(data: bytes, dtype: str, shape: tuple[int, ...]) -> npt.NDArray[Any] | None:
    """Returns the array of a file that `npy_from_array` wrote; None if it is not of this type and shape."""
    header = _header(dtype, shape)
    if not data.startswith(header) or len(data) != len(header) + np.dtype(dtype).itemsize * math.prod(shape):
        return None
    return np.frombuffer(data, dtype, offset=len(header)).reshape(shape).astype(np.dtype(dtype).newbyteorder("="))


def _header(dtype: str, shape: tuple[int, ...]) -> bytes:
    """Version 1.0 of the format: magic, length, a Python dictionary, padded to a multiple of 64 bytes."""
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape!r}, }}"
    padded = f"{text}{' ' * (-(len(text) + 11) % 64)}\n".encode("ascii")
    return b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded
