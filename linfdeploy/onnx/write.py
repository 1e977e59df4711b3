# SPDX-License-Identifier: Apache-2.0
"""From a pixel net to the deployable graph. Deterministic: the same net and options give the same graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import onnx
from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from linfdeploy import __version__
from linfdeploy.errors import ExportError
from linfdeploy.nets.windows import Window
from linfdeploy.onnx import linf_dist, linf_dist_conv, sort_dist, sort_dist_conv
from linfdeploy.onnx.mlp_head import MlpHead
from linfdeploy.onnx.pixel_net import Floats, PixelLayer, PixelNet
from linfdeploy.onnx.radius import radius_initializers, radius_nodes, radius_outputs

__all__ = ["MAX_OPSET", "MIN_OPSET", "Form", "GraphOptions", "form_gap", "model_from_net"]

Form: TypeAlias = Literal["function", "op", "standard"]

MIN_OPSET = 18
"""The first opset whose ReduceMax takes its axes as an input."""
MAX_OPSET = 22


@dataclass(frozen=True)
class GraphOptions:
    """How a net is written.

    Attributes:
        form: `function` (the custom op and a function body for runtimes without it), `op` (the custom op alone) or
            `standard` (no custom op at all).
        radius: Whether the graph also computes `label` and `radius`.
        opset: Version of the standard ops, MIN_OPSET to MAX_OPSET.
    """

    form: Form = "function"
    radius: bool = False
    opset: int = MIN_OPSET


def form_gap(net: PixelNet, form: Form) -> str | None:
    """Says why a net cannot have a form: there is an operator without kernels for it; None: it can."""
    if form == "op" and any(_op_of(layer) == sort_dist_conv.OP for layer in net.layers):
        return (
            "the net has convolutions of sorted distances in the form op; no runtime has a kernel of SortDistConv"
        )
    if net.format != np.float16 or form == "standard" or not net.convolves:
        return None
    return f"the net has convolutions in fp16 and the form {form}, whose operator LinfDistConv is of float32"


def model_from_net(net: PixelNet, options: GraphOptions, metadata: Mapping[str, str]) -> ModelProto:
    """Writes a net as an ONNX model: `image` uint8 (N, C, H, W) to `logits` float32 (N, K) in pixels.

    Args:
        net: The net; in its format all layers run.
        options: The graph's form.
        metadata: Goes to `metadata_props`; informative only.

    Returns:
        A model that the ONNX checker accepts, below ONNX's 2 GiB.
    """
    opsets = [helper.make_opsetid("", options.opset)]
    if options.form != "standard":
        opsets.append(helper.make_opsetid(linf_dist.DOMAIN, linf_dist.DOMAIN_VERSION))
    model = helper.make_model(
        _graph(net, options),
        opset_imports=opsets,
        functions=_functions(net, options),
        ir_version=helper.find_min_ir_version_for(opsets, ignore_unknown=True),
        producer_name="linfdeploy",
        producer_version=__version__,
    )
    helper.set_model_props(model, dict(metadata))
    return model


def _functions(net: PixelNet, options: GraphOptions) -> list[FunctionProto]:
    if options.form != "function":
        return []
    kinds = {_op_of(layer) for layer in net.layers}
    written = (linf_dist, linf_dist_conv, sort_dist, sort_dist_conv)
    return [op.function(options.opset) for op in written if op.OP in kinds]


def _op_of(layer: PixelLayer) -> str:
    if layer.sort is not None:
        return sort_dist.OP if layer.window is None else sort_dist_conv.OP
    return linf_dist.OP if layer.window is None else linf_dist_conv.OP


def _graph(net: PixelNet, options: GraphOptions) -> GraphProto:
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", net.classes])]
    nodes, initializers = _net_nodes(net, options.form), _weights(net)
    if options.radius:
        nodes += radius_nodes()
        initializers += radius_initializers(net)
        outputs += radius_outputs()
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", *net.input_shape])
    return helper.make_graph(nodes, "linfdeploy", [image], outputs, initializers)


def _net_nodes(net: PixelNet, form: Form) -> list[NodeProto]:
    half = net.format == np.float16
    to = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    nodes, y = [helper.make_node("Cast", ["image"], ["pixels"], name="cast", to=to)], "pixels"
    if net.centre is not None:
        nodes.append(helper.make_node("Sub", ["pixels", "centre"], ["centred"], name="centre"))
        y = "centred"
    flat = False
    for index, layer in enumerate(net.layers):
        if layer.window is None and not flat:
            x, flat = f"layer{index}.x", True
            nodes.append(helper.make_node("Flatten", [y], [x], name="flatten", axis=1))
            y = x
        x, y = y, _output_of(net, index)
        nodes += _layer_nodes(net, index, x, y, form)
    if not flat:
        nodes.append(helper.make_node("Flatten", [y], ["features"], name="flatten", axis=1))
    logits = "logits.half" if half else "logits"
    if net.head is None:
        nodes.append(helper.make_node("Neg", ["distances"], [logits], name="negate"))
    else:
        nodes += _head_nodes(net.head, logits)
    if half:
        nodes.append(helper.make_node("Cast", ["logits.half"], ["logits"], name="widen", to=TensorProto.FLOAT))
    return nodes


def _output_of(net: PixelNet, index: int) -> str:
    """Names what leaves a layer: the next layer's input, or the image that is flattened to it."""
    last = index + 1 == len(net.layers)
    images = net.layers[index].window is not None and (last or net.layers[index + 1].window is None)
    if images:
        return f"layer{index}.images"
    if last:
        return "distances" if net.head is None else "features"
    return f"layer{index + 1}.x"


