# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from custom_op_models import WAYS
from small_nets import pixel_net, random_images

import linfdeploy
from linfdeploy.engines import build as build_module
from linfdeploy.engines import onnxruntime as backend
from linfdeploy.engines.base import Answers, Images
from linfdeploy.engines.build import BACKENDS, engine_from_onnx, open_engine, rebuilder
from linfdeploy.engines.manifest import manifest_path, read_manifest
from linfdeploy.engines.reference import ReferenceEngine
from linfdeploy.errors import EngineError, InputError
from linfdeploy.files import sha256_of
from linfdeploy.onnx.pixel_net import PRECISIONS, Precision
from linfdeploy.onnx.write import Form, GraphOptions, model_from_net

CPU = {"device": "cpu", "threads": 1}


def written(folder: Path, precision: Precision = "exact", form: Form = "function") -> Path:
    net = pixel_net(0, precision)
    metadata = {"precision": precision, "grid": str(net.grid)}
    path = folder / "model.onnx"
    path.write_bytes(model_from_net(net, GraphOptions(form), metadata).SerializeToString())
    return path


@pytest.mark.parametrize("precision", PRECISIONS)
def test_manifest_says_what_was_built(precision: Precision, tmp_path: Path) -> None:
    model, engine = written(tmp_path, precision), tmp_path / "out" / "model.engine"
    manifest = engine_from_onnx(model, engine, "onnxruntime", CPU)
    assert read_manifest(engine) == manifest
    assert manifest.backend == "onnxruntime"
    assert manifest.engine_sha256 == sha256_of(engine.read_bytes())
    assert manifest.model_sha256 == sha256_of(model.read_bytes())
    assert (manifest.precision, manifest.form, manifest.options) == (precision, "function", CPU)
    assert manifest.grid == (12 if precision == "exact" else None)
    assert manifest.versions["linfdeploy"] == linfdeploy.__version__
    assert {"onnxruntime", "provider", "kernel"} <= set(manifest.versions)
    assert manifest.self_check == {"images": 64, "bit_identical": 1.0}
    assert {path.name for path in engine.parent.iterdir()} == {"model.engine", "model.engine.json"}


@pytest.mark.parametrize("way", WAYS)
def test_the_way_of_the_build_is_the_way_of_the_run(way: str, tmp_path: Path) -> None:
    engine = tmp_path / "model.engine"
    manifest = engine_from_onnx(written(tmp_path), engine, None, {**CPU, "custom_ops": way})
    expected = {"on": "custom op", "off": "function body (custom ops are off)"}[way]
    assert manifest.versions["kernel"] == open_engine(engine).engine.versions["kernel"] == expected


def test_opens_what_it_built(tmp_path: Path) -> None:
    model, engine = written(tmp_path), tmp_path / "model.engine"
    manifest = engine_from_onnx(model, engine, "onnxruntime", CPU)
    images = random_images(5)
    for path, expected in ((engine, manifest), (model, None)):
        opened = open_engine(path, CPU)
        assert (opened.manifest, opened.backend) == (expected, "onnxruntime")
        ours = ReferenceEngine(opened.graph.net).run(images)
        assert opened.engine.run(images).tobytes() == ours.tobytes()


def test_departing_graphs_are_refused(tmp_path: Path) -> None:
    net = pixel_net(0)
    model = model_from_net(net, GraphOptions(), {})
    model.graph.node[-1].op_type = "Abs"
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(EngineError, match=r"node 'negate' \(Abs\) is not what is written .*export it again"):
        engine_from_onnx(path, tmp_path / "out" / "engine", None, CPU)
    assert not (tmp_path / "out").exists()


def test_unknown_backends_are_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=f"backend is 'tpu'; expected one of {', '.join(BACKENDS)}"):
        engine_from_onnx(written(tmp_path), tmp_path / "engine", "tpu", CPU)
    engine = tmp_path / "engine"
    engine_from_onnx(written(tmp_path), engine, None, CPU)
    beside = manifest_path(engine)
    beside.write_text(beside.read_text().replace('"onnxruntime",', '"build",', 1))
    with pytest.raises(EngineError, match="backend is 'build'; expected one of"):
        open_engine(engine)


