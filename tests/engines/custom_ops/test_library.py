# SPDX-License-Identifier: Apache-2.0
"""The library's file, its precedence over the function body, and what happens where it is missing or broken."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from custom_op_models import WAYS, needs_library, op_types, session
from small_nets import float_bits, pixel_net, random_images

from linfdeploy.engines import onnxruntime as backend
from linfdeploy.engines.custom_ops import library as library_module
from linfdeploy.engines.custom_ops.library import (
    CUSTOM_OP,
    FUNCTION_BODY,
    STANDARD_OPS,
    TO_GET_IT,
    kernel_note,
    library,
    register,
)
from linfdeploy.engines.reference import PER_OP, ReferenceEngine
from linfdeploy.errors import EngineError
from linfdeploy.onnx.pixel_net import PRECISIONS, Precision
from linfdeploy.onnx.read import DeployedGraph, read_graph
from linfdeploy.onnx.write import Form, GraphOptions, model_from_net

OPTIONS: dict[str, Any] = {"device": "cpu", "threads": 1}
ROOT = Path(__file__).parents[3]


def graph_of(
    folder: Path, precision: Precision = "exact", form: Form = "function", *, radius: bool = False, seed: int = 0
) -> DeployedGraph:
    net = pixel_net(seed, precision, sizes=(9, 65, 17, 10))
    metadata = {"precision": precision, "grid": str(net.grid)}
    (folder / "model.onnx").write_bytes(
        model_from_net(net, GraphOptions(form, radius), metadata).SerializeToString()
    )
    return read_graph(folder / "model.onnx")


def kernel(graph: DeployedGraph, **options: Any) -> str:
    return backend.load(graph, {**OPTIONS, **options}).versions["kernel"]


@needs_library
@pytest.mark.skipif(not shutil.which("nm"), reason="there is no nm to look with")
def test_exports_one_function() -> None:
    done = subprocess.run(["nm", "-D", "--defined-only", library()], capture_output=True, text=True, check=True)
    assert [line.split()[1:] for line in done.stdout.splitlines()] == [["T", "RegisterCustomOps"]]


@needs_library
@pytest.mark.skipif(not shutil.which("ldd"), reason="there is no ldd to look with")
def test_links_no_onnx_runtime() -> None:
    done = subprocess.run(["ldd", library()], capture_output=True, text=True, check=True)
    assert "libstdc++" in done.stdout
    assert "onnxruntime.so" not in done.stdout.replace(str(library()), "")


def test_includes_one_header_of_onnx_runtime() -> None:
    folder = ROOT / "linfdeploy" / "engines" / "custom_ops"
    text = "".join(path.read_text() for path in [*folder.glob("*.h"), *folder.glob("*.cpp")])
    assert set(re.findall(r"#include [<\"](\S*onnxruntime\S*)[>\"]", text)) == {"onnxruntime_c_api.h"}
    # The version of the header must not decide where the library runs.
    assert re.findall(r".*ORT_API_VERSION.*", text) == ["#if ORT_API_VERSION >= 24"]


# The ONNX standard leaves it to the runtime which of the two wins.
@needs_library
@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_library_wins_over_the_function(precision: Precision, tmp_path: Path) -> None:
    graph, plan = graph_of(tmp_path, precision), tmp_path / "plan.onnx"
    assert graph.options.form == "function"
    session(graph.model, plan=plan)
    assert "linfdeploy.LinfDist" in op_types(plan)
    assert not {"Scan", "Sub", "Abs", "ReduceMax"} & op_types(plan)
    assert len(onnx.load(plan).functions) == 0


def test_without_it_the_function_is_inlined(tmp_path: Path) -> None:
    graph, plan = graph_of(tmp_path), tmp_path / "plan.onnx"
    session(graph.model, library_too=False, plan=plan)
    assert "Scan" in op_types(plan)
    assert "linfdeploy.LinfDist" not in op_types(plan)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("precision", ["exact", "fp32"])
def test_bits_are_the_evaluators(precision: Precision, threads: int, way: str, tmp_path: Path) -> None:
    graph = graph_of(tmp_path, precision, radius=True)
    engine = backend.load(graph, {"device": "cpu", "threads": threads, "custom_ops": way})
    reference = ReferenceEngine(graph.net, radius=True)
    for count in (1, 2, 33, 700):
        images = random_images(count, seed=count)
        found, ours = engine.answer(images), reference.answer(images)
        assert set(found) == {"logits", "label", "radius"}
        for name, values in ours.items():
            assert np.array_equal(float_bits(found[name]), float_bits(values)), name


@needs_library
@pytest.mark.parametrize("form", ["function", "op"])
@pytest.mark.parametrize("seed", range(4))
def test_half_rounds_per_op(seed: int, form: Form, tmp_path: Path) -> None:
    graph = graph_of(tmp_path, "fp16", form, radius=True, seed=seed)
    images = random_images(300, seed=seed)
    found = backend.load(graph, {**OPTIONS, "custom_ops": "on"}).answer(images)
    ours = ReferenceEngine(graph.net, PER_OP, radius=True).answer(images)
    for name, values in ours.items():
        assert np.array_equal(float_bits(found[name]), float_bits(values)), name


@needs_library
def test_form_op_runs(tmp_path: Path) -> None:
    graph = graph_of(tmp_path, form="op")
    engine = backend.load(graph, OPTIONS)
    assert engine.versions["kernel"] == CUSTOM_OP
    images = random_images(50)
    assert engine.run(images).tobytes() == ReferenceEngine(graph.net).run(images).tobytes()


def test_says_which_kernel_runs(tmp_path: Path) -> None:
    function, standard = graph_of(tmp_path), graph_of(tmp_path, form="standard")
    there = library().is_file()
    assert kernel(function) == (
        CUSTOM_OP if there else f"function body (there is no custom-op library: {TO_GET_IT})"
    )
    assert kernel(function, custom_ops="off") == "function body (custom ops are off)"
    assert kernel(standard) == kernel(standard, custom_ops="off") == STANDARD_OPS


class Recorder:
    """Session options that write down what is asked of them."""

    def __init__(self, threads: int = 0) -> None:
        self.intra_op_num_threads = threads
        self.registered: list[str] = []
        self.entries: dict[str, str] = {}

    def register_custom_ops_library(self, path: str) -> None:
        self.registered.append(path)

    def add_session_config_entry(self, name: str, value: str) -> None:
        self.entries[name] = value


@needs_library
def test_tells_the_library_how_many_threads_there_are() -> None:
    three, own_choice = Recorder(3), Recorder(0)
    for options in (three, own_choice):
        assert register(options, "function", "auto", on_cuda=False) == CUSTOM_OP
    assert (three.entries, own_choice.entries) == ({"linfdeploy.threads": "3"}, {})


@needs_library
@pytest.mark.parametrize("value", ["1", "7", "100000", "0", "-3", "many", "", "9" * 30])
def test_whatever_it_is_told_the_bits_stay(value: str, tmp_path: Path) -> None:
    graph, images = graph_of(tmp_path), random_images(300)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    options.add_session_config_entry("linfdeploy.threads", value)
    options.register_custom_ops_library(str(library()))
    used = onnxruntime.InferenceSession(
        graph.model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    found = used.run(["logits"], {"image": images})[0]
    assert found.tobytes() == ReferenceEngine(graph.net).run(images).tobytes()


def test_not_on_a_gpu_unless_asked() -> None:
    gpu = Recorder()
    assert register(gpu, "function", "auto", on_cuda=True) == "function body (on a GPU)"
    assert not gpu.registered
    if library().is_file():
        assert register(gpu, "function", "on", on_cuda=True) == CUSTOM_OP
        # It has no function: there is no other way to run it.
        assert register(gpu, "op", "auto", on_cuda=True) == CUSTOM_OP
        assert gpu.registered == [str(library())] * 2


@pytest.fixture(params=["missing", "corrupt", "another library", "too old"])
def broken(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Puts something else where the library should be; returns what is said of it."""
    path = tmp_path / library_module.NAME
    words = "ONNX Runtime does not load the custom-op library: .*"
    if request.param == "missing":
        words = "there is no custom-op library"
    elif request.param == "corrupt":
        path.write_bytes(b"\x7fELF and then nothing")
        words += "Failed to load library .*"
    elif request.param == "another library":
        _compile(path, "int nothing;")
        words += "undefined symbol: RegisterCustomOps.*"
    else:
        # What RegisterCustomOps does where GetApi(18) is null.
        if not library().is_file():
            pytest.skip("the custom-op library was not built")
        _compile(path, OLD_RUNTIME, "-ldl")
        words += re.escape("this is ONNX Runtime 1.16.3; linfdeploy's custom operators expect 1.18 or later")
    monkeypatch.setattr(library_module, "library", lambda: path)
    return words


