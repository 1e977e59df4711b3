# SPDX-License-Identifier: Apache-2.0
"""Whatever a file holds: exit code 2, one line that helps, nothing executed, nothing left behind."""

import gzip
import os
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from command_line import Outcome, assert_refused, call
from onnx import ModelProto, TensorProto, helper
from small_nets import SHAPE

from linfdeploy.engines.manifest import manifest_path

Change = Callable[[Any], None]


def commands_on_model(files: Any) -> list[Outcome]:
    """Every command that reads an ONNX file, on it."""
    files.engine.write_bytes(files.model.read_bytes())
    report = files.folder / "out" / "report"
    verify = ("verify", files.engine, "--data", files.data, "--attack", "none", "--report", report)
    return [
        call("build", files.model, files.folder / "out" / "engine"),
        call("inspect", files.model),
        call(*verify),
    ]


def export(files: Any) -> Outcome:
    return call("export", files.checkpoint, files.folder / "out" / "model.onnx")


def commands_on_checkpoint(files: Any) -> list[Outcome]:
    reference = ("--reference", files.checkpoint, "--report", files.folder / "out" / "report")
    verify = ("verify", files.engine, "--data", files.data, "--attack", "none", *reference)
    return [export(files), call("inspect", files.checkpoint), call(*verify)]


def assert_nothing_left(files: Any) -> None:
    out = files.folder / "out"
    assert not out.exists() or list(out.iterdir()) == []
    assert not list(files.folder.rglob("*.part"))


# --- files that are no files