def _layer_nodes(net: PixelNet, index: int, x: str, y: str, form: Form) -> list[NodeProto]:
    name, layer = f"layer{index}", net.layers[index]
    w, c, b = (f"{name}.{part}" for part in ("weight", "sort", "bias"))
    if layer.sort is not None:
        assert net.grid is not None, "sorted distances are exported in exact nets alone"
        return _sorted_nodes(sort_dist_conv.Names(x, w, c, b, y, name), net.grid, layer.window, form)
    if layer.window is not None:
        return (
            linf_dist_conv.standard_nodes(x, w, b, y, name, layer.window)
            if form == "standard"
            else [linf_dist_conv.node(x, w, b, y, name, layer.window)]
        )
    return linf_dist.standard_nodes(x, w, b, y, name) if form == "standard" else [linf_dist.node(x, w, b, y, name)]


def _sorted_nodes(names: sort_dist_conv.Names, grid: int, window: Window | None, form: Form) -> list[NodeProto]:
    if window is None:
        return sort_dist.standard_nodes(*names, grid) if form == "standard" else [sort_dist.node(*names, grid)]
    if form == "standard":
        return sort_dist_conv.standard_nodes(names, grid, window)
    return [sort_dist_conv.node(names, grid, window)]


def _head_nodes(head: MlpHead, logits: str) -> list[NodeProto]:
    """Returns `Gemm, Tanh, ..., Gemm` from `features` on."""
    if head.activation != "tanh":
        raise ExportError(
            f"the head's activation is {head.activation!r}; expected 'tanh', of which graphs are made"
        )
    nodes, x = [], "features"
    for index in range(len(head.weights)):
        name, last = f"head{index}", index + 1 == len(head.weights)
        y = logits if last else f"{name}.y"
        nodes.append(helper.make_node("Gemm", [x, f"{name}.weight", f"{name}.bias"], [y], name=name, transB=1))
        if not last:
            x = f"{name}.tanh"
            nodes.append(helper.make_node("Tanh", [y], [x], name=x))
    return nodes


def _weights(net: PixelNet) -> list[onnx.TensorProto]:
    parts: list[tuple[str, str, Floats | None]] = []
    centre = [] if net.centre is None else [numpy_helper.from_array(net.centre.reshape(-1, 1, 1), "centre")]
    for index, layer in enumerate(net.layers):
        named = (("weight", _stored(layer)), ("sort", layer.sort), ("bias", layer.bias))
        parts += [(f"layer{index}", name, value) for name, value in named]
    if net.head is not None:
        for index, (weight, bias) in enumerate(zip(net.head.weights, net.head.biases, strict=True)):
            parts += [(f"head{index}", "weight", weight), (f"head{index}", "bias", bias)]
    named_parts = [(f"{place}.{name}", value) for place, name, value in parts if value is not None]
    return [*centre, *(numpy_helper.from_array(value, name) for name, value in named_parts)]


def _stored(layer: PixelLayer) -> Floats:
    """Returns a weight as the graph holds it: of a convolution (O, C, kH, kW)."""
    if layer.window is None:
        return layer.weight
    return layer.weight.reshape(-1, layer.window.shape[0], layer.window.kernel, layer.window.kernel)
