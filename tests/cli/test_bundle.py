# SPDX-License-Identifier: Apache-2.0
"""`bundle`, and `build` and `verify` on its folder: what a user and a device do."""

import json
import os
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from bundles import change_record, commands
from command_line import Outcome, assert_refused, call
from onnx import numpy_helper
from small_nets import exported, in_runtime, random_images

from linfdeploy.cli.bundle import command
from linfdeploy.cli.steps import places_of_build
from linfdeploy.engines.bundle.read import read_bundle
from linfdeploy.engines.bundle.targets import TARGETS
from linfdeploy.files import sha256_of
from linfdeploy.onnx.pixel_net import PixelLayer, PixelNet
from linfdeploy.onnx.write import GraphOptions, model_from_net
from linfdeploy.training.data import load_dataset

FLAT_EPS = "3px"
ONNXRUNTIME = ("--backend", "onnxruntime", "--device", "cpu")


@pytest.fixture(scope="module")
def digits_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A net for the digits: the negated distance to the mean image of each class."""
    data = load_dataset("digits", "train")
    flat = data.images.reshape(len(data.images), -1)
    means = np.stack([flat[data.labels == label].mean(0) for label in range(10)])
    weight = (np.rint(means * 4096) / 4096).astype(np.float32)
    net = PixelNet((1, 8, 8), (PixelLayer(weight, np.zeros(10, np.float32)),), 12)
    model = model_from_net(net, GraphOptions(radius=True), {"precision": "exact", "grid": "12"})
    path = tmp_path_factory.mktemp("digits") / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def small(files: Any) -> Path:
    """A bundle of the small net."""
    folder: Path = files.folder / "bundle"
    outcome = call("bundle", files.model, "-o", folder, "--data", files.data, "--eps", FLAT_EPS)
    assert outcome.code == 0, outcome
    return folder


def build(folder: Path, *options: str | Path) -> Outcome:
    return call("build", folder, *options, *ONNXRUNTIME)


def verify(folder: Path, *options: str | Path) -> Outcome:
    return call("verify", folder, "--attack", "none", "--report", folder / "report", *options)


def report_of(folder: Path) -> Any:
    return json.loads((folder / "report" / "report.json").read_text())


def test_the_whole_way_of_the_digits(digits_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "bundle"
    made = call("bundle", digits_model, "-o", folder)
    assert (made.code, made.err) == (0, "")
    record = (folder / "bundle.json").read_bytes()
    count = len(json.loads(record)["files"]) + 1
    assert made.out == (
        f"wrote {folder}: jetpack7.2, exact on a grid of 2^-12 pixel, form function; "
        f"1457 golden images, 256 of them labelled; {count} files\n"
        f"bundle.json has the SHA-256 {sha256_of(record)}\n"
    )
    assert [path.name for path in folder.parent.iterdir()] == ["bundle"]
    built = build(folder)
    assert built.code == 0, built
    assert built.out.startswith(f"wrote {folder / 'model.engine'}: onnxruntime ")
    audited = verify(folder)
    assert audited.code == 0, audited
    assert "golden: 100.00% of the logits of 1457 images are the bundle's" in audited.out
    assert "verdict: pass" in audited.out
    report = report_of(folder)
    assert (report["verdict"], report["samples"], report["data"]) == ("pass", 256, "digits of the bundle")
    assert report["eps"]["text"] == "0.1"
    assert report["conformance"]["golden"] == {"images": 1457, "bit_identical": 1}
    assert report["engine"]["path"] == str(folder / "model.engine")
    assert report["accuracy"]["clean"] > 0.5
    # What both left in the folder is no reason to refuse it.
    assert build(folder).code == 0
    assert verify(folder).code == 0


def test_the_radius_of_a_bundle_is_that_of_the_engine(digits_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    assert call("bundle", digits_model, "-o", folder, "--samples", "9").code == 0
    golden = read_bundle(folder).golden
    logits = np.sort(golden.answers["logits"].astype(np.float64), 1)
    assert np.array_equal(golden.answers["radius"], np.maximum(0, (logits[:, -1] - logits[:, -2]) / 2))
    assert np.array_equal(golden.answers["label"], golden.answers["logits"].argmax(1))


def test_the_readmes_commands_in_the_folder(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [line for line in commands(small) if line.startswith("linfdeploy ")]
    monkeypatch.chdir(small)
    build_it, verify_it = (shlex.split(line)[1:] for line in lines)
    assert call(*build_it, *ONNXRUNTIME).code == 0
    audited = call(*verify_it)
    assert audited.code == 0, audited
    assert (small / "report" / "report.html").is_file()


def test_the_engine_may_be_written_elsewhere(small: Path, files: Any) -> None:
    engine = files.folder / "elsewhere.engine"
    assert build(small, engine).code == 0
    assert engine.exists()
    assert not (small / "model.engine").exists()


def test_a_bundle_is_built_with_tensorrt_unless_another_backend_is_named(small: Path) -> None:
    assert places_of_build(small, None, None) == (small / "model.onnx", small / "model.engine", "tensorrt")
    assert places_of_build(small, Path("x"), "onnxruntime") == (small / "model.onnx", Path("x"), "onnxruntime")
    assert places_of_build(Path("m"), Path("x"), None) == (Path("m"), Path("x"), None)


def test_a_file_needs_the_name_of_its_engine(files: Any) -> None:
    line = assert_refused(call("build", files.model))
    assert line.endswith(
        f"no engine to write is named for {files.model}; expected linfdeploy build {files.model} ENGINE"
    )


def test_not_built_yet(small: Path) -> None:
    line = assert_refused(verify(small))
    expected = small / "model.engine"
    assert line == f"error: {small}: its engine was not built yet; expected {expected}: linfdeploy build {small}"
    assert not (small / "report").exists()


def test_data_eps_and_samples_may_be_others(small: Path, files: Any) -> None:
    assert build(small).code == 0
    assert verify(small).code == 0
    report = report_of(small)
    assert (report["eps"]["text"], report["samples"], report["data"]) == (FLAT_EPS, 40, "data.npz of the bundle")
    images = np.random.default_rng(5).integers(0, 256, (6, 1, 3, 3), np.uint8)
    np.savez(files.folder / "other.npz", images=images, labels=np.arange(6) % 3)
    assert verify(small, "--data", files.folder / "other.npz", "--eps", "5px", "--samples", "5").code == 0
    report = report_of(small)
    assert (report["eps"]["text"], report["samples"]) == ("5px", 5)
    assert report["data"] == str(files.folder / "other.npz")
    assert report["conformance"]["golden"]["images"] == read_bundle(small).record.images
    assert verify(small, "--samples", "7").code == 0
    assert report_of(small)["samples"] == 7
    assert_refused(verify(small, "--samples", "0"), "--samples is 0; expected at least 1")


def test_without_a_bundle_there_is_no_golden(files: Any) -> None:
    outcome = call(
        "verify", files.engine, "--data", files.data, "--attack", "none", "--report", files.folder / "report"
    )
    assert outcome.code == 0
    assert "golden" not in outcome.out
    assert report_of(files.folder)["conformance"]["golden"] is None
    assert report_of(files.folder)["eps"]["text"] == "0.1"


# --- engines that are not the bundle's


def flipped(path: Path) -> bytes:
    """The model with one bit flipped of the first weight in the last layer that shows in logits; most never do."""
    before = in_runtime(path.read_bytes(), random_images(40))["logits"]
    for index in range(15):
        model = onnx.load(path)
        tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "layer2.weight")
        weight = numpy_helper.to_array(tensor).copy()
        weight.view(np.uint32).flat[index] ^= np.uint32(1 << 22)
        tensor.CopyFrom(numpy_helper.from_array(weight, tensor.name))
        data: bytes = model.SerializeToString()
        if not np.array_equal(in_runtime(data, random_images(40))["logits"], before):
            return data
    raise AssertionError("no weight of the last layer shows")


def test_an_engine_with_one_bit_flipped_fails(small: Path, files: Any) -> None:
    files.model.write_bytes(flipped(files.model))
    assert call("build", files.model, small / "model.engine", *ONNXRUNTIME).code == 0
    outcome = verify(small)
    assert outcome.code == 1
    assert "verdict: fail" in outcome.out
    violations = [found for found in report_of(small)["violations"] if found["kind"] == "golden"]
    assert len(violations) == 3
    assert violations[0]["detail"] == (
        f"the engine was built from the model {sha256_of(files.model.read_bytes())}; "
        f"the bundle's is {read_bundle(small).model_sha256}"
    )
    assert violations[1]["detail"].startswith(
        "the engine's weights are not those of the bundle's model: bit 22 is flipped in layer 2, weight ["
    )
    assert " golden logits differ; first logit " in violations[2]["detail"]
    assert report_of(small)["conformance"]["golden"]["bit_identical"] < 1


def test_an_engine_whose_manifest_lies_fails_by_its_bits(small: Path, files: Any) -> None:
    files.model.write_bytes(flipped(files.model))
    assert call("build", files.model, small / "model.engine", *ONNXRUNTIME).code == 0
    manifest = small / "model.engine.json"
    lies = manifest.read_text().replace(sha256_of(files.model.read_bytes()), read_bundle(small).model_sha256)
    manifest.write_text(lies)
    outcome = verify(small)
    assert outcome.code == 1
    details = [found["detail"] for found in report_of(small)["violations"] if found["kind"] == "golden"]
    assert len(details) == 2
    assert "bit 22 is flipped in layer 2, weight [" in details[0]
    assert " golden logits differ; first logit " in details[1]


def test_a_promise_of_the_bundle_is_not_forgotten(files: Any) -> None:
    """Neither engine nor manifest say that the graph was to be exact; the bundle does."""
    folder = files.folder / "bundle"
    files.model.write_bytes(exported("exact"))
    assert call("bundle", files.model, "-o", folder, "--data", files.data).code == 0
    files.model.write_bytes(exported("fp32"))
    assert call("build", files.model, folder / "model.engine", *ONNXRUNTIME).code == 0
    assert verify(folder).code == 1
    kinds = {found["kind"] for found in report_of(folder)["violations"]}
    assert {"golden", "precision"} <= kinds


def test_float_bundles(files: Any) -> None:
    for precision in ("fp32", "fp16"):
        folder = files.folder / precision
        files.model.write_bytes(exported(precision, radius=True))
        made = call("bundle", files.model, "-o", folder, "--data", files.data, "--target", "tensorrt10")
        assert made.out.startswith(f"wrote {folder}: tensorrt10, {precision}, form function; ")
        assert build(folder).code == 0
        assert verify(folder).code == 0
        assert report_of(folder)["conformance"]["golden"]["images"] == 973


# --- what is refused


def test_a_changed_file_is_refused_before_anything_is_built(small: Path) -> None:
    path = small / "golden" / "logits.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    for outcome in (build(small), verify(small)):
        assert_refused(outcome, str(small), "golden/logits.npy was changed: its SHA-256 is ", ": copy it again")
    assert not (small / "model.engine").exists()
    assert not (small / "report").exists()


def test_a_hostile_record_is_one_line(small: Path) -> None:
    def outside(data: Any) -> None:
        data["files"]["../../etc/passwd"] = {"sha256": "0" * 64, "size": 1}

    change_record(small, outside)
    for outcome in (build(small), verify(small)):
        assert_refused(outcome, f"{small}/bundle.json: files is ", "by its place inside the folder")


def test_eps_of_a_record_is_read_as_any_other(small: Path) -> None:
    assert build(small).code == 0
    change_record(small, lambda data: data.update(eps="9/0"))
    assert_refused(verify(small), "eps is '9/0'; expected a fraction of the pixel range")


@pytest.mark.parametrize("verb", ["build", "verify"])
def test_a_folder_that_is_no_bundle(verb: str, tmp_path: Path) -> None:
    line = assert_refused(call(verb, tmp_path))
    assert line == f"error: {tmp_path}: no bundle.json in it; expected a folder that linfdeploy bundle made"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--target", "jetpack5"), "'jetpack5' is not one of 'jetpack6', 'jetpack7', 'jetpack7.2', 'tensorrt10'"),
        (("--target", "jetpack6"), "leaves out the plugin without a word: export it again with --form op"),
        (("--samples", "0"), "--samples is 0; expected at least 1"),
        (("--eps", "0"), "eps is '0'; expected more than 0"),
        (("--eps", "0.001"), "expected at least 1 level"),
        (("--data", "digits"), "digits has images of (1, 8, 8); the net expects (1, 3, 3): choose the data set"),
        (("--data", "cifar"), "there is no data set 'cifar'"),
        (("--force",), "No such option"),
        (("--seed", "-1"), "-1 is not in the range 0<=x<="),
    ],
)
def test_wrong_use(options: tuple[str, ...], text: str, files: Any) -> None:
    folder = files.folder / "bundle"
    assert_refused(call("bundle", files.model, "-o", folder, "--data", files.data, *options), text)
    assert not folder.exists()


def test_more_classes_than_the_net(files: Any) -> None:
    np.savez(files.data, images=np.arange(45, dtype=np.uint8).reshape(5, 1, 3, 3), labels=np.arange(5))
    outcome = call("bundle", files.model, "-o", files.folder / "b", "--data", files.data)
    assert_refused(
        outcome, "has at least 5 classes; the net has 3: choose the data set that the net was trained on"
    )


def test_models_that_are_none(files: Any) -> None:
    out = files.folder / "b"
    assert_refused(
        call("bundle", files.folder / "missing", "-o", out), "missing: no such file; expected an ONNX model"
    )
    assert_refused(
        call("bundle", files.folder, "-o", out), f"{files.folder}: no such file; expected an ONNX model"
    )
    assert_refused(call("bundle", files.checkpoint, "-o", out), "expected a file written by linfdeploy export")
    assert not out.exists()


def test_a_folder_that_is_there_stays(small: Path, files: Any) -> None:
    before = {path: path.read_bytes() for path in small.rglob("*") if path.is_file()}
    # Found before the data are even looked for.
    line = assert_refused(call("bundle", files.model, "-o", small, "--data", "nothing"))
    assert line == f"error: cannot write {small}: it holds files already; name a new or an empty folder"
    assert {path: path.read_bytes() for path in small.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (
            OSError(28, "No space left on device"),
            2,
            "error: cannot write {}: No space left on device; free space or",
        ),
        (KeyboardInterrupt(), 130, "interrupted: nothing half-written was left behind"),
    ],
)
@pytest.mark.parametrize("at", [1, 30])
def test_what_goes_wrong_in_the_middle_leaves_nothing(
    at: int, error: BaseException, code: int, text: str, files: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def fsync(handle: int) -> None:
        calls.append(handle)
        if len(calls) == at:
            raise error

    monkeypatch.setattr(os, "fsync", fsync)
    folder = files.folder / "out" / "bundle"
    outcome = call("bundle", files.model, "-o", folder, "--data", files.data)
    assert outcome.code == code
    # click ends the line of the terminal's ^C.
    (line,) = outcome.err.strip().splitlines()
    assert line.startswith(text.format(folder))
    assert list(folder.parent.iterdir()) == []


def test_a_package_without_sources(files: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("linfdeploy.engines.bundle.sources.REQUIRED", ("plugins_trt/gone.cpp",))
    out = files.folder / "b"
    line = assert_refused(call("bundle", files.model, "-o", out, "--data", files.data), "plugins_trt/gone.cpp")
    assert "install linfdeploy again, or export with --form standard, which needs no plugin" in line
    files.model.write_bytes(exported("exact", "standard"))
    assert call("bundle", files.model, "-o", out, "--data", files.data).code == 0


def test_the_targets_of_the_option_are_all() -> None:
    (target,) = [parameter for parameter in command.params if parameter.name == "target"]
    assert list(target.type.choices) == list(TARGETS)  # type: ignore[attr-defined]  # it is a Choice
