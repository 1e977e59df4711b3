# SPDX-License-Identifier: Apache-2.0
"""The TensorRT plugins through the interfaces that TensorRT uses, with kernels that run on the emulator."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from emulated import KERNELS, Emulated, run

Builds = Callable[[str], Emulated]
PLUGINS = KERNELS.parents[1] / "plugins_trt"
CACHE = Path("~/.cache/linfdeploy/tensorrt").expanduser()

HOW = "give TensorRT's folder as TENSORRT_ROOT, or keep its headers in ~/.cache/linfdeploy/tensorrt/include"


def header_folders() -> list[Path]:
    """Folders with TensorRT's headers, each of another release."""
    given = os.environ.get("TENSORRT_ROOT")
    roots = [Path(given)] if given else [*sorted(CACHE.glob("v*")), CACHE]
    found = {version_of(root / "include"): root / "include" for root in roots if version_of(root / "include")}
    return list(found.values())


def version_of(folder: Path) -> str:
    """The release that the headers are of, such as 10.3; nothing where there are none."""
    file = folder / "NvInferVersion.h"
    if not file.exists():
        return ""
    # In 11.x the numbers have names of their own.
    numbers = dict(re.findall(r"#define (\w+) (\w+)", file.read_text()))
    parts = [numbers.get(f"NV_TENSORRT_{part}", "") for part in ("MAJOR", "MINOR")]
    return ".".join(numbers.get(part, part) for part in parts)


def cuda_headers() -> Path | None:
    """The folder of CUDA's headers, which TensorRT's include."""
    compiler = shutil.which("nvcc")
    roots = [Path(compiler).resolve().parents[1]] if compiler else []
    roots += [Path("/usr/local/cuda"), *sorted(Path("/usr/local").glob("cuda-*"))]
    folders = [root / "include" for root in roots if (root / "include" / "cuda_runtime_api.h").exists()]
    return next(iter(folders), None)


HEADERS = header_folders()
pytestmark = [
    pytest.mark.skipif(not HEADERS, reason=f"there are no headers of TensorRT: {HOW}"),
    pytest.mark.skipif(cuda_headers() is None, reason="there are no headers of CUDA: install its toolkit"),
]


@pytest.fixture(params=HEADERS, ids=[version_of(folder) for folder in HEADERS])
def build(request: pytest.FixtureRequest, builds: Builds, tmp_path: Path) -> Emulated:
    """The kernels on the emulator, and headers of a release of TensorRT to compile plugins with."""
    kernels = builds("address,undefined")
    kernels.compiled(kernels.launchers())
    headers = f"-isystem{request.param}", f"-isystem{cuda_headers()}"
    with_headers = Emulated(tmp_path, sanitize=kernels.sanitize, flags=(*kernels.flags, *headers))
    with_headers.adopt(kernels)
    return with_headers


def test_all_checks(build: Emulated) -> None:
    runtime = Path(__file__).parent / "emulated_runtime.cpp"
    plugin = build.library("libplugin.so", [*sorted(PLUGINS.glob("*.cpp")), runtime])
    suite = build.program_without_kernels("conformance", sorted((PLUGINS / "conformance").glob("*.cpp")))
    done = run(suite, plugin)
    assert done.returncode == 0, done.stdout + done.stderr
    checks, failures = map(int, re.findall(r"(\d+) checks, (\d+) failures", done.stdout)[0])
    assert failures == 0
    assert checks > 20_000
    assert "results on the host, emulated" in done.stdout


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library, as a user builds it."""
    folder = tmp_path_factory.mktemp("library")
    options = f"-DTENSORRT_INCLUDE={HEADERS[0]}", "-DCMAKE_CUDA_ARCHITECTURES=87"
    for command in (
        ("cmake", "-S", PLUGINS, "-B", folder, f"-DCMAKE_CUDA_COMPILER={shutil.which('nvcc')}", *options),
        ("cmake", "--build", folder, "--parallel", "2"),
    ):
        done = run(*command)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder / "liblinfdeploy_tensorrt.so"


@pytest.mark.skipif(
    not (shutil.which("nvcc") and shutil.which("cmake")),
    reason="there is no nvcc or no cmake to build it",
)
class TestLibrary:
    """The library itself, as a user builds it."""

    def test_it_exports_the_entry_points_alone(self, library: Path) -> None:
        names = {line.split()[-1] for line in run("nm", "-D", "--defined-only", library).stdout.splitlines()}
        assert names == {"getCreators", "setLoggerFinder"}

    def test_it_needs_no_library_of_tensorrt_or_cuda(self, library: Path) -> None:
        needed = re.findall(r"NEEDED.*\[(.*)\]", run("readelf", "-d", library).stdout)
        assert needed
        assert not [name for name in needed if re.search("nv|cuda", name)]

    def test_its_interfaces(self, library: Path, tmp_path: Path) -> None:
        headers = f"-isystem{HEADERS[-1]}", f"-isystem{cuda_headers()}"
        build = Emulated(tmp_path, flags=("-O0", *headers))
        suite = build.program_without_kernels("conformance", sorted((PLUGINS / "conformance").glob("*.cpp")))
        done = run(suite, library, "--no-results")
        assert done.returncode == 0, done.stdout
        assert " 0 failures" in done.stdout
