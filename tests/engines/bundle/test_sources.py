# SPDX-License-Identifier: Apache-2.0
"""The plugins' sources in a bundle: whole, and enough to build from."""

import re
import shutil
from pathlib import Path

import pytest
from emulated import run
from trt_headers import HEADERS, HOW, PLUGINS, UNOPTIMISED

from linfdeploy.engines.bundle.sources import plugin_sources
from linfdeploy.errors import InputError

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("sources")
    for place, data in plugin_sources().items():
        (found / place).parent.mkdir(parents=True, exist_ok=True)
        (found / place).write_bytes(data)
    return found / "plugin"


def test_they_are_the_repositorys_own(folder: Path) -> None:
    places = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    assert all((folder / place).read_bytes() == (ROOT / place).read_bytes() for place in places)
    native = {path.relative_to(PLUGINS) for path in PLUGINS.rglob("*") if path.is_file()}
    wanted = {place for place in native if place.suffix != ".py" and "__pycache__" not in place.parts}
    assert {place.relative_to("plugins_trt") for place in places if place.parts[0] == "plugins_trt"} == wanted


def test_every_file_that_one_includes_is_there(folder: Path) -> None:
    kernels = folder / "linfdeploy" / "kernels"
    included = 0
    for path in folder.rglob("*"):
        if path.suffix not in {".cpp", ".h", ".cu", ".cuh"}:
            continue
        for name in re.findall(r'^\s*#\s*include "([^"]+)"', path.read_text("utf-8"), re.MULTILINE):
            places = (path.parent, folder / "plugins_trt", kernels / "cuda", kernels / "include")
            assert any((place / name).is_file() for place in places), f"{path}: {name}"
            included += 1
    assert included > 40


def test_every_source_that_cmake_names_is_there(folder: Path) -> None:
    for lists in folder.rglob("CMakeLists.txt"):
        text = lists.read_text("utf-8")
        for kernel in re.findall(r"\$\{KERNELS\}/([\w/.]+\.(?:cu|cpp))", text):
            assert (folder / "linfdeploy" / "kernels" / kernel).is_file(), kernel
        for name in re.findall(r"(?<![\w/}])[\w/]+\.cpp", text):
            assert (lists.parent / name).is_file(), name


@pytest.mark.skipif(not HEADERS, reason=f"TensorRT's headers are not here: {HOW}")
@pytest.mark.skipif(not (shutil.which("nvcc") and shutil.which("cmake")), reason="nvcc or cmake is not installed")
def test_they_build_as_the_readme_says(folder: Path) -> None:
    options = ("-DCMAKE_CUDA_ARCHITECTURES=87", f"-DTENSORRT_INCLUDE={HEADERS[0]}")
    compiler = f"-DCMAKE_CUDA_COMPILER={shutil.which('nvcc')}"
    build = folder.parent / "build"
    for command in (
        ("cmake", "-S", folder / "plugins_trt", "-B", build, compiler, *options),
        ("cmake", "--build", build, "--parallel", "2"),
    ):
        done = run(*command, environment=UNOPTIMISED)
        assert done.returncode == 0, done.stdout + done.stderr
    assert (build / "liblinfdeploy_tensorrt.so").is_file()


@pytest.mark.parametrize(
    ("missing", "named"),
    [
        ("plugins_trt/library.cpp", "plugins_trt/library.cpp"),
        ("plugins_trt", "plugins_trt/CMakeLists.txt"),
        ("kernels/cuda/runtime.cu", "linfdeploy/kernels/cuda/runtime.cu"),
        ("kernels", "linfdeploy/kernels/cuda/runtime.cu"),
    ],
)
def test_a_package_without_them(missing: str, named: str, tmp_path: Path) -> None:
    package = tmp_path / "linfdeploy"
    ignored = shutil.ignore_patterns("__pycache__", "*.so")
    shutil.copytree(PLUGINS, package / "plugins_trt", ignore=ignored)
    shutil.copytree(ROOT / "linfdeploy" / "kernels", package / "kernels", ignore=ignored)
    assert plugin_sources(package) == plugin_sources()
    gone = package / missing
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    with pytest.raises(InputError) as refusal:
        plugin_sources(package)
    assert str(refusal.value) == (
        f"{package} lacks the plugins' source {named}; expected a package that ships them: "
        "install linfdeploy again, or export with --form standard, which needs no plugin"
    )
