# SPDX-License-Identifier: Apache-2.0
"""Small nets, and what they must compute: exactly in rationals, and with every rounding written out."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeAlias
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from onnx import ModelProto
from onnx.reference import ReferenceEvaluator
from oracles import exact_net

from linfdeploy.nets.checkpoint import save_checkpoint
from linfdeploy.nets.net import LinfNet
from linfdeploy.nets.spec import LayerSpec, NetSpec
from linfdeploy.onnx.export import ExportOptions, model_from_checkpoint_net
from linfdeploy.onnx.pixel_net import PixelLayer, PixelNet, Precision
from linfdeploy.onnx.trace import chain_from_net
from linfdeploy.onnx.write import Form, GraphOptions

__all__ = [
    "FORMS",
    "NET",
    "SHAPE",
    "all_images",
    "checkpoint",
    "exact_logits",
    "exported",
    "float_bits",
    "in_reference",
    "in_runtime",
    "pixel_net",
    "random_images",
    "rounded_to",
    "slow_logits",
    "torch_net",
    "traced",
]

Images: TypeAlias = npt.NDArray[np.uint8]
Round: TypeAlias = Callable[[Fraction], Fraction]

FORMS: tuple[Form, ...] = ("function", "op", "standard")
SHAPE = (1, 3, 3)


def pixel_net(
    seed: int,
    precision: Precision = "exact",
    *,
    sizes: tuple[int, ...] = (9, 7, 5, 3),
    shape: tuple[int, int, int] = SHAPE,
    grid: int = 12,
    spread: float = 300.0,
) -> PixelNet:
    """A net of random weights within `spread` pixels, without a checkpoint before it."""
    rng = np.random.default_rng(seed)
    dtype = np.float16 if precision == "fp16" else np.float32

    def values(*size: int) -> Any:
        wild = rng.uniform(-spread / 4, spread, size)
        return (np.rint(wild * 2.0**grid) / 2.0**grid if precision == "exact" else wild).astype(dtype)

    layers = tuple(
        PixelLayer(values(outputs, inputs), values(outputs)) for inputs, outputs in itertools.pairwise(sizes)
    )
    return PixelNet(shape, layers, grid if precision == "exact" else None)


def torch_net(
    seed: int,
    *,
    shape: tuple[int, int, int] = SHAPE,
    mean: tuple[float, ...] = (0.3,),
    std: float = 0.4,
    layers: tuple[LayerSpec, ...] | None = None,
) -> LinfNet:
    """A net as training leaves it: means, biases and weights all random."""
    spec = NetSpec.mlp(shape, mean, std, (7, 5), 3) if layers is None else NetSpec(shape, mean, std, layers)
    generator = torch.Generator().manual_seed(seed)
    net = LinfNet(spec).eval().requires_grad_(False)
    for tensor in net.state_dict().values():
        tensor.copy_(torch.randn(tensor.shape, generator=generator))
    return net


NET = torch_net(0)


def checkpoint(path: Path) -> Path:
    """The file of `NET`."""
    save_checkpoint(path, NET, {"recipe": "none", "seed": 0})
    return path


traced = functools.cache(chain_from_net)
"""`chain_from_net`, once for each net: it takes seconds."""


@functools.cache
def exported(precision: Precision = "exact", form: Form = "function", radius: bool = False) -> bytes:
    """The exported file of `NET`."""
    options = ExportOptions(precision, graph=GraphOptions(form, radius))
    with patch("linfdeploy.onnx.export.chain_from_net", traced):
        model = model_from_checkpoint_net(NET, options, "0" * 64)
    return bytes(model.SerializeToString(deterministic=True))


def random_images(count: int, shape: tuple[int, int, int] = SHAPE, seed: int = 0) -> Images:
    """Random images; black and white ones, flat and mixed, come first where there is room."""
    images = np.random.default_rng(seed).integers(0, 256, (count, *shape), np.uint8)
    for index, value in enumerate((0, 255)[: count - 1]):
        images[index] = value
    if count > 3:
        images[2] = (images[2] > 127) * np.uint8(255)
    return images


def all_images() -> Images:
    """Every image of two pixels, (65536, 1, 1, 2)."""
    every = np.arange(256, dtype=np.uint8)
    return np.stack(np.meshgrid(every, every, indexing="ij"), -1).reshape(-1, 1, 1, 2)


def exact_logits(net: PixelNet, image: Images) -> list[Fraction]:
    """The real-number logits of one image."""
    layers = [
        (
            [[Fraction(float(w)) for w in row] for row in layer.weight],
            None,
            [Fraction(float(b)) for b in layer.bias],
        )
        for layer in net.layers
    ]
    return exact_net([Fraction(int(value)) for value in image.reshape(-1)], layers)  # type: ignore[arg-type]


def rounded_to(bits: int, least: int, flush: bool = False) -> Round:
    """Rounds to nearest even in a binary format of `bits` significand bits and least normal exponent `least`."""

    def rounded(value: Fraction) -> Fraction:
        if value == 0:
            return value
        exponent = least
        while abs(value) >= Fraction(2) ** (exponent + 1):
            exponent += 1
        unit = Fraction(2) ** (exponent - bits + 1)
        result = round(value / unit) * unit
        return Fraction(0) if flush and abs(result) < Fraction(2) ** least else result

    return rounded


def slow_logits(net: PixelNet, image: Images, after: Callable[[int, str], Round], within: Round) -> list[Fraction]:
    """The logits of one image, operation by operation in rationals.

    Args:
        net: The net.
        image: One image.
        after: The rounding after layer `index`'s "distance" or "bias", in addition to `within`.
        within: The rounding of every operation.
    """
    x = [Fraction(int(value)) for value in image.reshape(-1)]
    for index, layer in enumerate(net.layers):
        after_distance, after_bias = after(index, "distance"), after(index, "bias")
        sums = []
        for row, bias in zip(layer.weight, layer.bias, strict=True):
            distance = max(abs(within(a - Fraction(float(w)))) for a, w in zip(x, row, strict=True))
            sums.append(after_bias(within(after_distance(distance) + Fraction(float(bias)))))
        x = sums
    return [-value for value in x]


def float_bits(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The bit patterns of floats, with -0 taken for 0: no comparison sees its sign."""
    plain = np.ascontiguousarray(values + values.dtype.type(0))
    return plain.view({2: np.uint16, 4: np.uint32, 8: np.uint64}[plain.dtype.itemsize])


def in_runtime(model: ModelProto | bytes, images: Images) -> dict[str, npt.NDArray[Any]]:
    """What ONNX Runtime answers."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    data = model if isinstance(model, bytes) else model.SerializeToString()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"image": images}), strict=True))


def in_reference(model: ModelProto, images: Images) -> dict[str, npt.NDArray[Any]]:
    """What the onnx package's own evaluator answers."""
    evaluator = ReferenceEvaluator(model)
    return dict(zip(evaluator.output_names, evaluator.run(None, {"image": images}), strict=True))