# Stands between a new ONNX Runtime and the library, and answers as an old one does.
OLD_RUNTIME = f"""
#include <dlfcn.h>
#include <stdint.h>
struct Base {{ const void* (*api)(uint32_t); const char* (*version)(); }};
static const Base* honest;
static const void* old_api(uint32_t version) {{ return version > 16 ? nullptr : honest->api(version); }}
static const char* old_version() {{ return "1.16.3"; }}
extern "C" void* RegisterCustomOps(void* options, const Base* base) {{
  static const Base old = {{old_api, old_version}};
  honest = base;
  void* inner = dlopen("{library()}", RTLD_NOW);
  return ((void* (*)(void*, const Base*))dlsym(inner, "RegisterCustomOps"))(options, &old);
}}
"""


def _compile(path: Path, source: str, *options: str) -> None:
    if not shutil.which("g++"):
        pytest.skip("there is no g++ to compile with")
    command = ["g++", "-shared", "-fPIC", "-x", "c++", "-", "-o", str(path), *options]
    subprocess.run(command, input=source, text=True, check=True)


def test_auto_falls_back_and_says_so(broken: str, tmp_path: Path) -> None:
    graph = graph_of(tmp_path)
    engine = backend.load(graph, OPTIONS)
    found = engine.versions["kernel"]
    assert re.fullmatch(rf"function body \({broken}: {re.escape(TO_GET_IT)}\)", found)
    assert "\n" not in found
    images = random_images(9)
    assert engine.run(images).tobytes() == ReferenceEngine(graph.net).run(images).tobytes()


