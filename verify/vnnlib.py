# SPDX-License-Identifier: Apache-2.0
"""Instances for other verifiers: the net as an ONNX file of plain float operators, and one property an image.

A property is stated as VNN-LIB does, by what would refute it:

    sat     some real point of the box has another logit at least as large as the label's
    unsat   none has: the label is certified, strictly, for every image within the threat

Boxes are integers, in pixels, as in `threat.py`, and so exact in every format. What a verifier answers holds for
the real-number net of the file's weights; for exact nets the engine is that net.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

from linfdeploy import __version__
from linfdeploy.engines.base import Images
from linfdeploy.engines.reference import ReferenceEngine
from linfdeploy.errors import DatasetError, ExportError
from linfdeploy.onnx.pixel_net import PixelNet
from linfdeploy.verify.certificates import Certifier, exact_margins
from linfdeploy.verify.summary import TestSet
from linfdeploy.verify.threat import Threat

__all__ = [
    "FORMATS",
    "VERIFIER_OPSET",
    "Instance",
    "InstanceForm",
    "VnnlibFormat",
    "instance_files",
    "property_text",
    "verifier_model",
]

VnnlibFormat: TypeAlias = Literal["1.0", "2.0"]
FORMATS: tuple[VnnlibFormat, ...] = ("1.0", "2.0")

VERIFIER_OPSET = 13
"""Before ReduceMax took its axes as an input, which few verifiers read."""


@dataclass(frozen=True)
class InstanceForm:
    """How instances are written: the version of VNN-LIB, and how many seconds a verifier should take for one."""

    version: VnnlibFormat = "2.0"
    timeout: int = 300


@dataclass(frozen=True)
class Instance:
    """One image and what is claimed of it.

    Attributes:
        index: In the data set.
        label: The claimed label, which the net gives to the image.
        lower: (C, H, W) uint8, the least image of the box.
        upper: (C, H, W) uint8, the greatest.
    """

    index: int
    label: int
    lower: Images
    upper: Images


def verifier_model(net: PixelNet) -> ModelProto:
    """Writes a net for other verifiers: `image` float32 (1, C, H, W) in pixels to `logits` float32 (1, K).

    Weights are those of the net, which float32 holds exactly; a layer is Unsqueeze, Sub, Abs, ReduceMax and Add.

    Raises:
        ExportError: The net has sorted distances or convolutions.
    """
    if net.sorts:
        raise ExportError(
            "the net has sorted distances, which other verifiers' layers (Sub, Abs, ReduceMax) cannot say; "
            "expected l_inf distances alone: verify it with linfdeploy"
        )
    if net.convolves:
        raise ExportError(
            "the net has l_inf-distance convolutions, which other verifiers' layers do not gather windows for; "
            "expected dense layers alone: verify it with linfdeploy"
        )
    nodes = [helper.make_node("Flatten", ["image"], ["layer0.x"], name="flatten", axis=1)]
    constants = [numpy_helper.from_array(np.array([1], np.int64), "axes")]
    for index, layer in enumerate(net.layers):
        nodes += _layer_nodes(f"layer{index}", f"layer{index + 1}.x")
        for name, value in (("weight", layer.weight), ("bias", layer.bias)):
            constants.append(numpy_helper.from_array(value.astype(np.float32), f"layer{index}.{name}"))
    nodes.append(helper.make_node("Neg", [f"layer{len(net.layers)}.x"], ["logits"], name="negate"))
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, *net.input_shape])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, net.classes])
    opsets = [helper.make_opsetid("", VERIFIER_OPSET)]
    model = helper.make_model(
        helper.make_graph(nodes, "linfdeploy", [image], [logits], constants),
        opset_imports=opsets,
        ir_version=helper.find_min_ir_version_for(opsets),
        producer_name="linfdeploy",
        producer_version=__version__,
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def property_text(instance: Instance, net: PixelNet, threat: Threat, version: VnnlibFormat) -> str:
    """Returns an instance's property as VNN-LIB, with the property in words on top.

    Args:
        instance: The image's.
        net: Gives the shapes.
        threat: For the words.
        version: `2.0` declares the network and indexes tensors; `1.0` numbers scalars X_i and Y_j.
    """
    words = (
        f"; sat: an image within {threat.levels} levels (of 255) of test image {instance.index} gets another "
        f"label than {instance.label}, or a tie.\n; unsat: none does. Units are pixels.\n"
    )
    lines = _declarations(net, version)
    lines += [f"(assert ({sign} {name} {value}.0))" for name, sign, value in _bounds(instance, version)]
    wins = " ".join(f"({_at_least(version, other, instance.label)})" for other in _others(instance, net))
    return words + "\n".join([*lines, f"(assert (or {wins}))"]) + "\n"


def instance_files(net: PixelNet, data: TestSet, threat: Threat, form: InstanceForm) -> dict[str, bytes]:
    """Returns a folder's files: `model.onnx`, `instances.csv`, a property for each image it gets right.

    `known.csv` says what is known beforehand: the exact margin in pixels, and `unsat` where it certifies the label
    (certificate E, or D for a net that rounds).

    Args:
        net: The net.
        data: Images (N, C, H, W) uint8 and labels (N,).
        threat: Within which the label is to be certified.
        form: How instances are written.

    Raises:
        DatasetError: The net gets none of the images right.
        ExportError: The net has a head, sorted distances or convolutions.
    """
    if net.head is not None:
        raise ExportError(
            "the net has a head, which instances for other verifiers do not hold yet; expected a net of distance "
            "layers alone: certify it with linfdeploy verify"
        )
    logits = ReferenceEngine(net).run(data.images)
    right = np.flatnonzero(logits.argmax(1) == data.labels)
    if not len(right):
        raise DatasetError(
            f"the net gives none of the {len(data.images)} images of {data.name} its label; expected at least "
            "one: choose the data set that the net was trained on"
        )
    certifier = Certifier(net, None, data.images[right], logits[right])
    flags = certifier.at(threat.levels)
    known = flags.delta if flags.exact is None else flags.exact
    files, rows, facts = {"model.onnx": verifier_model(net).SerializeToString(deterministic=True)}, [], []
    for index, margin, holds in zip(right.tolist(), exact_margins(logits[right]), known.tolist(), strict=True):
        lower, upper = threat.box(data.images[index : index + 1])
        name = f"instances/{index:05d}.vnnlib"
        instance = Instance(index, int(data.labels[index]), lower[0], upper[0])
        files[name] = property_text(instance, net, threat, form.version).encode()
        rows.append(f"model.onnx,{name},{form.timeout}")
        facts.append(f"{name},{instance.label},{margin},{'unsat' if holds else 'unknown'}")
    files["instances.csv"] = ("\n".join(rows) + "\n").encode()
    files["known.csv"] = ("\n".join(["instance,label,margin,result", *facts]) + "\n").encode()
    return files


def _layer_nodes(name: str, y: str) -> list[onnx.NodeProto]:
    row, difference, magnitude, distance = (f"{name}.{part}" for part in ("row", "sub", "abs", "max"))
    return [
        helper.make_node("Unsqueeze", [f"{name}.x", "axes"], [row], name=f"{name}.unsqueeze"),
        helper.make_node("Sub", [row, f"{name}.weight"], [difference], name=f"{name}.subtract"),
        helper.make_node("Abs", [difference], [magnitude], name=f"{name}.magnitude"),
        helper.make_node("ReduceMax", [magnitude], [distance], name=f"{name}.largest", axes=[2], keepdims=0),
        helper.make_node("Add", [distance, f"{name}.bias"], [y], name=f"{name}.add"),
    ]


def _declarations(net: PixelNet, version: VnnlibFormat) -> list[str]:
    if version == "2.0":
        shape = ", ".join(map(str, (1, *net.input_shape)))
        return [
            "(vnnlib-version <2.0>)",
            "(declare-network linfdeploy",
            f"  (declare-input image Real [{shape}])",
            f"  (declare-output logits Real [1, {net.classes}]))",
        ]
    pixels = int(np.prod(net.input_shape))
    names = [f"X_{i}" for i in range(pixels)] + [f"Y_{j}" for j in range(net.classes)]
    return [f"(declare-const {name} Real)" for name in names]


def _bounds(instance: Instance, version: VnnlibFormat) -> Iterator[tuple[str, str, int]]:
    """Yields each pixel's name, and a sign and value for each of its two bounds."""
    for flat, place in enumerate(np.ndindex(*instance.lower.shape)):
        name = f"image[{', '.join(map(str, (0, *place)))}]" if version == "2.0" else f"X_{flat}"
        yield name, ">=", int(instance.lower[place])
        yield name, "<=", int(instance.upper[place])


def _others(instance: Instance, net: PixelNet) -> list[int]:
    return [other for other in range(net.classes) if other != instance.label]


def _at_least(version: VnnlibFormat, other: int, label: int) -> str:
    names: Mapping[str, str] = {"1.0": "Y_{}", "2.0": "logits[0, {}]"}
    comparison = f">= {names[version].format(other)} {names[version].format(label)}"
    # In 1.0 each alternative is a conjunction, of one.
    return comparison if version == "2.0" else f"and ({comparison})"
