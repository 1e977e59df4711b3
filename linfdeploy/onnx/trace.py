# SPDX-License-Identifier: Apache-2.0
"""From a torch net to a chain of steps, through `torch.onnx.export`: what is deployed is what torch traced."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
import torch

from linfdeploy.errors import ExportError
from linfdeploy.nets.net import LinfNet
from linfdeploy.nets.windows import Window
from linfdeploy.onnx import linf_dist, linf_dist_conv, sort_dist, sort_dist_conv
from linfdeploy.onnx.chain import Chain, Distance, Doubles, Linear, Normalize, Shift, Step, Tanh

__all__ = ["chain_from_net"]


def chain_from_net(net: LinfNet) -> Chain:
    """Traces a net and reads the steps off the traced ONNX graph.

    Args:
        net: In evaluation mode at p = inf.

    Returns:
        The net's steps, constants in float64 (float32 values, unrounded).

    Raises:
        ExportError: The trace holds an operation that has no place in such a net.
    """
    # The exporter drops what does nothing, such as a mean of 0 or a std of 1.
    steps: list[Step] = [Normalize(np.zeros(math.prod(net.spec.input_shape)), 1.0)]
    for node in _trace(net).graph:
        _read(node, net.spec.input_shape, steps)
    return Chain(net.spec.input_shape, tuple(steps))


def _trace(net: LinfNet) -> Any:
    for op in (linf_dist, linf_dist_conv, sort_dist, sort_dist_conv):
        op.register_schema()
    image = torch.zeros(2, *net.spec.input_shape)
    with _quiet_exporter(), torch.no_grad():
        program = torch.onnx.export(
            net,
            (image,),
            dynamo=True,
            custom_translation_table={
                torch.ops.linfdeploy.linf_dist.default: _translate,
                torch.ops.linfdeploy.linf_dist_conv.default: _translate_convolution,
                torch.ops.linfdeploy.sort_dist.default: _translate_sorted,
                torch.ops.linfdeploy.sort_dist_conv.default: _translate_sorted_convolution,
            },
            input_names=["image"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("N")},),
            verbose=False,
        )
    assert program is not None
    return program.model


def _translate(x: Any, w: Any) -> Any:
    """Translates torch's `linfdeploy::linf_dist(x, w)`; the bias is zero until shifts are folded into it."""
    from onnxscript import opset18, values

    zeros = onnx.numpy_helper.from_array(np.zeros(w.shape[0], np.float32))
    domain = values.Opset(linf_dist.DOMAIN, linf_dist.DOMAIN_VERSION)
    return domain.LinfDist(x, w, opset18.Constant(value=zeros))


def _translate_convolution(x: Any, w: Any, stride: Any, padding: Any, dilation: Any, places: Any) -> Any:
    """Translates torch's `linfdeploy::linf_dist_conv(x, w, ...)`; the places follow from the rest."""
    from onnxscript import opset18, values

    assert len(places) == 2
    zeros = onnx.numpy_helper.from_array(np.zeros(w.shape[0], np.float32))
    domain = values.Opset(linf_dist.DOMAIN, linf_dist.DOMAIN_VERSION)
    moves = {"strides": list(stride), "pads": [*padding, *padding], "dilations": list(dilation)}
    return domain.LinfDistConv(x, w, opset18.Constant(value=zeros), **moves)


def _translate_sorted(x: Any, w: Any, c: Any) -> Any:
    """Translates torch's `linfdeploy::sort_dist(x, w, c)`, which rounds to no grid."""
    from onnxscript import opset18, values

    zeros = onnx.numpy_helper.from_array(np.zeros(w.shape[0], np.float32))
    domain = values.Opset(linf_dist.DOMAIN, linf_dist.DOMAIN_VERSION)
    return domain.SortDist(x, w, c, opset18.Constant(value=zeros), grid=0)


