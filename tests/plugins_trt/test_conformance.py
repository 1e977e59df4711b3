# SPDX-License-Identifier: Apache-2.0
"""The TensorRT plugins through the interfaces that TensorRT uses, with kernels that run on the emulator."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from emulated import Emulated, run
from trt_headers import HEADERS, HOW, PLUGINS, cuda_headers, version_of

from linfdeploy.engines.trt.library import PluginLibrary

Builds = Callable[[str], Emulated]
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


class TestLibrary:
    """The library itself, as it is built for a GPU."""

    def test_it_exports_the_entry_points_alone(self, plugin_library: PluginLibrary) -> None:
        names = {
            line.split()[-1] for line in run("nm", "-D", "--defined-only", plugin_library.path).stdout.splitlines()
        }
        assert names == {"getCreators", "setLoggerFinder"}

    def test_it_needs_no_library_of_tensorrt_or_cuda(self, plugin_library: PluginLibrary) -> None:
        needed = re.findall(r"NEEDED.*\[(.*)\]", run("readelf", "-d", plugin_library.path).stdout)
        assert needed
        assert not [name for name in needed if re.search("nv|cuda", name)]

    def test_its_interfaces(self, plugin_library: PluginLibrary, tmp_path: Path) -> None:
        headers = f"-isystem{HEADERS[-1]}", f"-isystem{cuda_headers()}"
        build = Emulated(tmp_path, flags=("-O0", *headers))
        suite = build.program_without_kernels("conformance", sorted((PLUGINS / "conformance").glob("*.cpp")))
        done = run(suite, plugin_library.path, "--no-results")
        assert done.returncode == 0, done.stdout
        assert " 0 failures" in done.stdout
