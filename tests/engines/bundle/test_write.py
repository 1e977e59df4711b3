# SPDX-License-Identifier: Apache-2.0
"""Writing a bundle: which models, which files, the same bytes every time."""

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from bundles import bundle_at, images, model_at

import linfdeploy
from linfdeploy.engines.bundle.golden import GoldenImages
from linfdeploy.engines.bundle.read import read_bundle
from linfdeploy.engines.bundle.record import record_of
from linfdeploy.engines.bundle.targets import TARGETS
from linfdeploy.engines.bundle.write import BundleOptions, edge_model, write_bundle
from linfdeploy.errors import EngineError, InputError
from linfdeploy.onnx.pixel_net import Precision
from linfdeploy.onnx.write import Form

OPTIONS = BundleOptions("tensorrt11", "8/255", 5)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("form", ["function", "op", "standard"])
@pytest.mark.parametrize("precision", ["exact", "fp32", "fp16"])
def test_what_the_record_says_is_there(precision: Precision, form: Form, tmp_path: Path) -> None:
    record = bundle_at(tmp_path / "b", precision=precision, form=form)
    files = contents(tmp_path / "b")
    assert set(files) == {*record.files, "bundle.json"}
    assert all(record.files[name] == record_of(data) for name, data in files.items() if name != "bundle.json")
    assert files["model.onnx"] == (tmp_path / "b.onnx").read_bytes()
    assert (record.precision, record.form) == (precision, form)
    assert record.grid == (12 if precision == "exact" else None)
    assert (record.input_shape, record.classes, record.radius) == ((1, 3, 3), 3, True)
    assert (record.images, record.labelled, record.data, record.eps) == (873, 20, "noise", "12px")
    assert record.versions["linfdeploy"] == linfdeploy.__version__
    assert any(name.startswith("plugin/") for name in files) == (form != "standard")
    assert ("plugin/plugins_trt/CMakeLists.txt" in files) == (form != "standard")


def test_without_radius_there_is_no_golden_label(tmp_path: Path) -> None:
    record = bundle_at(tmp_path / "b", radius=False)
    golden = {name for name in record.files if name.startswith("golden/")}
    assert golden == {"golden/images.npy", "golden/labels.npy", "golden/logits.npy"}


def test_the_same_again_is_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        bundle_at(tmp_path / name)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_the_function_form_is_refused_where_it_hides_the_plugin(tmp_path: Path) -> None:
    path = model_at(tmp_path / "m.onnx")
    text = (
        f"{path} has the form function; TensorRT 10.3 (jetpack6) takes the function and leaves out the plugin "
        "without a word: export it again with --form op"
    )
    with pytest.raises(EngineError, match=f"^{re.escape(text)}$"):
        edge_model(path, "jetpack6")
    for form in ("op", "standard"):
        edge_model(model_at(path, form=form), "jetpack6")


@pytest.mark.parametrize("target", [name for name in TARGETS if name != "jetpack6"])
def test_all_other_targets_take_the_function(target: str, tmp_path: Path) -> None:
    edge_model(model_at(tmp_path / "m.onnx"), target)


def test_a_graph_that_departs_is_refused(tmp_path: Path) -> None:
    path = model_at(tmp_path / "m.onnx")
    model = onnx.load(path)
    model.graph.node[-1].doc_string = "mine"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(
        EngineError, match=r"is not what is written for these weights; expected a graph as exported"
    ):
        edge_model(path, "jetpack7")


def test_external_data_is_taken_in(tmp_path: Path) -> None:
    path = model_at(tmp_path / "m.onnx", radius=False)
    alone = edge_model(path, "jetpack7")
    onnx.save_model(onnx.load(path), path, save_as_external_data=True, location="weights", size_threshold=0)
    model = edge_model(path, "jetpack7")
    assert len(model.data) > path.stat().st_size
    write_bundle(tmp_path / "b", model, images(), OPTIONS)
    (tmp_path / "weights").unlink()
    again = edge_model(tmp_path / "b" / "model.onnx", "jetpack7").graph.net
    for layer, expected in zip(again.layers, alone.graph.net.layers, strict=True):
        assert np.array_equal(layer.weight, expected.weight)
        assert np.array_equal(layer.bias, expected.bias)


def test_a_name_of_a_data_set_that_cannot_be_shown(tmp_path: Path) -> None:
    found = images()
    strange = GoldenImages("/home/me/a\n\udcff" + "b" * 300, found.images, found.labels, found.probes)
    write_bundle(tmp_path / "b", edge_model(model_at(tmp_path / "m.onnx"), "jetpack7"), strange, OPTIONS)
    record = read_bundle(tmp_path / "b").record
    assert record.data == "a??" + "b" * 197
    assert (record.target, record.eps, record.seed) == ("tensorrt11", "8/255", 5)


def test_a_folder_that_holds_something_stays(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine").write_text("mine")
    with pytest.raises(InputError, match="it holds files already; name a new or an empty folder"):
        bundle_at(tmp_path / "b")
    assert contents(tmp_path / "b") == {"mine": b"mine"}