@pytest.mark.parametrize("kind", ["missing", "empty", "folder", "cut", "noise"])
def test_every_command_on_no_file_at_all(kind: str, files: Any) -> None:
    for path in (files.checkpoint, files.model, files.engine):
        data = path.read_bytes()
        path.unlink()
        if kind == "folder":
            path.mkdir()
        elif kind != "missing":
            cut = {"empty": b"", "cut": data[: len(data) // 2], "noise": np.random.default_rng(0).bytes(999)}
            path.write_bytes(cut[kind])
    report = ("--data", files.data, "--report", files.folder / "out" / "report")
    for outcome in (
        export(files),
        call("build", files.model, files.folder / "out" / "engine"),
        call("verify", files.engine, *report),
        *(call("inspect", path) for path in (files.model, files.engine)),
        call("inspect", files.checkpoint),
    ):
        assert_refused(outcome, str(files.folder), "expected")
    assert_nothing_left(files)


# --- checkpoints


class Payload:
    """What a hostile pickle does when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


def test_pickles_are_not_executed(files: Any) -> None:
    marker = files.folder / "executed"
    torch.save({"format": Payload(marker)}, files.checkpoint)
    for outcome in commands_on_checkpoint(files):
        assert_refused(
            outcome,
            "holds code or objects, which are never executed; expected a linfdeploy checkpoint of plain data",
        )
    np.savez(files.data, images=np.array([Payload(marker)], object), labels=np.zeros(1, int))
    assert_refused(
        call("verify", files.engine, "--data", files.data), "data.npz cannot be read", "expected an .npz"
    )
    assert not marker.exists()
    assert_nothing_left(files)


def test_what_torch_finds_strange_is_no_second_line(files: Any) -> None:
    # Another pickle protocol makes torch.load warn.
    torch.save(torch.load(files.checkpoint, weights_only=True), files.checkpoint, pickle_protocol=3)
    with warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter("always")
        assert call("inspect", files.checkpoint).code in {0, 2}
    assert [str(warning.message) for warning in noted] == []


def weight(data: Any) -> Any:
    return data["state_dict"]["layers.0.weight"]


def set_weight(data: Any, value: Any) -> None:
    data["state_dict"]["layers.0.weight"] = value


CHECKPOINTS: dict[str, tuple[Change, str]] = {
    "nan": (lambda d: weight(d).__setitem__((0, 0), float("nan")), "layers.0.weight holds infinite or NaN values"),
    "inf": (lambda d: weight(d).__setitem__((0, 0), float("inf")), "expected finite numbers: train again"),
    "shape": (lambda d: set_weight(d, torch.zeros(7, 8)), "layers.0.weight is torch.float32 (7, 8); expected"),
    "dtype": (lambda d: set_weight(d, torch.zeros(7, 9).double()), "is torch.float64 (7, 9); expected"),
    "no tensor": (lambda d: set_weight(d, [0.0]), "layers.0.weight is list; expected torch.float32 (7, 9)"),
    "sparse": (lambda d: set_weight(d, torch.zeros(7, 9).to_sparse()), "is not plainly stored torch.float32"),
    "meta": (lambda d: set_weight(d, torch.zeros(7, 9, device="meta")), "layers.0.weight is "),
    "strides of 0": (
        lambda d: set_weight(d, torch.zeros(1, 1).expand(7, 9)),
        "is not plainly stored torch.float32",
    ),
    "missing": (lambda d: d["state_dict"].pop("layers.0.weight"), "the state lacks ['layers.0.weight']"),
    "extra": (lambda d: d["state_dict"].update(x=torch.zeros(1)), "has the unknown ['x']"),
    "format": (lambda d: d.update(format="linfdeploy.checkpoint/2"), "has format 'linfdeploy.checkpoint/2'"),
    "tensor as format": (lambda d: d.update(format=torch.zeros(3, 3)), "has format "),
    "field": (lambda d: d.pop("spec"), "expected format 'linfdeploy.checkpoint/1' and fields"),
    "provenance": (lambda d: d.update(provenance=3), "provenance is int; expected a mapping"),
    "classes": (lambda d: d["spec"].update(classes=9), "claims 9 classes but its last layer has 3"),
    "classes as tensor": (lambda d: d["spec"].update(classes=torch.zeros(2)), "classes"),
    "negative": (lambda d: d["spec"]["layers"][0].update(outputs=-7), "claims 9 inputs and -7 outputs; expected"),
    "huge": (
        lambda d: d["spec"]["layers"][0].update(outputs=2**40),
        "outputs; expected 9 inputs and between 1 and",
    ),
    "std 0": (lambda d: d["spec"].update(std=0.0), "std is 0.0; expected one finite positive float32 number"),
    "std nan": (lambda d: d["spec"].update(std=float("nan")), "std is nan; expected"),
    "std beyond float": (lambda d: d["spec"].update(std=10**400), "std is inf; expected"),
    "layer type": (
        lambda d: d["spec"]["layers"][0].update(type="conv"),
        "is of type 'conv'; expected one of the types linear, linf_dist",
    ),
    "no layers": (
        lambda d: d["spec"].update(layers=[], classes=0),
        "the spec has no layers; expected at least one",
    ),
    "mean": (lambda d: d["spec"].update(mean=[0.1, 0.2]), "expected 1 finite float32 numbers, one per channel"),
}


@pytest.mark.parametrize(("change", "text"), CHECKPOINTS.values(), ids=CHECKPOINTS)
def test_checkpoints(change: Change, text: str, files: Any) -> None:
    data = torch.load(files.checkpoint, weights_only=True)
    change(data)
    torch.save(data, files.checkpoint)
    for outcome in commands_on_checkpoint(files):
        assert_refused(outcome, str(files.checkpoint), text)
    assert_nothing_left(files)


@pytest.mark.parametrize("std", [1e39, 1e-46])
def test_a_std_that_float32_cannot_hold(std: float, files: Any) -> None:
    data = torch.load(files.checkpoint, weights_only=True)
    data["spec"]["std"] = std
    torch.save(data, files.checkpoint)
    assert_refused(export(files), "expected")
    assert_nothing_left(files)


# --- models


def constant(model: ModelProto) -> TensorProto:
    tensor: TensorProto = model.graph.initializer[0]
    return tensor


def set_dims(*dims: int) -> Change:
    def change(model: ModelProto) -> None:
        del constant(model).dims[:]
        constant(model).dims.extend(dims)

    return change


def set_external(location: str) -> Change:
    def change(model: ModelProto) -> None:
        tensor = constant(model)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", location

    return change


def set_raw(data: bytes) -> Change:
    def change(model: ModelProto) -> None:
        constant(model).raw_data = data

    return change


def set_op(op: str, domain: str = "") -> Change:
    def change(model: ModelProto) -> None:
        model.graph.node[-1].op_type, model.graph.node[-1].domain = op, domain

    return change


def with_branch(op: str) -> Change:
    def change(model: ModelProto) -> None:
        branch = helper.make_graph([], "b", [], [])
        model.graph.node.append(helper.make_node(op, ["logits"], ["z"], body=branch, then_branch=branch))

    return change


NON_FINITE = np.full(63, np.nan, np.float32).tobytes()
MODELS: dict[str, tuple[Change, str]] = {
    "2^40 elements": (set_dims(2**40), "claims shape (1099511627776,); expected positive sizes, at most"),
    "2^20 squared": (set_dims(2**20, 2**20), "expected positive sizes, at most 2147483648 elements"),
    "negative": (set_dims(-7, -9), "claims shape (-7, -9); expected positive sizes"),
    "other sizes": (set_dims(7, 10), "claims shape (7, 10), so 280 bytes of raw data, but has 252"),
    "raw data": (set_raw(b"abc"), "so 252 bytes of raw data, but has 3"),
    "nan": (set_raw(NON_FINITE), "holds infinite or NaN values; expected finite numbers"),
    "op": (set_op("MatMul"), "is the unknown op ai.onnx::MatMul; expected an l_inf-distance net"),
    "half a head": (set_op("Gemm"), "a Gemm has not three inputs; expected features, weight and bias"),
    "domain": (set_op("Neg", "com.microsoft"), "is the unknown op com.microsoft::Neg; expected"),
    "Loop": (with_branch("Loop"), "unknown op ai.onnx::Loop"),
    "If": (with_branch("If"), "unknown op ai.onnx::If"),
    "passwd": (set_external("../../etc/passwd"), "outside the model's folder; expected a file beside the model"),
    "absolute": (set_external("/etc/passwd"), "outside the model's folder; expected"),
    "link": (set_external("link"), "outside the model's folder; expected"),
    "missing": (set_external("missing"), "of 'missing', which does not hold them: copy it again"),
    "nul": (set_external("a\0b"), "cannot be read"),
}


@pytest.mark.parametrize(("change", "text"), MODELS.values(), ids=MODELS)
def test_models(change: Change, text: str, files: Any) -> None:
    (files.folder / "link").symlink_to("/etc/passwd")
    model = onnx.load(files.model)
    change(model)
    files.model.write_bytes(model.SerializeToString())
    for outcome in commands_on_model(files):
        assert_refused(outcome, str(files.folder), text)
    assert_nothing_left(files)


def test_external_data_beside_the_model_works(files: Any) -> None:
    model = onnx.load(files.model)
    onnx.save_model(model, files.model, save_as_external_data=True, location="weights", size_threshold=0)
    assert (files.folder / "weights").exists()
    # The engine lies elsewhere and needs nothing beside it.
    engine = files.folder / "out" / "engine"
    outcome = call("build", files.model, engine)
    assert outcome.code == 0, outcome.err
    verify = ("verify", engine, "--data", files.data, "--attack", "none", "--report", files.folder / "report")
    assert call(*verify, "--reference", files.checkpoint).code == 0


# --- manifests


@pytest.mark.parametrize("data", [b"", b"{", b"[" * 100000, b"{}", b'{"format": "linfdeploy.engine/1"}'])
def test_manifests(data: bytes, files: Any) -> None:
    manifest_path(files.engine).write_bytes(data)
    for command in (("inspect", files.engine), ("verify", files.engine, "--data", files.data)):
        assert_refused(call(*command), "model.engine.json", "build the engine again")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("threads", '"many"'),
        ("threads", "1000000000"),
        ("custom_ops", '"yes"'),
        ("custom_ops", "[]"),
        ("backend", '"tpu"'),
        ("grid", "99999"),
    ],
)
def test_manifests_that_ask_for_strange_things(field: str, value: str, files: Any) -> None:
    path = manifest_path(files.engine)
    lines = [
        f"{line.split(':')[0]}: {value}{',' * line.endswith(',')}" if f'"{field}"' in line else line
        for line in path.read_text().splitlines()
    ]
    path.write_text("\n".join(lines))
    options = ("--data", files.data, "--reference", files.checkpoint, "--attack", "none")
    report = files.folder / "out" / "report"
    assert_refused(call("verify", files.engine, *options, "--report", report), "expected")
    assert_nothing_left(files)


# --- data sets


def on_data(files: Any, *options: object) -> Outcome:
    report = ("--attack", "none", "--report", files.folder / "out" / "report")
    return call("verify", files.engine, *report, *map(str, options))


IMAGES, LABELS = np.arange(90, dtype=np.uint8).reshape(10, *SHAPE), np.arange(10) % 3
DATA: dict[str, tuple[dict[str, Any], str]] = {
    "empty": ({"images": IMAGES[:0], "labels": LABELS[:0]}, "expected uint8 (N, C, H, W)"),
    "no labels": ({"images": IMAGES}, "holds the arrays ['images']; expected images and labels"),
    "shape": (
        {"images": IMAGES[:, :, :2], "labels": LABELS},
        "has images of (1, 2, 3); the engine expects (1, 3, 3)",
    ),
    "classes": ({"images": IMAGES, "labels": LABELS + 1}, "has at least 4 classes; the engine has 3: choose"),
    "negative label": ({"images": IMAGES, "labels": LABELS - 1}, "holds the label -1; expected 0 to"),
    "fewer labels": ({"images": IMAGES, "labels": LABELS[:9]}, "expected one whole number for each of the 10"),
    "floats": ({"images": IMAGES / 255, "labels": LABELS}, "expected uint8 (N, C, H, W)"),
    "float labels": ({"images": IMAGES, "labels": LABELS / 2}, "labels are float64; expected integers"),
}


@pytest.mark.parametrize(("arrays", "text"), DATA.values(), ids=DATA)
def test_data_sets(arrays: dict[str, Any], text: str, files: Any) -> None:
    np.savez(files.data, **arrays)
    assert_refused(on_data(files, "--data", files.data), text)
    assert_nothing_left(files)


@pytest.mark.parametrize("keep", [0, 10, -30])
def test_truncated_npz(keep: int, files: Any) -> None:
    files.data.write_bytes(files.data.read_bytes()[:keep])
    assert_refused(on_data(files, "--data", files.data), str(files.data), "expected an .npz file of plain arrays")


def idx(images: int = 2, side: int = 28) -> bytes:
    return struct.pack(">4I", 0x0803, images, side, side) + bytes(images * side * side)


IDX: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "has 0 bytes; expected an IDX file"),
    "header": (idx()[:10], "has 10 bytes; expected an IDX file, whose header alone has 16"),
    "cut": (idx()[:-5], "claims 2x28x28 bytes and holds 1563; expected as many as it claims"),
    "magic": (b"\x00\x00\x0d\x03" + idx()[4:], "starts with 0x00000d03; expected 0x00000803"),
    "huge": (struct.pack(">4I", 0x0803, 2**32 - 1, 2**32 - 1, 2**32 - 1), "claims 4294967295x4294967295x"),
    "side": (idx(side=27), "images are 27x27; expected 28x28"),
}


@pytest.mark.parametrize(("data", "text"), IDX.values(), ids=IDX)
@pytest.mark.parametrize("packed", [False, True])
def test_idx(data: bytes, text: str, packed: bool, files: Any) -> None:
    suffix, pack = (".gz", gzip.compress) if packed else ("", bytes)
    (files.folder / f"t10k-images-idx3-ubyte{suffix}").write_bytes(pack(data))
    (files.folder / f"t10k-labels-idx1-ubyte{suffix}").write_bytes(pack(struct.pack(">2I", 0x0801, 2) + bytes(2)))
    assert_refused(on_data(files, "--data", "mnist", "--data-root", files.folder), text)


def test_truncated_gzip_and_no_files(files: Any) -> None:
    assert_refused(on_data(files, "--data", "mnist", "--data-root", files.folder), "expected mnist as torchvision")
    (files.folder / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx())[:-9])
    assert_refused(on_data(files, "--data", "mnist", "--data-root", files.folder), "is truncated or not gzip")
    assert_refused(on_data(files, "--data", "cifar"), "there is no data set 'cifar'; expected digits, mnist")


# --- outputs


@pytest.mark.parametrize("command", ["export", "build"])
@pytest.mark.parametrize("where", ["file as folder", "proc", "folder", "long name"])
def test_outputs(command: str, where: str, files: Any) -> None:
    (files.folder / "a folder").mkdir()
    out = {
        "file as folder": files.data / "model",
        "proc": Path("/proc/model"),
        "folder": files.folder / "a folder",
        "long name": files.folder / ("n" * 300),
    }[where]
    source = files.checkpoint if command == "export" else files.model
    before = {path: path.read_bytes() for path in files.folder.iterdir() if path.is_file()}
    assert_refused(
        call(command, source, out), f"cannot write {out}", "name a file" if where == "folder" else "choose"
    )
    assert {path: path.read_bytes() for path in files.folder.iterdir() if path.is_file()} == before
    assert list((files.folder / "a folder").iterdir()) == []
