# SPDX-License-Identifier: Apache-2.0
"""What is kept on disk is what would be compiled now, and what hinders compiling is said in one line.

Here stand-ins for cmake and nvcc take no time; the real ones make the fixture `plugin_library`.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from trt_libraries import fake_library, says

from linfdeploy.engines.trt import compiler
from linfdeploy.engines.trt.compiler import NAME
from linfdeploy.engines.trt.library import built_library, read_library
from linfdeploy.errors import EngineError, InputError

ARCHITECTURES = "75 86 87 90 103 110"
VERSION = "13.0.88"
TO_GET_HEADERS = (
    "expected TensorRT's headers to build the plugins with: sudo apt install libnvinfer-headers-dev, or give "
    "TensorRT's folder as TENSORRT_ROOT"
)


class Tools:
    """A computer with cmake, nvcc and TensorRT's headers that are all stand-ins."""

    def __init__(self, folder: Path) -> None:
        self.root, self.programs, self.calls = folder / "tensorrt", folder / "bin", folder / "calls"
        self.programs.mkdir()
        self.calls.touch()
        self.headers("10.3")
        self.nvcc(VERSION)
        self.library = fake_library(folder / "made.so", text=says("87"))
        self.cmake()

    def headers(self, release: str, place: str = "include", root: Path | None = None) -> None:
        major, minor = release.split(".")
        folder = (root or self.root) / place
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "NvInferRuntime.h").touch()
        text = f"#define NV_TENSORRT_MAJOR {major} //!< Major\n#define NV_TENSORRT_MINOR {minor}\n"
        (folder / "NvInferVersion.h").write_text(text)

    def nvcc(self, version: str) -> None:
        listed = "\\n".join(f"compute_{number}" for number in ("110", *ARCHITECTURES.split()))
        release = ".".join(version.split(".")[:2])
        self.program(
            "nvcc", f"case $1 in --version) echo 'release {release}, V{version}';; *) echo '{listed}';; esac"
        )

    def cmake(self, on_build: str = "") -> None:
        """One that notes its words, and what it is told, and copies a library."""
        build = f'cp {self.library} "$2/{NAME}"'
        self.program(
            "cmake",
            f'echo "$@" >> {self.calls}\nif [ "$1" = --build ]; then {on_build or build}; else mkdir -p "$4"; fi',
        )

    def program(self, name: str, script: str) -> None:
        (self.programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (self.programs / name).chmod(0o755)

    def builds(self) -> int:
        return sum(line.startswith("--build") for line in self.calls.read_text().splitlines())


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tools:
    found = Tools(tmp_path)
    monkeypatch.setenv("PATH", f"{found.programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("LINFDEPLOY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TENSORRT_ROOT", str(found.root))
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "no environment"))
    monkeypatch.setattr(compiler, "CUDA_ROOT", tmp_path / "no cuda")
    return found


@pytest.fixture
def cache(tools: Tools, tmp_path: Path) -> Path:
    return tmp_path / "cache" / "tensorrt-plugins"


