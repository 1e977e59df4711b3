# SPDX-License-Identifier: Apache-2.0
"""From the command line, end to end: each way of tampering with an engine fails the audit and is named."""

from __future__ import annotations

import functools
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from custom_op_models import needs_library
from onnx import ModelProto, TensorProto, helper, numpy_helper

import linfdeploy.onnx.export
from linfdeploy.cli import main
from linfdeploy.engines.manifest import manifest_path
from linfdeploy.files import sha256_of
from linfdeploy.nets.checkpoint import save_checkpoint
from linfdeploy.nets.net import LinfNet
from linfdeploy.nets.spec import LinfDistSpec, NetSpec
from linfdeploy.report.schema import load_schema
from linfdeploy.report.words import KINDS
from linfdeploy.training.data import load_dataset

HIDDEN = 40
GRID_STEP = np.float32(2.0**-12)
# Three of 255 levels: of the digits' sixteen greys, few.
EPS = "3px"

Tampering = Callable[[ModelProto], None]
Cli = Callable[..., int]


def class_means_net() -> LinfNet:
    """A 64-40-10 net that classifies digits by the nearest class, from means of parts of the training images."""
    data = load_dataset("digits", "train")
    images = data.images.reshape(len(data.images), -1).astype(np.float64)
    parts = [images[data.labels == label][start::4].mean(0) for label in range(10) for start in range(4)]
    layers = (LinfDistSpec(64, HIDDEN, True, False), LinfDistSpec(HIDDEN, 10, False, True))
    net = LinfNet(NetSpec((1, 8, 8), (float(data.mean[0]),), data.std, layers)).eval().requires_grad_(False)
    first = (np.array(parts) / 255 - data.mean[0]) / data.std
    state = net.state_dict()
    state["layers.0.weight"].copy_(torch.from_numpy(first))
    state["layers.0.mean_shift.running_mean"].copy_(torch.linspace(-0.05, 0.05, HIDDEN))
    hidden = net.layers[0](net.normalize(torch.from_numpy(data.images).float() / 255))
    state["layers.1.weight"].copy_(torch.stack([hidden[data.labels == label].mean(0) for label in range(10)]))
    state["layers.1.bias"].copy_(torch.linspace(-0.02, 0.02, 10))
    return net