def test_missing_backends_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "available", lambda: "it is not installed: pip install it")
    with pytest.raises(
        EngineError,
        match=r"no backend can run here: tensorrt: .*; onnxruntime: it is not installed.*; tensorrt-rtx: ",
    ):
        engine_from_onnx(written(tmp_path), tmp_path / "engine", None, CPU)
    with pytest.raises(EngineError, match="backend onnxruntime cannot build here: it is not installed"):
        engine_from_onnx(written(tmp_path), tmp_path / "engine", "onnxruntime", CPU)


def test_an_engine_that_computes_something_else_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = backend.OnnxRuntimeEngine._answer

    def off_by_a_bit(self: backend.OnnxRuntimeEngine, images: Images) -> Answers:
        logits = np.array(honest(self, images)["logits"], np.float32)
        logits[5, 1] = np.nextafter(logits[5, 1], np.float32(0))
        return {"logits": logits}

    monkeypatch.setattr(backend.OnnxRuntimeEngine, "_answer", off_by_a_bit)
    with pytest.raises(EngineError, match=r"differs from the bit-exact evaluator in 0\.5% of the logits"):
        engine_from_onnx(written(tmp_path), tmp_path / "engine", None, CPU)
    assert not (tmp_path / "engine").exists()
    assert not manifest_path(tmp_path / "engine").exists()


def test_engine_and_manifest_are_written_together_or_not_at_all(tmp_path: Path) -> None:
    model, engine = written(tmp_path), tmp_path / "out" / "engine"
    manifest_path(engine).mkdir(parents=True)
    with pytest.raises(InputError, match=r"cannot write .*engine.json: it is a folder; name a file"):
        engine_from_onnx(model, engine, "onnxruntime", CPU)
    assert [path.name for path in engine.parent.iterdir()] == ["engine.json"]
    manifest_path(engine).rmdir()
    engine.mkdir()
    with pytest.raises(InputError, match=r"cannot write .*engine: it is a folder; name a file"):
        engine_from_onnx(model, engine, "onnxruntime", CPU)
    assert [path.name for path in engine.parent.iterdir()] == ["engine"]


def test_an_old_engine_stays_when_the_new_one_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, engine = written(tmp_path), tmp_path / "out" / "engine"
    engine_from_onnx(model, engine, "onnxruntime", CPU)
    before = {path.name: path.read_bytes() for path in engine.parent.iterdir()}

    def full(_manifest: object) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(build_module, "manifest_bytes", full)
    with pytest.raises(InputError, match="No space left on device; free space or choose a folder"):
        engine_from_onnx(written(tmp_path, "fp32"), engine, None, CPU)
    assert {path.name: path.read_bytes() for path in engine.parent.iterdir()} == before


def test_an_engine_is_built_again_with_its_own_options(tmp_path: Path) -> None:
    engine = tmp_path / "model.engine"
    engine_from_onnx(written(tmp_path), engine, "onnxruntime", {**CPU, "custom_ops": "off"})
    opened = open_engine(engine)
    rebuild = rebuilder(opened, dear=False)
    assert rebuild is not None
    again = rebuild()
    assert again is not opened.engine
    assert again.versions == opened.engine.versions
    assert "function" in again.versions["kernel"]
    assert np.array_equal(again.run(random_images(8)), opened.engine.run(random_images(8)))


def test_a_backend_that_takes_minutes_is_built_again_on_demand_alone(tmp_path: Path) -> None:
    engine = tmp_path / "model.engine"
    engine_from_onnx(written(tmp_path), engine, "onnxruntime", CPU)
    opened = open_engine(engine)
    assert rebuilder(replace(opened, backend="tensorrt"), dear=False) is None
    assert rebuilder(replace(opened, backend="fake"), dear=True) is None
