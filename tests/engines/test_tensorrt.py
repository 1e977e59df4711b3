# SPDX-License-Identifier: Apache-2.0
"""TensorRT's backend against the stand-ins for TensorRT and CUDA; what a GPU must show is in no test."""

from __future__ import annotations

import json
import sys
from importlib.machinery import ModuleSpec
from itertools import groupby
from pathlib import Path
from typing import Any

import cuda.bindings
import numpy as np
import pytest
from command_line import assert_refused, call
from cuda_double import CudaDouble
from small_nets import pixel_net, random_images
from trt_double import TrtDouble

from linfdeploy.engines import tensorrt as backend
from linfdeploy.engines.build import engine_from_onnx, open_engine
from linfdeploy.engines.manifest import manifest_path, model_path, read_manifest
from linfdeploy.engines.reference import ReferenceEngine
from linfdeploy.engines.trt.library import PluginLibrary
from linfdeploy.engines.trt.refit import exchanged_constants
from linfdeploy.errors import EngineError, InputError
from linfdeploy.onnx.pixel_net import Precision
from linfdeploy.onnx.read import read_graph
from linfdeploy.onnx.write import Form, GraphOptions, model_from_net

LIBRARY = PluginLibrary(Path("/kept/liblinfdeploy_tensorrt.so"), ("87",), "10.3", False, "0" * 64)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> CudaDouble:
    """A machine with a GPU, TensorRT 10.16 and the plugins' library."""
    double = CudaDouble()
    trt = TrtDouble.fresh(double)
    monkeypatch.setattr(cuda.bindings, "runtime", double, raising=False)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", double)
    monkeypatch.setattr(trt, "__spec__", ModuleSpec("tensorrt", None), raising=False)
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    monkeypatch.setattr(backend, "built_library", lambda _architecture, _root: LIBRARY)
    monkeypatch.setattr(backend, "load_library", lambda trt, path: trt.get_plugin_registry().load_library(path))
    return double


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(model_data())
    return path


def model_data(
    form: Form = "function",
    *,
    radius: bool = False,
    seed: int = 0,
    precision: Precision = "exact",
    sizes: tuple[int, ...] = (9, 7, 5, 3),
) -> bytes:
    net = pixel_net(seed, precision, sizes=sizes)
    metadata = {"precision": precision, "grid": str(net.grid)}
    data: bytes = model_from_net(net, GraphOptions(form, radius), metadata).SerializeToString(deterministic=True)
    return data


def of_form(form: Form, folder: Path, *, radius: bool = False) -> Path:
    path = folder / f"{form}.onnx"
    path.write_bytes(model_data(form, radius=radius))
    return path