def _translate_sorted_convolution(x: Any, w: Any, c: Any, stride: Any, padding: Any, places: Any) -> Any:
    """Translates torch's `linfdeploy::sort_dist_conv(x, w, c, ...)`, which rounds to no grid."""
    from onnxscript import opset18, values

    assert len(places) == 2
    zeros = onnx.numpy_helper.from_array(np.zeros(w.shape[0], np.float32))
    domain = values.Opset(linf_dist.DOMAIN, linf_dist.DOMAIN_VERSION)
    moves = {"strides": list(stride), "pads": [*padding, *padding]}
    return domain.SortDistConv(x, w, c, opset18.Constant(value=zeros), grid=0, **moves)


def _read(node: Any, shape: tuple[int, int, int], steps: list[Step]) -> None:
    first = steps[0] if len(steps) == 1 else None
    match node.domain, node.op_type:
        case "", "Sub" if isinstance(first, Normalize) and first.std == 1:
            mean = np.broadcast_to(_constant(node.inputs[1]), shape)
            steps[0] = Normalize(first.mean + mean.reshape(-1), 1.0)
        case "", "Div" if isinstance(first, Normalize) and first.std == 1:
            steps[0] = Normalize(first.mean, float(_constant(node.inputs[1])))
        case linf_dist.DOMAIN, linf_dist.OP | linf_dist_conv.OP | sort_dist.OP | sort_dist_conv.OP:
            steps += _distance(node)
        case "", "Gemm" if _is_plain(node):
            steps.append(_linear(node))
        case "", "Tanh":
            steps.append(Tanh())
        case "", "Sub" | "Add" as op:
            # Behind a convolution it is (O, 1, 1).
            offset = _constant(node.inputs[1]).reshape(-1)
            steps.append(Shift(offset if op == "Add" else -offset))
        case "", "Neg" | "Reshape" | "Constant":
            pass
        case "", "Div" if all(value.const_value is not None for value in node.inputs):
            pass
        case domain, op:
            raise ExportError(
                f"the traced net holds {domain or 'ai.onnx'}::{op}; expected distances, shifts and linear layers"
            )


def _distance(node: Any) -> list[Step]:
    weight, *sort, bias = (_constant(operand) for operand in node.inputs[1:])
    window = _window(node, weight) if node.op_type in {linf_dist_conv.OP, sort_dist_conv.OP} else None
    rows = weight.reshape(len(weight), -1)
    return [Distance(rows, sort[0] if sort else None, window), Shift(bias)]


def _window(node: Any, weight: Doubles) -> Window:
    shape, moves = node.inputs[0].shape, {name: value.value for name, value in node.attributes.items()}
    channels, height, width = (int(size) for size in shape[1:])
    return Window((channels, height, width), weight.shape[2], moves["strides"][0], moves["pads"][0])


def _linear(node: Any) -> Linear:
    weight = _constant(node.inputs[1])
    # The exporter drops a bias of zeros.
    return Linear(weight, _constant(node.inputs[2]) if len(node.inputs) > 2 else 0.0 * weight[:, 0])


def _is_plain(node: Any) -> bool:
    """Whether a Gemm is `x W^T + b`."""
    found = {name: attribute.value for name, attribute in node.attributes.items()}
    return {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0, **found} == {
        "alpha": 1.0,
        "beta": 1.0,
        "transA": 0,
        "transB": 1,
    }


def _constant(value: Any) -> Doubles:
    producer = value.producer()
    if value.const_value is None and producer is not None and producer.op_type in {"Div", "Reshape"}:
        # The exporter computes W / sqrt(I), and the shape of filters, itself where W is small.
        weight, other = (_constant(operand) for operand in producer.inputs)
        if producer.op_type == "Reshape":
            return weight.reshape(other.astype(np.int64))
        # In float32, as the net does.
        return (weight.astype(np.float32) / other.astype(np.float32)).astype(np.float64)
    if value.const_value is None:
        raise ExportError(f"the traced net computes {value.name}; expected a constant there")
    array: Doubles = value.const_value.numpy().astype(np.float64)
    return array


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Keeps the exporter's notes about packages we do not use, and its own deprecations, from the user."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