@pytest.fixture(scope="module")
def cli() -> Iterator[Cli]:
    """Runs the command line in this process; traces of equal nets are made once, since they take a second each."""
    trace = functools.cache(lambda key: linfdeploy.onnx.trace.chain_from_net(nets[key]))
    nets: dict[bytes, LinfNet] = {}

    def chain_from_net(net: LinfNet) -> Any:
        key = b"".join(value.numpy().tobytes() for value in net.state_dict().values())
        nets[key] = net
        return trace(key)

    def run(*arguments: object) -> int:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["linfdeploy", *map(str, arguments)])
            with pytest.raises(SystemExit) as ended:
                main()
        assert isinstance(ended.value.code, int)
        return ended.value.code

    before = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(linfdeploy.onnx.export, "chain_from_net", chain_from_net)
        patch.setattr("linfdeploy.verify.reference.chain_from_net", chain_from_net)
        yield run
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="module")
def folder(cli: Cli, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint and, of each precision, a model and an engine."""
    path = tmp_path_factory.mktemp("faults")
    save_checkpoint(path / "ckpt.pt", class_means_net(), {})
    for precision in ("exact", "fp32", "fp16"):
        model, engine = path / f"{precision}.onnx", path / f"{precision}.engine"
        assert cli("export", path / "ckpt.pt", model, "--precision", precision) == 0
        assert cli("build", model, engine, "--threads", 1) == 0
    return path


def verify(cli: Cli, engine: Path, reference: Path | None, attack: str = "none") -> tuple[int, dict[str, Any]]:
    out = engine.parent / f"{engine.name}-report"
    held = ("--reference", reference) if reference else ()
    code = cli("verify", engine, *held, "--eps", EPS, "--attack", attack, "--samples", 200, "--report", out)
    report = json.loads((out / "report.json").read_text())
    jsonschema.validate(report, dict(load_schema()))
    assert (code == 0) == (report["verdict"] == "pass") == (report["violations"] == [])
    assert {violation["kind"] for violation in report["violations"]} <= set(KINDS)
    return code, report


def weights(model: ModelProto, name: str) -> TensorProto:
    found: TensorProto
    (found,) = (tensor for tensor in model.graph.initializer if tensor.name == name)
    return found


def put(model: ModelProto, name: str, change: Callable[[Any], Any]) -> None:
    tensor = weights(model, name)
    values = numpy_helper.to_array(tensor).copy()
    tensor.CopyFrom(numpy_helper.from_array(change(values), name))


def flip_bit(model: ModelProto) -> None:
    tensor = weights(model, "layer0.weight")
    data = bytearray(tensor.raw_data)
    data[4 * 70 + 2] ^= 0x40
    tensor.raw_data = bytes(data)


def overwrite_last_column(model: ModelProto) -> None:
    def change(values: Any) -> Any:
        values[:, -1] = 0
        return values

    put(model, "layer0.weight", change)


def perturb_bias(model: ModelProto) -> None:
    def change(values: Any) -> Any:
        values[4] += GRID_STEP
        return values

    put(model, "layer1.bias", change)


def swap_classes(model: ModelProto) -> None:
    order = [0, 1, 2, 8, 4, 5, 6, 7, 3, 9]
    for name in ("layer1.weight", "layer1.bias"):
        put(model, name, lambda values: np.ascontiguousarray(values[order]))


def transpose(model: ModelProto) -> None:
    put(model, "layer1.weight", lambda values: np.ascontiguousarray(values.T).reshape(values.shape))


def slice_in_body(model: ModelProto) -> None:
    """Lets the function leave out the last column of X and of W."""
    (function,) = model.functions
    ints = {"start": 0, "end": -1, "axis": 1}
    nodes = [
        helper.make_node("Constant", [], [name], value=helper.make_tensor(name, TensorProto.INT64, [1], [value]))
        for name, value in ints.items()
    ]
    nodes += [helper.make_node("Slice", [full, *ints], [full + ".cut"]) for full in ("X", "W")]
    kept = list(function.node)
    scan = next(node for node in kept if node.op_type == "Scan")
    scan.input[list(scan.input).index("W")] = "W.cut"
    (body,) = (attribute.g for attribute in scan.attribute if attribute.name == "body")
    (subtract,) = (node for node in body.node if node.op_type == "Sub")
    subtract.input[list(subtract.input).index("X")] = "X.cut"
    del function.node[:]
    function.node.extend([*nodes, *kept])


TAMPERINGS: dict[str, tuple[Tampering, str]] = {
    "a flipped bit": (flip_bit, "weight bit"),
    "an overwritten input column": (overwrite_last_column, "input column"),
    "a perturbed bias": (perturb_bias, "bias"),
    "swapped classes": (swap_classes, "classes"),
    "a transposed matrix": (transpose, "weights"),
    "a function body that drops a column": (slice_in_body, "graph"),
}


def tampered(folder: Path, tamper: Tampering, cover_up: bool, name: str) -> Path:
    """Copies the exact engine, tampers with it, and may bring the manifest's hash up to date."""
    engine = folder / f"{name.replace(' ', '-')}-{cover_up}.engine"
    model = ModelProto.FromString((folder / "exact.engine").read_bytes())
    tamper(model)
    data = model.SerializeToString()
    engine.write_bytes(data)
    manifest = json.loads(manifest_path(folder / "exact.engine").read_text())
    if cover_up:
        manifest |= dict.fromkeys(("engine_sha256", "model_sha256", "graph_sha256"), sha256_of(data))
    manifest_path(engine).write_text(json.dumps(manifest))
    return engine


@pytest.mark.parametrize("precision", ["exact", "fp32", "fp16"])
def test_an_untouched_engine_passes(cli: Cli, folder: Path, precision: str) -> None:
    attack = "fast" if precision == "exact" else "none"
    code, report = verify(cli, folder / f"{precision}.engine", folder / "ckpt.pt", attack)
    assert (code, report["engine"]["precision"]) == (0, precision)
    assert report["accuracy"]["clean"] > 0.6
    assert report["certified"]["interval"] > 0.1
    assert report["conformance"]["bit_identical"] == 1
    assert report["conformance"]["rebuilt"] is True
    assert all(0 < layer["reaching"] <= layer["weights"] for layer in report["conformance"]["coverage"])


@pytest.mark.parametrize("name", TAMPERINGS)
def test_tampering_is_found_by_the_hash(cli: Cli, folder: Path, name: str) -> None:
    code, report = verify(cli, tampered(folder, TAMPERINGS[name][0], False, name), None)
    assert code == 1
    assert "engine file" in [violation["kind"] for violation in report["violations"]]


@pytest.mark.parametrize("name", TAMPERINGS)
def test_tampering_that_is_covered_up_is_found_by_the_reference(cli: Cli, folder: Path, name: str) -> None:
    tamper, kind = TAMPERINGS[name]
    code, report = verify(cli, tampered(folder, tamper, True, name), folder / "ckpt.pt")
    kinds = [violation["kind"] for violation in report["violations"]]
    assert code == 1
    assert kind in kinds
    assert "engine file" not in kinds


@pytest.mark.parametrize("bit", [0, 11, 12, 19, 22, 23, 26, 29, 30, 31])
def test_a_flipped_bit_is_named_wherever_it_is(cli: Cli, folder: Path, bit: int) -> None:
    def flip(model: ModelProto) -> None:
        tensor = weights(model, "layer0.weight")
        data = bytearray(tensor.raw_data)
        data[4 * 70 + bit // 8] ^= 1 << bit % 8
        tensor.raw_data = bytes(data)

    code, report = verify(cli, tampered(folder, flip, True, f"bit {bit}"), folder / "ckpt.pt")
    details = {violation["kind"]: violation["detail"] for violation in report["violations"]}
    assert code == 1
    assert details["weight bit"].startswith(f"bit {bit} is flipped in layer 0, weight [1, 6]: ")


def test_a_function_body_that_drops_a_column_is_named(cli: Cli, folder: Path) -> None:
    engine = tampered(folder, slice_in_body, True, "named")
    with_option(engine, custom_ops="off")
    _, report = verify(cli, engine, None)
    details = {violation["kind"]: violation["detail"] for violation in reversed(report["violations"])}
    assert details["graph"] == "the function body of linfdeploy::LinfDist is not the one that is written"
    assert details["conformance"].endswith("the last input column of every layer is dropped")


@needs_library
def test_a_function_body_that_does_not_run_is_found_all_the_same(cli: Cli, folder: Path) -> None:
    engine = tampered(folder, slice_in_body, True, "idle")
    with_option(engine, custom_ops="on")
    code, report = verify(cli, engine, None)
    details = {violation["kind"]: violation["detail"] for violation in report["violations"]}
    assert code == 1
    assert details == {"graph": "the function body of linfdeploy::LinfDist is not the one that is written"}


def with_option(engine: Path, **options: str) -> None:
    """Rewrites the options in an engine's manifest."""
    path = manifest_path(engine)
    manifest = json.loads(path.read_text())
    manifest["options"] |= options
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize("cover_up", [False, True])
def test_half_precision_where_exact_was_promised_is_found(cli: Cli, folder: Path, cover_up: bool) -> None:
    def replace_all(model: ModelProto) -> None:
        model.CopyFrom(ModelProto.FromString((folder / "fp16.engine").read_bytes()))

    engine = tampered(folder, replace_all, cover_up, "half")
    for reference in (None, folder / "ckpt.pt"):
        code, report = verify(cli, engine, reference)
        kinds = [violation["kind"] for violation in report["violations"]]
        assert code == 1
        assert "precision" in kinds
        assert ("engine file" in kinds) != cover_up


def test_a_promise_that_was_rewritten_is_held_against_the_users(cli: Cli, folder: Path) -> None:
    arguments = (folder / "fp16.engine", "--reference", folder / "ckpt.pt", "--eps", EPS, "--attack", "none")
    report = ("--report", folder / "promised")
    assert cli("verify", *arguments, *report) == 0
    assert cli("verify", *arguments, *report, "--precision", "exact") == 1
    found = json.loads((folder / "promised" / "report.json").read_text())
    assert "exact was promised; the weights prove fp16 only" in [v["detail"] for v in found["violations"]]


@pytest.mark.parametrize(
    ("op", "where"), [("Slice", "graph"), ("If", "body"), ("Loop", "body"), ("MatMul", "body")]
)
def test_unknown_ops_are_refused(
    cli: Cli, folder: Path, op: str, where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def insert(model: ModelProto) -> None:
        nodes = model.graph.node if where == "graph" else model.functions[0].node
        nodes.insert(0, helper.make_node(op, ["a", "b"], ["c"], name="extra"))

    engine = tampered(folder, insert, True, f"{op}-{where}")
    assert cli("verify", engine, "--eps", EPS, "--attack", "none") == 2
    wanted = f"node 'extra' is the unknown op ai.onnx::{op}; expected an l_inf-distance net"
    assert capsys.readouterr().err == f"error: {engine}: {wanted}\n"


def test_a_weight_off_the_grid_is_not_exact_whatever_the_file_claims(cli: Cli, folder: Path) -> None:
    def flip_lowest_bit(model: ModelProto) -> None:
        tensor = weights(model, "layer0.weight")
        data = bytearray(tensor.raw_data)
        data[4 * int(np.argmax(numpy_helper.to_array(tensor)))] ^= 1
        tensor.raw_data = bytes(data)

    code, report = verify(cli, tampered(folder, flip_lowest_bit, True, "off the grid"), None)
    assert (code, report["engine"]["precision"], report["certified"]["exact"]) == (1, "fp32", None)
    assert [violation["detail"] for violation in report["violations"]] == [
        "exact was promised; the weights prove fp32 only"
    ]


def test_the_command_itself_ends_with_the_verdicts_code(folder: Path) -> None:
    engines = {folder / "exact.engine": 0, tampered(folder, flip_bit, False, "subprocess"): 1}
    for engine, code in engines.items():
        command = [sys.executable, "-m", "linfdeploy", "verify", str(engine), "--eps", EPS, "--attack", "none"]
        ended = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
        assert (ended.returncode, ended.stderr) == (code, "")
        assert f"verdict: {'fail' if code else 'pass'}" in ended.stdout
