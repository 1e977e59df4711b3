# SPDX-License-Identifier: Apache-2.0
"""The TensorRT plugins through the interfaces that TensorRT uses, with kernels that run on the emulator."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from emulated import Emulated, run
from trt_headers import HEADERS, HOW, PLUGINS, cuda_headers

from linfdeploy.engines.trt.library import PluginLibrary

pytestmark = [
    pytest.mark.skipif(not HEADERS, reason=f"there are no headers of TensorRT: {HOW}"),
    pytest.mark.skipif(cuda_headers() is None, reason="there are no headers of CUDA: install its toolkit"),
]


def test_all_checks(headers: Path, emulated_plugins: Callable[[Path], Emulated]) -> None:
    build = emulated_plugins(headers)
    suite = build.program_without_kernels("conformance", sorted((PLUGINS / "conformance").glob("*.cpp")))
    done = run(suite, build.folder / "libplugin.so")
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
