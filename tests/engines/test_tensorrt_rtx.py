# SPDX-License-Identifier: Apache-2.0
"""TensorRT for RTX: its real parser and builder, which need no GPU. Nothing here runs an engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest
from command_line import assert_refused, call
from small_nets import exported, pixel_net
from trt_runtimes import needs_runtime, run_with, runtime

from linfdeploy.engines.manifest import read_manifest
from linfdeploy.files import sha256_of
from linfdeploy.onnx.passes.ranges import exactness_gap
from linfdeploy.onnx.pixel_net import PRECISIONS, PixelLayer, PixelNet, Precision
from linfdeploy.onnx.write import Form, GraphOptions, model_from_net

needs_rtx = needs_runtime("rtx-1")
COMMAND = "from linfdeploy.cli import main; main()"
MNIST_SIZES = (784, 1024, 1024, 1024, 1024, 10)
GRID = 4


@dataclass(frozen=True)
class Built:
    """A process that has built an engine."""

    process: CompletedProcess[str]
    engine: Path

    def assert_done(self) -> None:
        assert self.process.returncode == 0, self.process.stdout + self.process.stderr


def build(model: Path, engine: Path, options: Sequence[str] = ()) -> Built:
    folder = runtime("rtx-1")
    assert folder is not None
    command: list[str | Path] = ["build", model, engine, "--backend", "tensorrt-rtx", *options]
    return Built(run_with(folder, COMMAND, *command), engine)


def mnist_net(precision: Precision) -> PixelNet:
    """Five layers of MNIST's size, on a grid that floats of 16 bits have too."""
    rng = np.random.default_rng(7)
    number: Any = np.float16 if precision == "fp16" else np.float32
    layers = tuple(
        PixelLayer(
            (rng.integers(0, 255 * 2**GRID, (outputs, inputs)) / 2**GRID).astype(number),
            np.zeros(outputs, number),
        )
        for inputs, outputs in pairwise(MNIST_SIZES)
    )
    net = PixelNet((1, 28, 28), layers, GRID if precision == "exact" else None)
    assert precision != "exact" or exactness_gap(net, GRID) is None
    return net


def written(net: PixelNet, options: GraphOptions, precision: Precision, folder: Path) -> Path:
    metadata = {"precision": precision} | ({"grid": str(net.grid)} if precision == "exact" else {})
    path = folder / "model.onnx"
    path.write_bytes(model_from_net(net, options, metadata).SerializeToString())
    return path


@needs_rtx
@pytest.mark.parametrize("radius", [False, True], ids=["", "radius"])
@pytest.mark.parametrize("form", ["function", "standard"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_it_builds_a_net_of_mnists_size(precision: Precision, form: Form, radius: bool, tmp_path: Path) -> None:
    net = mnist_net(precision)
    built = build(written(net, GraphOptions(form, radius), precision, tmp_path), tmp_path / "model.engine")
    built.assert_done()
    manifest = read_manifest(built.engine)
    assert manifest is not None
    assert (manifest.backend, manifest.form, manifest.precision) == ("tensorrt-rtx", form, precision)
    assert manifest.engine_sha256 == sha256_of(built.engine.read_bytes())
    weights = sum(layer.weight.nbytes + layer.bias.nbytes for layer in net.layers)
    assert weights < built.engine.stat().st_size < 2 * weights


@needs_rtx
class TestExported:
    """Nets as `export` writes them."""

    @pytest.fixture
    def model(self, tmp_path: Path) -> Path:
        path = tmp_path / "model.onnx"
        path.write_bytes(exported())
        return path

    def test_the_command_says_what_was_done_and_what_not(self, model: Path, tmp_path: Path) -> None:
        built = build(model, tmp_path / "model.engine", ["--batch", "1:8:32", "--workspace", "64"])
        built.assert_done()
        first, second = built.process.stdout.splitlines()
        assert f"wrote {built.engine}: tensorrt-rtx 1." in first
        assert first.endswith(
            "exact; not run, since this machine cannot: run linfdeploy verify where it is deployed"
        )
        size = built.engine.stat().st_size
        assert second.startswith(
            f"LinfDist runs as function body (TensorRT for RTX takes no plugins); {size:,} bytes, built in "
        )

    def test_files_and_manifest(self, model: Path, tmp_path: Path) -> None:
        built = build(model, tmp_path / "out" / "model.engine", ["--batch", "1:8:32"])
        built.assert_done()
        names = {"model.engine", "model.engine.json", "model.engine.onnx"}
        assert {path.name for path in built.engine.parent.iterdir()} == names
        manifest = read_manifest(built.engine)
        assert manifest is not None
        assert manifest.self_check is None
        assert manifest.options == {"batch": [1, 8, 32]}
        assert manifest.graph_sha256 == sha256_of(model.read_bytes())
        shown = call("inspect", built.engine).out
        assert "engine of tensorrt-rtx" in shown
        assert "WARNING" not in shown

    def test_the_op_form_is_refused(self, model: Path, tmp_path: Path) -> None:
        model.write_bytes(exported("exact", "op"))
        built = build(model, tmp_path / "model.engine")
        assert built.process.returncode == 2
        assert built.process.stderr == (
            "error: the graph is of the form 'op' and TensorRT for RTX takes no plugins; expected the form "
            "'function' or 'standard': export it again with --form function\n"
        )
        assert not built.engine.exists()

    def test_plugins_are_refused(self, model: Path, tmp_path: Path) -> None:
        built = build(model, tmp_path / "model.engine", ["--plugin", "library"])
        assert built.process.stderr == (
            "error: plugin is 'library'; expected none: TensorRT for RTX takes no plugins\n"
        )

    def test_the_parser_names_the_node(self, model: Path, tmp_path: Path) -> None:
        script = (
            "import sys, tensorrt_rtx_bindings as trt\n"
            "from pathlib import Path\n"
            "from linfdeploy.engines.trt.log import new_log\n"
            "from linfdeploy.engines.trt.network import parse_network\n"
            "from linfdeploy.errors import EngineError\n"
            "from linfdeploy.onnx.read import read_graph\n"
            "log = new_log(trt)\n"
            "builder = trt.Builder(log)\n"
            "try:\n"
            "    parse_network(trt, builder, log, read_graph(Path(sys.argv[1])), functions=False)\n"
            "except EngineError as error:\n"
            "    print(error)\n"
        )
        folder = runtime("rtx-1")
        assert folder is not None
        done = run_with(folder, script, model)
        assert done.stdout.startswith("TensorRT's parser refuses node layer"), done.stderr
        assert "(LinfDist): " in done.stdout
        assert "Plugin not found" in done.stdout

    def test_an_engine_that_this_machine_cannot_run(self, model: Path, tmp_path: Path) -> None:
        built = build(model, tmp_path / "model.engine")
        built.assert_done()
        folder = runtime("rtx-1")
        assert folder is not None
        done = run_with(folder, COMMAND, "verify", built.engine)
        if done.returncode == 2:
            assert done.stderr.startswith("error: backend tensorrt-rtx cannot run here: there is no GPU that CUDA")


def test_no_tensorrt_rtx(tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(model_from_net(pixel_net(0), GraphOptions(), {}).SerializeToString())
    outcome = call("build", model, tmp_path / "engine", "--backend", "tensorrt-rtx")
    assert_refused(
        outcome,
        "backend tensorrt-rtx cannot build here: TensorRT for RTX is not installed: pip install --no-deps "
        "tensorrt_rtx_cu13_libs tensorrt_rtx_cu13_bindings",
    )
    assert not (tmp_path / "engine").exists()
