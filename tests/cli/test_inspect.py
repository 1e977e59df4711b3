# SPDX-License-Identifier: Apache-2.0
import json
from typing import Any

import onnx
import pytest
from command_line import call
from conv_nets import traced_conv_net
from custom_op_models import WAYS
from small_nets import NET, exported

from linfdeploy.engines.manifest import manifest_path
from linfdeploy.files import sha256_of
from linfdeploy.nets.checkpoint import save_checkpoint
from linfdeploy.onnx.export import pixel_net_from_chain
from linfdeploy.onnx.write import Form, GraphOptions, model_from_net


def shown(path: Any) -> list[tuple[str, str]]:
    outcome = call("inspect", path)
    assert (outcome.code, outcome.err) == (0, "")
    return [(line[:12].strip(), line[13:]) for line in outcome.out.splitlines()]


def test_checkpoint(files: Any) -> None:
    lines = dict(shown(files.checkpoint))
    assert lines["file"] == "checkpoint, linfdeploy.checkpoint/1"
    assert lines["input"] == "(1, 3, 3), mean (0.3,), std 0.4"
    assert lines["layer 0"] == "linf_dist 9 -> 7, mean shift"
    assert lines["layer 2"] == "linf_dist 5 -> 3, bias"
    assert lines["seed"] == "0"
    assert lines["sha256"] == sha256_of(files.checkpoint.read_bytes())


def test_a_convolutional_net(tmp_path: Any) -> None:
    net, chain = traced_conv_net()
    save_checkpoint(tmp_path / "ckpt.pt", net, {})
    assert dict(shown(tmp_path / "ckpt.pt"))["layer 1"] == (
        "linf_dist_conv 60 -> 24, 3x5x4 to 4x3x2, kernel 3, stride 2, padding 1, mean shift"
    )
    model = model_from_net(pixel_net_from_chain(chain, "exact", None), GraphOptions(), {"grid": "12"})
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    line = dict(shown(tmp_path / "model.onnx"))["layer 1"]
    assert line.startswith("LinfDistConv 60 -> 24, 3x5x4 to 4x3x2, kernel 3, stride 2, padding 1, outputs within ")


def test_checkpoint_with_strange_provenance(files: Any) -> None:
    provenance: Any = {"note": "two\nlines \x1b[2J", 3: None, "long": "x" * 10**5}
    save_checkpoint(files.checkpoint, NET, provenance)
    lines = shown(files.checkpoint)
    assert ("note", r"two\nlines \x1b[2J") in lines
    assert ("3", "None") in lines
    assert len(dict(lines)["long"]) < 2100


@pytest.mark.parametrize("form", ["function", "op", "standard"])
def test_model(form: Form, files: Any) -> None:
    files.model.write_bytes(exported("exact", form, radius=True))
    lines = dict(shown(files.model))
    assert lines["file"] == "ONNX model"
    assert lines["form"] == f"{form}, opset 18, radius"
    assert lines["precision"] == "exact: proven from the weights, on a grid of 2^-12 pixel"
    assert lines["input"] == "uint8 (N, 1, 3, 3)"
    assert lines["layer 0"].startswith("LinfDist 9 -> 7, outputs within ")
    assert "delta" in lines
    assert "WARNING" not in lines


def test_engine(files: Any) -> None:
    lines = dict(shown(files.engine))
    assert lines["file"] == "engine of onnxruntime"
    assert lines["sha256"] == sha256_of(files.engine.read_bytes())
    assert "WARNING" not in lines


@pytest.mark.parametrize("way", WAYS)
def test_engine_says_how_its_layers_run(way: str, files: Any) -> None:
    assert call("build", files.model, files.engine, "--device", "cpu", "--custom-ops", way).code == 0
    expected = {"on": "custom op", "off": "function body (custom ops are off)"}[way]
    assert dict(shown(files.engine))["kernel"] == expected
    assert "kernel" not in dict(shown(files.model))


def test_a_manifest_from_outside_is_shown_as_one_line(files: Any) -> None:
    beside = manifest_path(files.engine)
    manifest = json.loads(beside.read_text())
    manifest["versions"]["kernel"] = ["two\nlines \x1b[2J"]
    beside.write_text(json.dumps(manifest))
    assert dict(shown(files.engine))["kernel"] == "['two\\nlines \\x1b[2J']"


def test_warns_of_departures_false_claims_and_other_files(files: Any) -> None:
    model = onnx.load_from_string(exported("fp32"))
    model.graph.node[-1].op_type = "Abs"
    onnx.helper.set_model_props(model, {"precision": "exact", "grid": "12"})
    files.engine.write_bytes(model.SerializeToString())
    lines = shown(files.engine)
    warnings = [value for name, value in lines if name == "WARNING"]
    assert warnings == [
        "the file is not the one that was built: its SHA-256 differs from the manifest's",
        "node 'negate' (Abs) is not what is written for these weights",
    ]
    assert dict(lines)["precision"] == "fp32; claims exact"
