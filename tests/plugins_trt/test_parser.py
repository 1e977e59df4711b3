# SPDX-License-Identifier: Apache-2.0
"""Exported graphs in a real parser of NVIDIA's, that of TensorRT-RTX, which works without a GPU.

It looks a node's plugin up and makes it, and then ends the process: TensorRT-RTX has no plugins. So what is seen
here is that our creator is chosen and takes the node's attributes. The parser is of the generation of TensorRT 11,
whose own is not on PyPI.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conv_nets import conv_net
from custom_op_models import one_node
from pixel_nets import random_net
from trt_runtimes import needs_runtime, run_with, runtime

from linfdeploy.engines.trt.library import PluginLibrary
from linfdeploy.onnx.pixel_net import Precision
from linfdeploy.onnx.write import Form, GraphOptions, model_from_net
from linfdeploy.plugins_trt import PLUGIN_NAMESPACE, PLUGIN_VERSION

pytestmark = needs_runtime("rtx-1")
PROBE = Path(__file__).with_name("parser_probe.py")
CREATED = "Successfully created plugin: {name}"
ABORTS = -6
IDENTITY = {"plugin_namespace": PLUGIN_NAMESPACE, "plugin_version": PLUGIN_VERSION}


def _exported(folder: Path, form: Form, precision: Precision, *, radius: bool = False) -> Path:
    net = random_net((16, 8, 4), precision, 0)
    return _saved(folder, model_from_net(net, GraphOptions(form=form, radius=radius), {}))


def _saved(folder: Path, model: Any) -> Path:
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return folder / "model.onnx"


def _parsed(model: Path, library: Path | str = "") -> tuple[int, dict[str, Any], str]:
    """How the process ended, what it answered if it got that far, and everything that was logged."""
    folder = runtime("rtx-1")
    assert folder
    done = run_with(folder, PROBE, model, library)
    answers = re.findall(r"^{\"parsed.*}$", done.stdout, re.MULTILINE)
    return done.returncode, json.loads(answers[0]) if answers else {}, done.stdout + done.stderr


@pytest.mark.parametrize("precision", ["exact", "fp16"])
@pytest.mark.parametrize("form", ["function", "op"])
def test_our_plugin_is_chosen(
    plugin_library: PluginLibrary, tmp_path: Path, form: Form, precision: Precision
) -> None:
    """Also where the model brings a function body of the same name."""
    code, answer, log = _parsed(_exported(tmp_path, form, precision), plugin_library.path)
    assert CREATED.format(name="LinfDist") in log
    assert "Importing as a local function" not in log
    element = {"exact": "FLOAT", "fp16": "HALF"}[precision]
    assert f"[layer0.weight -> (8, 16)[{element}]]" in log
    assert (code, answer) == (ABORTS, {})


@pytest.mark.parametrize("precision", ["exact", "fp16"])
@pytest.mark.parametrize("radius", [False, True])
def test_without_the_library_the_function_body_is_built(
    tmp_path: Path, precision: Precision, radius: bool
) -> None:
    code, answer, log = _parsed(_exported(tmp_path, "function", precision, radius=radius))
    assert answer == {"parsed": True, "errors": [], "built": True}, log[-3000:]
    assert "Found registered local function: LinfDist. Importing as a local function." in log
    assert code == 0


@pytest.mark.parametrize("precision", ["exact", "fp16"])
def test_standard_operators_are_built_whether_or_not_the_library_is_there(
    plugin_library: PluginLibrary, tmp_path: Path, precision: Precision
) -> None:
    for library in ("", plugin_library.path):
        code, answer, log = _parsed(_exported(tmp_path, "standard", precision), library)
        assert (code, answer) == (0, {"parsed": True, "errors": [], "built": True}), log[-3000:]
        assert "LinfDist" not in log


def test_without_the_library_the_op_alone_is_refused(tmp_path: Path) -> None:
    code, answer, _ = _parsed(_exported(tmp_path, "op", "exact"))
    assert (code, answer["parsed"]) == (0, False)
    assert "node 2 with name: layer0 and operator: LinfDist" in answer["errors"][0]
    assert "Plugin not found, are the plugin name, version, and namespace correct?" in answer["errors"][0]


def _conv(folder: Path, domain: str = "linfdeploy", **attributes: Any) -> Path:
    values = {
        name: np.zeros(shape, np.float32) for name, shape in (("X", (1, 2, 8, 8)), ("W", (3, 2, 3, 3)), ("B", 3))
    }
    model = one_node("LinfDistConv", values, ("W", "B"), **{**IDENTITY, **attributes})
    model.graph.node[0].domain = model.opset_import[1].domain = domain
    shape = model.graph.input[0].type.tensor_type.shape
    for size in (1, 2, 8, 8):
        shape.dim.add().dim_value = size
    return _saved(folder, model)


@pytest.mark.parametrize("form", ["function", "standard"])
def test_a_convolutional_net_is_built(tmp_path: Path, form: Form) -> None:
    model = model_from_net(conv_net(0), GraphOptions(form=form), {})
    code, answer, log = _parsed(_saved(tmp_path, model))
    assert (code, answer) == (0, {"parsed": True, "errors": [], "built": True}), log[-3000:]


def test_attributes_of_a_convolution_arrive(plugin_library: PluginLibrary, tmp_path: Path) -> None:
    window: dict[str, Any] = {
        "kernel_shape": [3, 3],
        "strides": [2, 1],
        "pads": [1, 0, 0, 2],
        "dilations": [1, 2],
        "group": 1,
    }
    code, _, log = _parsed(_conv(tmp_path, **window, auto_pad="NOTSET"), plugin_library.path)
    assert CREATED.format(name="LinfDistConv") in log
    assert code == ABORTS


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"strides": [2, 0]}, "strides is not what it should be; expected 2 integers of 1 to 65536"),
        ({"pads": [1, 1]}, "pads is not what it should be; expected 4 integers of 0 to 65536"),
        ({"dilations": [-1, 1]}, "dilations is not what it should be; expected 2 integers of 1 to 65536"),
        ({"group": 2}, "group is not what it should be; expected 1 integers of 1 to 1"),
        ({"kernel_shape": [3]}, "kernel_shape is not what it should be; expected 2 integers of 0 to 65536"),
        ({"auto_pad": "SAME_UPPER"}, "auto_pad is not NOTSET, the only value that there is a kernel for"),
    ],
)
def test_a_wrong_attribute_of_a_convolution_arrives_and_is_refused(
    plugin_library: PluginLibrary, tmp_path: Path, attributes: dict[str, Any], words: str
) -> None:
    code, answer, log = _parsed(_conv(tmp_path, **attributes), plugin_library.path)
    assert f"[linfdeploy] LinfDistConv: {words}" in log
    assert CREATED.format(name="LinfDistConv") not in log
    assert (code, answer["parsed"]) == (0, False)
    assert "Could not create the plugin" in " ".join(answer["errors"])


@pytest.mark.parametrize("spoiled", ["plugin_version", "plugin_namespace"])
def test_another_identity_is_not_found(plugin_library: PluginLibrary, tmp_path: Path, spoiled: str) -> None:
    # The node's domain serves too where its namespace is not found.
    model = _conv(tmp_path, domain="other", **{spoiled: "2"})
    code, answer, log = _parsed(model, plugin_library.path)
    assert CREATED.format(name="LinfDistConv") not in log
    assert (code, answer["parsed"]) == (0, False)
    assert "Plugin not found, are the plugin name, version, and namespace correct?" in answer["errors"][0]