def test_on_insists(broken: str, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=rf"^custom ops are on, and {broken}: {re.escape(TO_GET_IT)}$"):
        kernel(graph_of(tmp_path), custom_ops="on")


def test_form_op_needs_it(broken: str, tmp_path: Path) -> None:
    expected = (
        r"^ONNX Runtime has no kernel for linfdeploy::LinfDist and the graph carries no function body; "
        rf"expected one of the two: export with --form function \({broken}: {re.escape(TO_GET_IT)}\)$"
    )
    with pytest.raises(EngineError, match=expected):
        kernel(graph_of(tmp_path, form="op"))


def test_refuses_what_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"no kernel for linfdeploy::LinfDist .*\(custom ops are off\)$"):
        kernel(graph_of(tmp_path, form="op"), custom_ops="off")
    with pytest.raises(EngineError, match=r"^custom ops are on, and a graph .*standard has no LinfDist: export"):
        kernel(graph_of(tmp_path, form="standard"), custom_ops="on")


@pytest.mark.parametrize("wanted", ["yes", "", True, 1, None, [], {"on": 1}])
def test_options_of_a_foreign_manifest(wanted: Any, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"^custom_ops is .*; expected one of auto, on, off$"):
        kernel(graph_of(tmp_path), custom_ops=wanted)