def _refusal(architecture: int = 87, root: Path | None = None, kind: type[Exception] = EngineError) -> str:
    with pytest.raises(kind) as caught:
        built_library(architecture, root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestKept:
    def test_what_was_made_is_kept(self, tools: Tools, cache: Path) -> None:
        first = built_library(87)
        assert built_library(87) == first
        assert tools.builds() == 1
        assert first.path.read_bytes() == tools.library.read_bytes()
        assert first.path.parent.parent == cache
        assert sorted(path.name for path in first.path.parent.iterdir()) == [NAME, f"{NAME}.json"]
        assert sorted(path.name for path in cache.iterdir()) == [".lock", first.path.parent.name]
        assert json.loads(first.path.with_suffix(".so.json").read_text()) == {
            "format": "linfdeploy.tensorrt-plugins/1",
            "sha256": first.sha256,
            "architecture": 87,
            "headers": "10.3",
            "nvcc": VERSION,
            "linfdeploy": "0.1.0",
        }

    def test_what_cmake_is_told(self, tools: Tools) -> None:
        built_library(87)
        configure, build = tools.calls.read_text().splitlines()
        words = configure.split()
        assert (words[0], words[2]) == ("-S", "-B")
        assert Path(words[1]).samefile(compiler.PLUGINS)
        assert words[4:] == [
            "-DCMAKE_BUILD_TYPE=Release",
            "-DCMAKE_CUDA_ARCHITECTURES=87",
            f"-DCMAKE_CUDA_COMPILER={tools.programs / 'nvcc'}",
            f"-DKERNELS={compiler.KERNELS}",
            f"-DTENSORRT_INCLUDE={tools.root / 'include'}",
        ]
        assert build == f"--build {words[3]} --parallel {os.cpu_count()}"
        assert not Path(words[3]).exists()

    def test_flags_of_the_environment_do_not_reach_the_compiler(
        self, tools: Tools, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """They could change the bits that the kernels give, and are not in the name under which it is kept."""
        for name in ("CUDAFLAGS", "CXXFLAGS", "LDFLAGS", "NVCC_APPEND_FLAGS", "NVCC_PREPEND_FLAGS"):
            monkeypatch.setenv(name, "--use_fast_math")
        tools.cmake(f'env > {tools.calls}; cp {tools.library} "$2/{NAME}"')
        built_library(87)
        assert "PATH=" in tools.calls.read_text()
        assert "fast_math" not in tools.calls.read_text()

    @pytest.mark.parametrize("changed", ["architecture", "headers", "nvcc", "processor", "options", "source"])
    def test_each_thing_that_it_is_made_of_has_it_made_anew(
        self, tools: Tools, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, changed: str
    ) -> None:
        first = built_library(87)
        if changed == "headers":
            tools.headers("11.1")
        elif changed == "nvcc":
            tools.nvcc("12.6.20")
        elif changed == "options":
            monkeypatch.setattr(compiler, "OPTIONS", {"CMAKE_BUILD_TYPE": "Debug"})
        elif changed == "source":
            plugins = shutil.copytree(compiler.PLUGINS, tmp_path / "plugins")
            (plugins / "log.h").write_text("// another")
            monkeypatch.setattr(compiler, "PLUGINS", plugins)
        elif changed == "processor":
            # The library itself is not what is looked at here.
            monkeypatch.setattr(platform, "machine", lambda: "riscv64")
        second = built_library(90 if changed == "architecture" else 87)
        assert second.path != first.path
        assert tools.builds() == 2
        assert first.path.is_file()

    def test_every_source_counts(self, tools: Tools) -> None:
        names = {path.name for path in compiler._sources()}
        assert {"CMakeLists.txt", "library.cpp", "plugin.h", "runtime.cu", "linf_dist.cu", "entries.h"} < names
        assert {"linf_dist_launcher.cpp", "launchers.h", "ptx.cuh", "tile.cuh", "window.h"} < names

    @pytest.mark.parametrize(
        "damage",
        [
            lambda place: (place / NAME).write_bytes(b""),
            lambda place: (place / NAME).write_bytes((place / NAME).read_bytes() + b"\0"),
            lambda place: (place / NAME).unlink(),
            lambda place: (place / f"{NAME}.json").unlink(),
            lambda place: (place / f"{NAME}.json").write_text("{"),
            lambda place: (place / f"{NAME}.json").write_text("[]"),
            lambda place: (place / f"{NAME}.json").write_text("{}"),
        ],
    )
    def test_what_was_damaged_is_made_again(self, tools: Tools, damage: Callable[[Path], object]) -> None:
        first = built_library(87)
        damage(first.path.parent)
        assert built_library(87) == first
        assert read_library(first.path) == first
        assert tools.builds() == 2

    def test_what_a_killed_process_left_is_removed(self, tools: Tools, cache: Path) -> None:
        (cache / ".abc.part" / "build").mkdir(parents=True)
        built_library(87)
        assert not (cache / ".abc.part").exists()

    def test_an_interrupted_build_leaves_nothing(
        self, tools: Tools, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(compiler, "_compile", interrupted)
        with pytest.raises(KeyboardInterrupt):
            built_library(87)
        assert [path.name for path in cache.iterdir()] == [".lock"]

    def test_two_processes_at_once(self, tools: Tools, cache: Path) -> None:
        """The second waits and takes what the first has made."""
        tools.cmake(f'sleep 1; cp {tools.library} "$2/{NAME}"')
        script = (
            "import sys; from pathlib import Path; from linfdeploy.engines.trt import compiler, library\n"
            "sys.prefix = ''\n"
            "print(library.built_library(87).path)"
        )
        processes = [
            subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) for _ in range(3)
        ]
        paths = {process.communicate()[0].strip() for process in processes}
        assert [process.returncode for process in processes] == [0, 0, 0]
        assert len(paths) == 1
        assert tools.builds() == 1
        assert read_library(Path(paths.pop())).architecture == 87

    def test_a_folder_that_cannot_be_written_to(
        self, tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "file").touch()
        monkeypatch.setenv("LINFDEPLOY_CACHE", str(tmp_path / "file"))
        assert _refusal(kind=InputError) == (
            f"cannot keep TensorRT plugins in {tmp_path / 'file' / 'tensorrt-plugins'}: Not a directory; "
            "set LINFDEPLOY_CACHE to a folder that you can write to"
        )


class TestHeaders:
    @pytest.mark.parametrize("place", ["include", f"include/{platform.machine()}-linux-gnu", ""])
    def test_where_they_may_be(self, tools: Tools, tmp_path: Path, place: str) -> None:
        """The argument comes before the environment."""
        tools.headers("11.1", place, tmp_path / "given")
        assert compiler._headers(tmp_path / "given") == (tmp_path / "given" / place, "11.1")

    def test_the_usual_places(self, tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("TENSORRT_ROOT")
        tools.headers("10.13", "include", tmp_path / "usual")
        monkeypatch.setattr(compiler, "USUAL_ROOTS", (str(tmp_path / "none"), str(tmp_path / "usual")))
        assert compiler._headers(None) == (tmp_path / "usual" / "include", "10.13")

    def test_none_in_the_usual_places(self, tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("TENSORRT_ROOT")
        monkeypatch.setattr(compiler, "USUAL_ROOTS", ("/nowhere", str(tmp_path / "none")))
        assert _refusal() == (
            f"there is no include/NvInferRuntime.h in /nowhere, {tmp_path / 'none'}; {TO_GET_HEADERS}"
        )

    def test_none_where_they_were_said_to_be(self, tools: Tools, tmp_path: Path) -> None:
        text = f"there is no include/NvInferRuntime.h in {tmp_path / 'given'}; {TO_GET_HEADERS}"
        assert _refusal(root=tmp_path / "given") == text

    @pytest.mark.parametrize("release", ["8.6", "10.2", "1.7"])
    def test_an_early_release(self, tools: Tools, release: str) -> None:
        tools.headers(release)
        assert _refusal() == (
            f"{tools.root / 'include'} has the headers of TensorRT {release}; expected 10.3 or later, as JetPack "
            "6.1 has: give the folder of a later TensorRT as TENSORRT_ROOT"
        )

    def test_names_for_the_numbers(self, tools: Tools) -> None:
        """As in 11.x."""
        text = "#define TRT_MAJOR_ENTERPRISE 11\n#define TRT_MINOR_ENTERPRISE 4\n"
        text += "#define NV_TENSORRT_MAJOR TRT_MAJOR_ENTERPRISE\n#define NV_TENSORRT_MINOR TRT_MINOR_ENTERPRISE\n"
        (tools.root / "include" / "NvInferVersion.h").write_text(text)
        assert compiler._headers(None)[1] == "11.4"

    def test_no_release(self, tools: Tools) -> None:
        file = tools.root / "include" / "NvInferVersion.h"
        file.write_text("#define NV_TENSORRT_MAJOR 10\n")
        assert _refusal() == (
            f"{file} names no release; expected TensorRT's header of that name: install it again"
        )
        file.unlink()
        text = f"{file}: no such file; expected TensorRT's header of that name"
        assert _refusal(kind=InputError) == text


class TestTools:
    def test_no_cmake(self, tools: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
        (tools.programs / "cmake").unlink()
        monkeypatch.setenv("PATH", str(tools.programs))
        assert _refusal() == (
            "there is no cmake; expected CMake 3.20 or later to build the TensorRT plugins with: "
            "sudo apt install cmake"
        )

    def test_cmake_of_this_environment_comes_first(
        self, tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "environment" / "bin").mkdir(parents=True)
        (tools.programs / "cmake").rename(tmp_path / "environment" / "bin" / "cmake")
        monkeypatch.setattr(sys, "prefix", str(tmp_path / "environment"))
        monkeypatch.setenv("PATH", f"{tools.programs}{os.pathsep}/bin")
        built_library(87)
        assert tools.builds() == 1

    def test_no_nvcc(self, tools: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
        (tools.programs / "nvcc").unlink()
        monkeypatch.setenv("PATH", str(tools.programs))
        assert _refusal() == (
            f"there is no nvcc on the PATH nor in {compiler.CUDA_ROOT}/cuda*/bin; expected CUDA's compiler to "
            "build the TensorRT plugins with: sudo apt install nvidia-jetpack on a Jetson, cuda-toolkit elsewhere"
        )

    @pytest.mark.parametrize("folder", ["cuda", "cuda-12.6"])
    def test_nvcc_beside_the_path(self, tools: Tools, monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
        """JetPack does not put it there."""
        place = compiler.CUDA_ROOT / folder / "bin"
        place.mkdir(parents=True)
        (tools.programs / "nvcc").rename(place / "nvcc")
        monkeypatch.setenv("PATH", f"{tools.programs}{os.pathsep}/bin")
        built_library(87)
        assert f"-DCMAKE_CUDA_COMPILER={place / 'nvcc'}" in tools.calls.read_text()

    def test_an_nvcc_that_is_none(self, tools: Tools) -> None:
        tools.program("nvcc", "echo something else")
        assert _refusal() == (
            f"{tools.programs / 'nvcc'} --version says 'something else\\n'; expected CUDA's compiler: "
            "install CUDA again"
        )

    def test_an_nvcc_that_does_not_start(self, tools: Tools) -> None:
        (tools.programs / "nvcc").write_text("no program")
        text = f"{tools.programs / 'nvcc'} does not start: Exec format error; install it again"
        assert _refusal() == text

    def test_an_architecture_that_nvcc_does_not_know(self, tools: Tools) -> None:
        assert _refusal(101) == (
            f"nvcc {VERSION} does not compile for sm_101; expected one of {', '.join(ARCHITECTURES.split())}: "
            "install a CUDA that knows this GPU"
        )


class TestFailure:
    @pytest.mark.parametrize(
        ("words", "first"),
        [
            (
                "Building error_text.cpp.o -Werror\n/a/b.cpp:3:9: fatal error: x.h: No such file\nmake: *** 1",
                "/a/b.cpp:3:9: fatal error: x.h: No such file",
            ),
            ("a.cu(12): error: identifier x\nb.cu(13): error: y", "a.cu(12): error: identifier x"),
            ("a.cu(12): error #20: identifier x", "a.cu(12): error #20: identifier x"),
            ("ptxas error   : Entry function uses too much", "ptxas error   : Entry function uses too much"),
            ("nvcc fatal   : Unsupported gpu", "nvcc fatal   : Unsupported gpu"),
            ("a.o: undefined reference to f\ncollect2: error: ld", "a.o: undefined reference to f"),
            (
                "CMake Error at CMakeLists.txt:5 (cmake_minimum):\n\n  CMake 3.20 or higher is required.\n",
                "CMake 3.20 or higher is required.",
            ),
            (
                "CMake Error at a (message):\n  The compiler is broken.\n\n    nvcc fatal   : no host compiler\n",
                "nvcc fatal   : no host compiler",
            ),
            ("CMake Error: bad", "CMake Error: bad"),
            ("something", "no error is named"),
            ("", "no error is named"),
        ],
    )
    def test_the_first_error_is_named_and_the_log_kept(
        self, tools: Tools, cache: Path, words: str, first: str
    ) -> None:
        (tools.programs / "words").write_text(words)
        tools.cmake(f"cat {tools.programs / 'words'} >&2; exit 1")
        text = _refusal()
        (log,) = cache.glob("*.log")
        assert text == (
            f"the TensorRT plugins do not compile for sm_87: {first}; all of the compiler's words are in {log}"
        )
        assert log.read_text() == words
        assert sorted(path.name for path in cache.iterdir()) == [".lock", log.name]

    def test_the_log_goes_when_it_compiles(self, tools: Tools, cache: Path) -> None:
        tools.cmake("echo error: first; exit 1")
        _refusal()
        tools.cmake()
        built_library(87)
        assert list(cache.glob("*.log")) == []

    def test_a_long_line_is_cut(self, tools: Tools) -> None:
        tools.cmake(f"echo 'error: {'x' * 1000}'; exit 1")
        assert len(_refusal()) < 600