@pytest.mark.usefixtures("gpu")
class TestBuild:
    def test_it_is_the_first_choice_of_a_machine_that_has_it(self, model: Path, tmp_path: Path) -> None:
        engine = tmp_path / "out" / "model.engine"
        manifest = engine_from_onnx(model, engine, None, {})
        assert manifest.backend == "tensorrt"
        assert manifest.versions["tensorrt"] == "10.16.1.11"
        assert manifest.self_check == {"images": 64, "bit_identical": 1.0}
        assert manifest.layers == {"layer0": "plugin", "layer1": "plugin", "layer2": "plugin"}
        assert manifest.versions["kernel"] == "plugin (library) in 3 of 3 layers"
        assert read_manifest(engine) == manifest
        names = {"model.engine", "model.engine.json", "model.engine.onnx"}
        assert {path.name for path in engine.parent.iterdir()} == names
        assert model_path(engine).read_bytes() == model.read_bytes()

    def test_settings_reach_the_builder(self, model: Path, tmp_path: Path) -> None:
        cache = tmp_path / "timings"
        options = {
            "batch": [1, 4, 8],
            "workspace": 64,
            "refit": True,
            "hardware": "ampere+",
            "timing_cache": str(cache),
            "plugin": "embedded",
        }
        engine_from_onnx(model, tmp_path / "engine", "tensorrt", options)
        config, flags = TrtDouble.last_config, TrtDouble.BuilderFlag
        assert config.profiles[0].shapes == {"image": ((1, 1, 3, 3), (4, 1, 3, 3), (8, 1, 3, 3))}
        assert config.pools == {TrtDouble.MemoryPoolType.WORKSPACE: 64 * 2**20}
        assert config.flags == {flags.REFIT, flags.VERSION_COMPATIBLE}
        assert config.hardware_compatibility_level == TrtDouble.HardwareCompatibilityLevel.AMPERE_PLUS
        assert config.plugins_to_serialize == [str(LIBRARY.path)]
        assert cache.read_bytes() == b"timings"
        engine_from_onnx(model, tmp_path / "engine", "tensorrt", options)

    def test_without_plugins_nothing_rounds_as_tf32(self, model: Path, tmp_path: Path) -> None:
        manifest = engine_from_onnx(model, tmp_path / "engine", "tensorrt", {"plugin": "none"})
        assert TrtDouble.last_config.flags == set()
        assert manifest.versions["kernel"] == "plugin (none) in 0 of 3 layers"

    def test_the_library_is_for_all_that_the_engine_is_for(
        self, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[int] = []

        def built(architecture: int, _root: Path | None) -> PluginLibrary:
            asked.append(architecture)
            return LIBRARY

        monkeypatch.setattr(backend, "built_library", built)
        engine_from_onnx(model, tmp_path / "engine", "tensorrt", {})
        engine_from_onnx(model, tmp_path / "engine", "tensorrt", {"hardware": "ampere+"})
        assert [architecture for architecture, _ in groupby(asked)] == [87, 80]

    def test_functions_cannot_shadow_the_plugin(
        self, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # A registry that has the plugin for whoever asks, and a parser that does not match it.
        monkeypatch.setattr("trt_double.Network.plugins", property(lambda _self: []), raising=False)
        monkeypatch.setattr("trt_double.Network.__init__", lambda self, flags: None)
        with pytest.raises(EngineError, match=r"parsed node layer0 without the plugin \(3 of 3 nodes\); expected"):
            engine_from_onnx(model, tmp_path / "engine", "tensorrt", {})

    def test_the_standard_form_needs_no_plugin(self, tmp_path: Path) -> None:
        manifest = engine_from_onnx(of_form("standard", tmp_path), tmp_path / "engine", "tensorrt", {})
        assert manifest.versions["kernel"] == "standard operators"
        assert manifest.layers is None
        assert TrtDouble.registry.names == []

    def test_the_op_form_needs_one(self, tmp_path: Path) -> None:
        with pytest.raises(
            EngineError, match="of the form 'op', which only plugins can run, and --plugin is none"
        ):
            engine_from_onnx(of_form("op", tmp_path), tmp_path / "engine", "tensorrt", {"plugin": "none"})

    def test_the_parsers_words_and_the_node(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("linfdeploy.engines.trt.builder.check_attributes", lambda _registry, _graph: None)
        monkeypatch.setattr(backend, "load_library", lambda _trt, _path: None)
        expected = r"TensorRT's parser refuses node layer0 \(LinfDist\): Plugin not found, really\?"
        with pytest.raises(EngineError, match=expected):
            engine_from_onnx(of_form("op", tmp_path), tmp_path / "engine", "tensorrt", {})

    def test_a_plugin_that_is_not_there(
        self, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(backend, "load_library", lambda _trt, _path: None)
        with pytest.raises(
            EngineError, match="no plugin LinfDist of version 1 in the namespace linfdeploy, which"
        ):
            engine_from_onnx(model, tmp_path / "engine", "tensorrt", {})

    def test_what_the_builder_says(self, model: Path, tmp_path: Path) -> None:
        TrtDouble.cannot_build = True
        expected = "TensorRT does not build the engine: Could not find any implementation for node layer0."
        with pytest.raises(EngineError, match=expected):
            engine_from_onnx(model, tmp_path / "engine", "tensorrt", {})
        assert not (tmp_path / "engine").exists()

    def test_hardware_that_this_release_does_not_know(self, model: Path, tmp_path: Path) -> None:
        expected = (
            r"TensorRT 10\.16\.1\.11 has no hardware compatibility same-capability; expected same or ampere\+"
        )
        with pytest.raises(EngineError, match=expected):
            engine_from_onnx(model, tmp_path / "engine", "tensorrt", {"hardware": "same-capability"})

    def test_a_foreign_timing_cache_stays(self, model: Path, tmp_path: Path) -> None:
        cache = tmp_path / "timings"
        cache.write_bytes(b"something else")
        with pytest.raises(
            EngineError, match="is no timing cache of this TensorRT on this GPU; expected one, or no"
        ):
            engine_from_onnx(model, tmp_path / "engine", "tensorrt", {"timing_cache": str(cache)})
        assert cache.read_bytes() == b"something else"

    def test_a_library_for_another_gpu(self, model: Path, tmp_path: Path, gpu: CudaDouble) -> None:
        gpu.architecture = 75
        expected = r"liblinfdeploy_tensorrt.so was built for sm_87, compute_87; this GPU is sm_75: build it again"
        with pytest.raises(EngineError, match=expected):
            engine_from_onnx(model, tmp_path / "engine", "tensorrt", {})

    def test_an_old_release(self, model: Path, tmp_path: Path) -> None:
        TrtDouble.__version__ = "8.6.1"
        with pytest.raises(EngineError, match=r"TensorRT is 8\.6\.1; expected 10\.3 or later"):
            engine_from_onnx(model, tmp_path / "engine", "tensorrt", {})

    def test_options_of_other_backends(self, model: Path, tmp_path: Path) -> None:
        outcome = call("build", model, tmp_path / "engine", "--backend", "tensorrt", "--threads", "2")
        assert_refused(outcome, "backend tensorrt has no option 'threads'; expected batch, cuda_graph, hardware")
        outcome = call("build", model, tmp_path / "engine", "--backend", "onnxruntime", "--plugin", "aot")
        assert_refused(outcome, "backend onnxruntime has no option 'plugin'; expected custom_ops, device, threads")

    def test_the_command_says_how_it_runs(self, model: Path, tmp_path: Path) -> None:
        outcome = call("build", model, tmp_path / "engine", "--batch", "1:2:4")
        assert (outcome.code, outcome.err) == (0, "")
        first, second = outcome.out.splitlines()
        facts = "tensorrt 10.16.1.11, exact; 100.00% of the logits of 64 random images equal the evaluator's bits"
        assert first.endswith(f"engine: {facts}")
        assert second.startswith("LinfDist runs as plugin (library) in 3 of 3 layers; ")
        shown = call("inspect", tmp_path / "engine").out
        assert "layers run   layer0: plugin, layer1: plugin, layer2: plugin" in shown
        assert "file         engine of tensorrt" in shown
        assert "WARNING" not in shown


@pytest.mark.usefixtures("gpu")
class TestRun:
    @pytest.fixture
    def engine(self, tmp_path: Path) -> Path:
        path = tmp_path / "out" / "model.engine"
        engine_from_onnx(of_form("function", tmp_path, radius=True), path, "tensorrt", {"batch": [1, 4, 8]})
        return path

    @pytest.mark.parametrize("count", [1, 7, 8, 9, 40])
    def test_every_batch_gives_the_evaluators_bits(self, engine: Path, count: int) -> None:
        opened = open_engine(engine)
        images = random_images(count)
        for _ in range(3):
            answers = opened.engine.answer(images)
            expected = ReferenceEngine(opened.graph.net).run(images)
            assert answers["logits"].tobytes() == expected.tobytes()
            assert answers["label"].tolist() == expected.argmax(1).tolist()
            assert answers["radius"].shape == (count,)

    def test_a_size_that_comes_again_is_a_graph(self, engine: Path, gpu: CudaDouble) -> None:
        opened = open_engine(engine).engine
        gpu.launches = 0
        for images in (random_images(8), random_images(8) // 2, random_images(8)):
            opened.run(images)
        assert gpu.launches == 2
        opened.run(random_images(3))
        opened.run(random_images(8))
        assert gpu.launches == 2
        first = opened.run(random_images(8))
        assert gpu.launches == 3
        assert first.tobytes() == ReferenceEngine(open_engine(engine).graph.net).run(random_images(8)).tobytes()

    def test_without_graphs(self, engine: Path, gpu: CudaDouble) -> None:
        gpu.launches = 0
        opened = open_engine(engine, {"cuda_graph": False}).engine
        for _ in range(3):
            opened.run(random_images(8))
        assert gpu.launches == 0

    def test_what_cannot_be_captured_runs_without(self, engine: Path, gpu: CudaDouble) -> None:
        opened = open_engine(engine)
        gpu.capturable = False
        found = [opened.engine.run(random_images(8)).tobytes() for _ in range(3)]
        assert set(found) == {ReferenceEngine(opened.graph.net).run(random_images(8)).tobytes()}
        assert opened.engine.versions["cuda_graph"] == (
            "none: CUDA says cudaErrorIllegalState: the text of cudaErrorIllegalState"
        )

    def test_a_batch_of_zero(self, engine: Path) -> None:
        with pytest.raises(EngineError, match=r"images are uint8 \(0, 1, 3, 3\); expected .* with N >= 1"):
            open_engine(engine).engine.run(random_images(8)[:0])

    def test_a_batch_outside_the_profile(self, tmp_path: Path, model: Path) -> None:
        engine = tmp_path / "engine"
        engine_from_onnx(model, engine, "tensorrt", {"batch": [64, 64, 64]})
        opened = open_engine(engine).engine
        assert opened.run(random_images(128)).shape == (128, 3)
        for count in (1, 63, 65, 127):
            with pytest.raises(
                EngineError, match=f"a batch of {count} is outside the engine's profile; expected 64"
            ):
                opened.run(random_images(count))

    def test_memory_that_is_not_there(self, engine: Path, gpu: CudaDouble) -> None:
        gpu.room = 100
        with pytest.raises(EngineError, match="CUDA says cudaErrorMemoryAllocation: the text of"):
            open_engine(engine)

    def test_memory_is_given_back(self, engine: Path, gpu: CudaDouble) -> None:
        before = gpu.room
        opened = open_engine(engine)
        assert gpu.room < before
        del opened
        assert gpu.room == before


@pytest.mark.usefixtures("gpu")
class TestOpen:
    @pytest.fixture
    def engine(self, model: Path, tmp_path: Path) -> Path:
        path = tmp_path / "out" / "model.engine"
        engine_from_onnx(model, path, "tensorrt", {})
        TrtDouble.registry.names.clear()
        return path

    def test_a_corrupt_plan_is_not_handed_to_tensorrt(self, engine: Path) -> None:
        data = bytearray(engine.read_bytes())
        data[-1] ^= 1
        engine.write_bytes(data)
        with pytest.raises(
            InputError, match=r"is damaged or another engine: its SHA-256 is \w+; the manifest of its"
        ):
            open_engine(engine)
        assert "WARNING      the file is not the one that was built" in call("inspect", engine).out

    def test_a_corrupt_plan_with_a_forged_manifest(self, engine: Path) -> None:
        engine.write_bytes(b"not" + engine.read_bytes())
        self._forge(engine)
        expected = (
            r"TensorRT 10\.16\.1\.11 does not load the engine: .*Magic tag does not match: build it again on this"
        )
        with pytest.raises(EngineError, match=expected):
            open_engine(engine)

    @pytest.mark.parametrize("what", ["version", "architecture"])
    def test_a_plan_of_another_release_or_gpu(self, what: str, engine: Path, gpu: CudaDouble) -> None:
        if what == "version":
            TrtDouble.__version__ = "10.13.0"
        else:
            gpu.architecture = 89
        with pytest.raises(
            EngineError, match=f"does not load the engine: .* its {what} is .*: build it again on this"
        ):
            open_engine(engine)

    def test_a_plan_without_its_plugin(self, engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(backend, "load_library", lambda _trt, _path: None)
        with pytest.raises(
            EngineError, match="does not load the engine: Cannot find plugin: LinfDist, version: 1"
        ):
            open_engine(engine)

    def test_a_plan_without_its_manifest(self, engine: Path) -> None:
        manifest_path(engine).unlink()
        with pytest.raises(
            InputError, match=r"is a TensorRT plan without its manifest; expected model\.engine\.json"
        ):
            open_engine(engine)

    def test_a_model_that_is_not_the_plans(self, engine: Path) -> None:
        model_path(engine).write_bytes(model_data("standard"))
        with pytest.raises(InputError, match=r"model.engine.onnx is not the model that the engine was built from"):
            open_engine(engine)
        assert "WARNING      the model is not the one it was built from" in call("inspect", engine).out
        model_path(engine).unlink()
        with pytest.raises(
            InputError, match="no such file; expected the ONNX model that the engine was built from"
        ):
            open_engine(engine)

    def test_a_library_inside_the_engine(self, model: Path, tmp_path: Path) -> None:
        engine = tmp_path / "engine"
        engine_from_onnx(model, engine, "tensorrt", {"plugin": "embedded"})
        TrtDouble.registry.names.clear()
        assert open_engine(engine).engine.run(random_images(4)).shape == (4, 3)
        assert TrtDouble.registry.names == []

    @pytest.mark.parametrize(
        ("options", "text"),
        [
            ({"plugin": "magic"}, "plugin is 'magic'; expected one of library, embedded, aot, none"),
            ({"batch": [0, 1, 2]}, "batch is [0, 1, 2]; expected the smallest batch"),
            ({"cuda_graph": "yes"}, "cuda_graph is 'yes'; expected true or false"),
        ],
    )
    def test_options_of_a_foreign_manifest(self, options: dict[str, Any], text: str, engine: Path) -> None:
        beside = manifest_path(engine)
        beside.write_text(json.dumps({**json.loads(beside.read_text()), "options": options}))
        with pytest.raises(EngineError) as refused:
            open_engine(engine)
        assert text in str(refused.value)

    def test_verify_takes_it(self, engine: Path, tmp_path: Path) -> None:
        data = tmp_path / "data.npz"
        np.savez(data, images=random_images(40), labels=np.arange(40) % 3)
        outcome = call("verify", engine, "--data", data, "--attack", "none", "--report", tmp_path / "report")
        assert outcome.code == 0, outcome
        report = json.loads((tmp_path / "report" / "report.json").read_text())
        assert report["engine"]["backend"] == "tensorrt"
        assert report["engine"]["versions"]["tensorrt"] == "10.16.1.11"
        assert report["conformance"]["bit_identical"] == 1.0

    def _forge(self, engine: Path) -> None:
        from linfdeploy.files import sha256_of

        beside = manifest_path(engine)
        manifest = json.loads(beside.read_text())
        beside.write_text(json.dumps({**manifest, "engine_sha256": sha256_of(engine.read_bytes())}))


@pytest.mark.usefixtures("gpu")
class TestRefit:
    @pytest.fixture
    def engine(self, tmp_path: Path) -> Path:
        path = tmp_path / "old" / "model.engine"
        engine_from_onnx(of_form("function", tmp_path, radius=True), path, "tensorrt", {"refit": True})
        return path

    def test_the_new_weights_run(self, engine: Path, tmp_path: Path) -> None:
        model, out = tmp_path / "new.onnx", tmp_path / "new.engine"
        model.write_bytes(model_data(radius=True, seed=1))
        before = engine.read_bytes()
        outcome = call("build", model, out, "--refit-from", engine)
        assert (outcome.code, outcome.err) == (0, "")
        assert "100.00% of the logits of 64 random images equal the evaluator's bits" in outcome.out
        opened, images = open_engine(out), random_images(9)
        assert opened.engine.run(images).tobytes() == ReferenceEngine(pixel_net(1)).run(images).tobytes()
        assert model_path(out).read_bytes() == model.read_bytes()
        assert engine.read_bytes() == before

    def test_the_slack_of_the_radius_goes_with_the_weights(self, tmp_path: Path) -> None:
        old, new = (tmp_path / f"{seed}.onnx" for seed in (0, 1))
        for seed, path in enumerate((old, new)):
            path.write_bytes(model_data(radius=True, seed=seed, precision="fp32"))
        changed = exchanged_constants(read_graph(old), read_graph(new))
        assert "slack" in changed
        assert {"two", "half", "flat"}.isdisjoint(changed)

    def test_another_graph(self, engine: Path, tmp_path: Path) -> None:
        model = tmp_path / "new.onnx"
        for data, what in (
            (model_data(seed=1), "form"),
            (model_data(radius=True, precision="fp32"), "precision exact, and the model has fp32"),
            (model_data(radius=True, sizes=(9, 4, 3)), "input and layers"),
        ):
            model.write_bytes(data)
            outcome = call("build", model, tmp_path / "out.engine", "--refit-from", engine)
            assert_refused(outcome, f"the engine was built for {what}", "expected the same but for the weights")
        assert not (tmp_path / "out.engine").exists()

    def test_an_engine_that_is_not_for_it(self, model: Path, engine: Path, tmp_path: Path) -> None:
        plain = tmp_path / "plain.engine"
        engine_from_onnx(model, plain, "tensorrt", {})
        outcome = call("build", model, tmp_path / "out.engine", "--refit-from", plain)
        assert_refused(
            outcome, "the engine cannot be refitted; expected one built with --refit: build a new engine"
        )
        engine_from_onnx(model, plain, "onnxruntime", {"device": "cpu"})
        outcome = call("build", model, tmp_path / "out.engine", "--refit-from", plain)
        assert_refused(outcome, "is an engine of onnxruntime; expected one of tensorrt, built with --refit")
        outcome = call("build", model, tmp_path / "out.engine", "--refit-from", model)
        assert_refused(outcome, "is an engine without a manifest; expected one of tensorrt, built with --refit")
        outcome = call("build", model, tmp_path / "out.engine", "--refit-from", engine, "--plugin", "aot")
        assert_refused(outcome, "--plugin does not go with --refit-from, which keeps the engine's options")


class TestMissing:
    def test_no_tensorrt(self, model: Path, tmp_path: Path) -> None:
        outcome = call("build", model, tmp_path / "engine", "--backend", "tensorrt")
        assert_refused(
            outcome,
            "backend tensorrt cannot build here: Python's tensorrt is not installed: on a Jetson sudo apt install "
            "python3-libnvinfer, elsewhere pip install tensorrt",
        )
        assert not (tmp_path / "engine").exists()

    def test_no_gpu(self, model: Path, tmp_path: Path, gpu: CudaDouble) -> None:
        gpu.architecture = None
        outcome = call("build", model, tmp_path / "engine", "--backend", "tensorrt")
        assert_refused(
            outcome, "cannot build here: there is no GPU that CUDA can use (CUDA says cudaErrorNoDevice)"
        )

    def test_a_tensorrt_that_does_not_load(
        self, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        broken = tmp_path / "broken" / "tensorrt.py"
        broken.parent.mkdir()
        broken.write_text("raise ImportError('libnvinfer.so.10: cannot open shared object file')")
        monkeypatch.syspath_prepend(broken.parent)
        monkeypatch.setattr("linfdeploy.engines.trt.device.missing", lambda: None)
        outcome = call("build", model, tmp_path / "engine", "--backend", "tensorrt")
        assert_refused(
            outcome, "tensorrt does not load: libnvinfer.so.10: cannot open shared object file: install it"
        )