@needs_library
def test_many_sessions_one_library(tmp_path: Path) -> None:
    graph, images = graph_of(tmp_path), random_images(3)
    engines = [backend.load(graph, {**OPTIONS, "custom_ops": "on"}) for _ in range(4)]
    first = engines.pop().run(images).tobytes()
    while engines:
        assert engines.pop().run(images).tobytes() == first
    assert backend.load(graph, {**OPTIONS, "custom_ops": "on"}).run(images).tobytes() == first


def configured(folder: Path, root: Path | None) -> subprocess.CompletedProcess[str]:
    """Runs CMake on the library's folder alone, in a home without ONNX Runtime's headers."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    if not shutil.which("cmake", path=path):
        pytest.skip("there is no cmake to configure with")
    (folder / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.20)\nproject(alone LANGUAGES CXX)\nadd_library(kernels INTERFACE)\n"
        f"add_subdirectory({ROOT}/linfdeploy/engines/custom_ops custom_ops)\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "ONNXRUNTIME_ROOT"}
    command = ["cmake", "-S", str(folder), "-B", str(folder / "build")]
    command += [] if root is None else [f"-DONNXRUNTIME_ROOT={root}"]
    environment |= {"HOME": str(folder), "PATH": path}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.skipif(Path("/usr/include/onnxruntime_c_api.h").exists(), reason="the system has the header")
def test_the_build_does_without_the_header(tmp_path: Path) -> None:
    done = configured(tmp_path, None)
    assert done.returncode == 0, done.stderr
    assert (
        "-- Custom operators for ONNX Runtime: not built, there is no onnxruntime_c_api.h; "
        "set ONNXRUNTIME_ROOT to a folder with ONNX Runtime's headers\n"
    ) in done.stdout


def test_the_build_refuses_a_folder_without_the_header(tmp_path: Path) -> None:
    done = configured(tmp_path, tmp_path / "nothing")
    assert done.returncode != 0
    text = " ".join(done.stderr.split())
    assert f"There is no onnxruntime_c_api.h in ONNXRUNTIME_ROOT ({tmp_path}/nothing); expected a folder" in text


@pytest.mark.parametrize(
    ("api", "place"),
    [
        (17, "include"),
        (18, ""),
        (18, "include/onnxruntime"),
        (18, "headers"),
        (29, "include/onnxruntime/core/session"),
    ],
)
def test_the_build_finds_the_header_and_reads_its_version(api: int, place: str, tmp_path: Path) -> None:
    header = tmp_path / "root" / place / "onnxruntime_c_api.h"
    header.parent.mkdir(parents=True)
    header.write_text(f"#define ORT_API_VERSION {api}\n")
    done = configured(tmp_path, tmp_path / "root")
    text = " ".join((done.stdout + done.stderr).split())
    if api < 18:
        assert done.returncode != 0
        assert "onnxruntime_c_api.h is of API '17'; expected 18 or later" in text
    else:
        assert f"Custom operators for ONNX Runtime: built with {header.parent}, API {api}" in text


def test_notes() -> None:
    assert kernel_note(CUSTOM_OP) == "LinfDist runs as a custom op"
    assert kernel_note(STANDARD_OPS) == "LinfDist runs as standard operators"
    assert kernel_note(f"{FUNCTION_BODY} (because)") == (
        "LinfDist runs as its function body (because), about 10 times slower at large batches than as a custom op"
    )


def test_the_cost_is_the_documented_one() -> None:
    text = (ROOT / "docs" / "operators.md").read_text(encoding="utf-8")
    assert f"about {library_module.TIMES_SLOWER} times" in text


def test_onnx_runtime_is_new_enough() -> None:
    assert tuple(map(int, onnxruntime.__version__.split(".")[:2])) >= (1, 18)
