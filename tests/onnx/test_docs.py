# SPDX-License-Identifier: Apache-2.0
"""docs/operators.md says what the code does."""

import re
from pathlib import Path
from typing import get_args

import onnx
import pytest
from small_nets import exported

from linfdeploy.onnx import linf_dist
from linfdeploy.onnx.pixel_net import PRECISIONS
from linfdeploy.onnx.write import MAX_OPSET, MIN_OPSET, Form
from linfdeploy.plugins_trt import PLUGIN_NAMESPACE, PLUGIN_VERSION

TEXT = (Path(__file__).parents[2] / "docs" / "operators.md").read_text()


def section(title: str) -> str:
    return re.split(r"^#+ ", TEXT.split(f"# {title}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def first_column(table: str) -> list[str]:
    return re.findall(r"^\| `([^`]+)`", table, flags=re.MULTILINE)


def test_metadata() -> None:
    model = onnx.load_from_string(exported())
    assert sorted(first_column(section("Metadata"))) == sorted(entry.key for entry in model.metadata_props)


def test_operator() -> None:
    linf_dist.register_schema()
    schema = onnx.defs.get_schema(linf_dist.OP, linf_dist.DOMAIN)
    text = section(f"`{linf_dist.DOMAIN}::{linf_dist.OP}`, version {linf_dist.DOMAIN_VERSION}")
    assert all(f"| input `{value.name}` | {value.description} |" in text for value in schema.inputs)
    assert all(f"| output `{value.name}` | {value.description} |" in text for value in schema.outputs)
    assert all(f"`{name}`" in text for name in schema.attributes)
    assert f'= `"{PLUGIN_NAMESPACE}"`' in text
    assert f'= `"{PLUGIN_VERSION}"`' in text
    assert all(f"`{name}`" in text for name in schema.type_constraints[0].allowed_type_strs)


def test_forms_precisions_and_opsets() -> None:
    assert first_column(section("Which runtime uses what")) == list(get_args(Form))
    assert tuple(first_column(section("The graph"))) == PRECISIONS
    assert f"opsets outside {MIN_OPSET} to {MAX_OPSET}" in TEXT


def test_outputs_and_names() -> None:
    model = onnx.load_from_string(exported("exact", "function", radius=True))
    assert [output.name for output in model.graph.output] == [
        "logits",
        *first_column(section("Label and radius")),
    ]
    names = {name for node in model.graph.node for name in node.output}
    assert {"pixels", "layer0.x", "layer1.x", "distances", "logits"} <= names
    assert {"layer0.weight", "layer0.bias", "slack"} <= {tensor.name for tensor in model.graph.initializer}


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)#]+)\)", TEXT))
def test_links(link: str) -> None:
    assert (Path(__file__).parents[2] / "docs" / link).exists()
