# SPDX-License-Identifier: Apache-2.0
"""What a library of plugins says of itself, and that every trap is refused before TensorRT sees it.

Real registries are in tests/plugins_trt/test_registry.py.
"""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from emulated import KERNELS, compile_with
from trt_headers import HEADERS, cuda_headers, version_of
from trt_headers import PLUGINS as PLUGINS_TRT
from trt_libraries import fake_library, says

from linfdeploy.engines.trt import library as module
from linfdeploy.engines.trt.library import PLUGINS, PluginLibrary, check_library, load_library, read_library
from linfdeploy.errors import EngineError, InputError
from linfdeploy.files import sha256_of

WHAT = "the TensorRT plugins' library, liblinfdeploy_tensorrt.so"


class Registry:
    """A registry that loads every library, or says no; each library brings these plugins."""

    def __init__(
        self, brings: tuple[str, ...] = PLUGINS, has: tuple[str, ...] = (), *, refuses: bool = False
    ) -> None:
        self.brings, self.has, self.refuses = brings, set(has), refuses
        self.loaded: list[str] = []

    def get_creator(self, name: str, version: str, namespace: str) -> str | None:
        return name if (version, namespace) == ("1", "linfdeploy") and name in self.has else None

    def load_library(self, path: str) -> object | None:
        self.loaded.append(path)
        self.has |= set() if self.refuses else set(self.brings)
        return None if self.refuses else object()


def _tensorrt(registry: Registry, name: str = "tensorrt", version: str = "10.16.1.11") -> ModuleType:
    trt: Any = ModuleType(name)
    trt.__version__ = version
    trt.get_plugin_registry = lambda: registry
    found: ModuleType = trt
    return found


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    return fake_library(tmp_path / "fake.so")


@pytest.fixture(autouse=True)
def nothing_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_loaded", {})


def _refusal(act: Callable[[], object], kind: type[Exception]) -> str:
    with pytest.raises(kind) as caught:
        act()
    text = str(caught.value)
    assert "\n" not in text
    return text


class TestRead:
    @pytest.mark.parametrize(
        ("architectures", "tensorrt", "registration", "expected"),
        [
            ("87", "10.3", "none", (("87",), "10.3", False)),
            ("87-real,90a,110-virtual", "11.1", "static", (("87-real", "90a", "110-virtual"), "11.1", True)),
            ("none", "10.16", "none", (("none",), "10.16", False)),
        ],
    )
    def test_what_a_library_says(
        self, tmp_path: Path, architectures: str, tensorrt: str, registration: str, expected: tuple[Any, ...]
    ) -> None:
        path = fake_library(tmp_path / "any.so", text=says(architectures, tensorrt, registration))
        found = read_library(path)
        assert (found.architectures, found.headers, found.static) == expected
        assert (found.path, found.sha256) == (path, sha256_of(path.read_bytes()))

    def test_the_real_one(self, each_plugin_library: PluginLibrary) -> None:
        """Its words come from the headers and from CMake; what it was built for is in the manifest beside it."""
        manifest = json.loads(each_plugin_library.path.with_suffix(".so.json").read_text())
        assert manifest["format"] == "linfdeploy.tensorrt-plugins/1"
        assert manifest["sha256"] == each_plugin_library.sha256
        assert manifest["headers"] == each_plugin_library.headers
        assert each_plugin_library.headers in [version_of(folder) for folder in HEADERS]
        assert manifest["architecture"] == each_plugin_library.architecture == 87
        assert each_plugin_library.architectures == ("87",)
        assert not each_plugin_library.static

    def test_a_manifest_that_fits(self, fake: Path) -> None:
        fake.with_name("fake.so.json").write_text(json.dumps({"sha256": sha256_of(fake.read_bytes())}))
        assert read_library(fake).architecture == 87

    def test_a_file_that_its_manifest_was_not_written_for(self, fake: Path) -> None:
        fake.with_name("fake.so.json").write_text(json.dumps({"sha256": sha256_of(b"another")}))
        text = _refusal(lambda: read_library(fake), InputError)
        assert text == f"{fake} is not the file that fake.so.json was written for: build it again"

    def test_a_missing_file(self, tmp_path: Path) -> None:
        path = tmp_path / "missing.so"
        assert _refusal(lambda: read_library(path), InputError) == f"{path}: no such file; expected {WHAT}"

    def test_a_folder(self, tmp_path: Path) -> None:
        assert _refusal(lambda: read_library(tmp_path), InputError) == f"{tmp_path}: no such file; expected {WHAT}"

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda data: b"",
            lambda data: says().encode() + b"\0" * 64,
            lambda data: data[:63],
            lambda data: data[:4] + b"\1" + data[5:],
            lambda data: data[:5] + b"\2" + data[6:],
        ],
        ids=["empty", "text", "short", "32 bits", "big-endian"],
    )
    def test_no_elf_file(self, fake: Path, spoil: Callable[[bytes], bytes]) -> None:
        fake.write_bytes(spoil(fake.read_bytes()))
        assert _refusal(lambda: read_library(fake), InputError) == f"{fake} is no 64-bit ELF file; expected {WHAT}"

    @pytest.mark.parametrize(
        ("machine", "here", "words"),
        [
            (183, "x86_64", ("aarch64", "x86-64")),
            (62, "aarch64", ("x86-64", "aarch64")),
            (243, "x86_64", ("243 in ELF", "x86-64")),
        ],
    )
    def test_another_processor(
        self, fake: Path, monkeypatch: pytest.MonkeyPatch, machine: int, here: str, words: tuple[str, str]
    ) -> None:
        data = bytearray(fake.read_bytes())
        data[18:20] = machine.to_bytes(2, "little")
        fake.write_bytes(data)
        monkeypatch.setattr(platform, "machine", lambda: here)
        assert _refusal(lambda: read_library(fake), InputError) == (
            f"{fake} is for the processor {words[0]}; this computer's is {words[1]}: "
            "build the library on this computer"
        )

    @pytest.mark.parametrize(
        "text",
        [
            "nothing",
            says(architectures=""),
            says(architectures="87;90"),
            says(tensorrt="10"),
            says(registration="yes"),
            says().replace("/1", "/2"),
            f"{says()}\0{says('90')}",
            f"{says()} and more",
        ],
    )
    def test_no_word_of_ours_or_two(self, tmp_path: Path, text: str) -> None:
        path = fake_library(tmp_path / "other.so", text=text)
        assert _refusal(lambda: read_library(path), InputError) == (
            f"{path} does not say what it was made for; expected {WHAT}: build it again"
        )


class TestCheck:
    @pytest.mark.parametrize(
        ("architectures", "runs_on", "not_on"),
        [
            # CMake's 87 is machine code for 8.7 and PTX for it and all later ones.
            ("87", [87, 89, 90, 110, 120], [75, 80, 86]),
            ("87-real", [87], [86, 89, 90, 110]),
            ("87-virtual", [87, 89, 90, 110], [80, 86]),
            # Machine code runs on later ones of its major version, but for Tegra, old or new.
            ("80-real", [80, 86, 89], [75, 87, 90]),
            ("86-real", [86, 89], [80, 87]),
            ("120-real", [120, 121], [110, 90]),
            # With a letter it is for that one alone.
            ("90a", [90], [100, 87]),
            ("100f-real", [100], [103]),
            ("80-real,90-real", [80, 86, 89, 90], [87, 75, 100]),
            ("none", [], [87, 90]),
            ("native", [], [87, 90]),
        ],
    )
    def test_the_rules_of_cuda(
        self, fake: Path, architectures: str, runs_on: list[int], not_on: list[int]
    ) -> None:
        library = PluginLibrary(fake, tuple(architectures.split(",")), "10.3", static=False, sha256="")
        for architecture in runs_on:
            check_library(library, architecture)
        for architecture in not_on:
            _refusal(partial(check_library, library, architecture), EngineError)

    @pytest.mark.parametrize(
        ("architectures", "words"),
        [
            (("87-real",), "sm_87"),
            (("110",), "sm_110, compute_110"),
            (("87-real", "110-virtual"), "sm_87, compute_110"),
            (("none",), "no GPU"),
        ],
    )
    def test_what_is_said(self, fake: Path, architectures: tuple[str, ...], words: str) -> None:
        library = PluginLibrary(fake, architectures, "10.3", static=False, sha256="")
        assert _refusal(lambda: check_library(library, 90), EngineError) == (
            f"{fake} was built for {words}; this GPU is sm_90: build it again with -DCMAKE_CUDA_ARCHITECTURES=90"
        )

    def test_the_real_one(self, plugin_library: PluginLibrary) -> None:
        check_library(plugin_library, 87)
        text = _refusal(lambda: check_library(plugin_library, 86), EngineError)
        assert f"{plugin_library.path} was built for sm_87, compute_87; this GPU is sm_86: build it again" in text


class TestLoad:
    def test_it_is_loaded_once(self, fake: Path) -> None:
        registry = Registry()
        load_library(_tensorrt(registry), fake)
        load_library(_tensorrt(registry), fake)
        assert registry.loaded == [str(fake)]

    @pytest.mark.parametrize(
        ("name", "version"),
        [
            ("tensorrt", "10.3.0"),
            ("tensorrt", "11.4.0.106"),
            ("tensorrt_lean_bindings", "10.16.1.11"),
            ("tensorrt_lean_bindings", "11.4.0.106"),
            ("tensorrt_rtx_bindings", "1.7.1.116"),
        ],
    )
    @pytest.mark.parametrize("headers", ["10.3", "11.1"])
    def test_headers_of_either_release_fit_everywhere(
        self, tmp_path: Path, name: str, version: str, headers: str
    ) -> None:
        registry = Registry()
        load_library(
            _tensorrt(registry, name, version), fake_library(tmp_path / "f.so", text=says(tensorrt=headers))
        )
        assert len(registry.loaded) == 1

    def test_plugins_that_are_there_by_other_means_are_left(self, fake: Path) -> None:
        registry = Registry(has=PLUGINS)
        load_library(_tensorrt(registry), fake)
        assert registry.loaded == []

    def test_another_library_is_refused(self, fake: Path, tmp_path: Path) -> None:
        registry, other = Registry(), fake_library(tmp_path / "other.so", text=says("90"))
        load_library(_tensorrt(registry), fake)
        assert _refusal(lambda: load_library(_tensorrt(registry), other), EngineError) == (
            f"{other} cannot be loaded: this process has the plugins of {fake}; start another one"
        )
        assert registry.loaded == [str(fake)]

    def test_a_file_that_is_no_library_is_never_handed_over(self, tmp_path: Path) -> None:
        registry, path = Registry(), tmp_path / "text.so"
        path.write_text("text")
        assert _refusal(lambda: load_library(_tensorrt(registry), path), InputError).startswith(
            f"{path} is no 64-bit"
        )
        assert registry.loaded == []

    @pytest.mark.parametrize(
        ("brings", "missing"),
        [((), "LinfDist and LinfDistConv"), (("LinfDist",), "LinfDistConv"), (("LinfDistConv",), "LinfDist")],
    )
    def test_a_library_without_all_plugins(self, fake: Path, brings: tuple[str, ...], missing: str) -> None:
        trt = _tensorrt(Registry(brings))
        assert _refusal(lambda: load_library(trt, fake), EngineError) == (
            f"TensorRT 10.16.1.11 loaded {fake} and has no plugin {missing} of version 1 in namespace linfdeploy: "
            "build the library again"
        )
        assert module._loaded == {}

    def test_a_library_that_is_refused_without_a_word(self, fake: Path) -> None:
        trt = _tensorrt(Registry(refuses=True))
        assert _refusal(lambda: load_library(trt, fake), EngineError) == (
            f"TensorRT 10.16.1.11 does not load {fake}: it does not export getCreators and setLoggerFinder; "
            f"expected {WHAT}"
        )

    def test_a_library_that_needs_another(self, tmp_path: Path) -> None:
        """As one that registers its plugins by itself needs libnvinfer."""
        needed = fake_library(tmp_path / "libneeded.so", "void needed() {}", text="")
        source = (
            f'extern "C" {{ extern const char made_for[] = "{says()}"; void needed(); void f() {{ needed(); }} }}'
        )
        path = tmp_path / "fake.so"
        command = ["g++", "-shared", "-fPIC", "-x", "c++", "-", "-o", str(path), f"-L{tmp_path}", "-lneeded"]
        subprocess.run(command, input=source, text=True, check=True)
        needed.unlink()
        trt = _tensorrt(Registry(refuses=True))
        assert _refusal(lambda: load_library(trt, path), EngineError) == (
            f"TensorRT 10.16.1.11 does not load {path}: libneeded.so: "
            "cannot open shared object file: No such file or directory"
        )


class TestHost:
    """Where TensorRT would crash."""

    @pytest.mark.parametrize("name", ["tensorrt", "tensorrt_bindings"])
    def test_a_static_registration_of_the_same_major_version(self, tmp_path: Path, name: str) -> None:
        registry, path = Registry(), fake_library(tmp_path / "f.so", text=says(registration="static"))
        load_library(_tensorrt(registry, name), path)
        assert registry.loaded == [str(path)]

    @pytest.mark.parametrize(
        ("headers", "name", "version"),
        [
            ("10.3", "tensorrt", "11.4.0.106"),
            ("11.1", "tensorrt", "10.16.1.11"),
            ("10.3", "tensorrt_lean_bindings", "10.16.1.11"),
            ("10.3", "tensorrt_rtx_bindings", "1.7.1.116"),
            ("1.7", "tensorrt_rtx_bindings", "1.7.1.116"),
        ],
    )
    def test_a_static_registration_elsewhere(self, tmp_path: Path, headers: str, name: str, version: str) -> None:
        registry, major = Registry(), int(float(headers))
        path = fake_library(tmp_path / "f.so", text=says(tensorrt=headers, registration="static"))
        assert _refusal(lambda: load_library(_tensorrt(registry, name, version), path), EngineError) == (
            f"{path} registers its plugins in the libnvinfer of TensorRT {major}, and this is {name} {version}: "
            "build it again without -DLINFDEPLOY_STATIC_REGISTRATION=ON"
        )
        assert registry.loaded == []

    def test_a_tensorrt_without_such_plugins(self, fake: Path) -> None:
        registry = Registry()
        trt = _tensorrt(registry, version="8.6.2")
        assert _refusal(lambda: load_library(trt, fake), EngineError) == (
            "tensorrt is of release 8.6.2; expected 10.0 or later, which has plugins of our kind"
        )
        assert registry.loaded == []


@pytest.mark.parametrize("headers", HEADERS, ids=[version_of(folder) for folder in HEADERS])
@pytest.mark.parametrize("static", [False, True])
def test_the_words_are_the_compilers(tmp_path: Path, headers: Path, *, static: bool) -> None:
    """CMake's option for static registration is a definition; the release is that of the headers."""
    if cuda_headers() is None:
        pytest.skip("there are no headers of CUDA: install its toolkit")
    includes = [
        f"-I{KERNELS / 'cuda'}",
        f"-I{KERNELS / 'include'}",
        f"-isystem{headers}",
        f"-isystem{cuda_headers()}",
    ]
    definitions = ['-DLINFDEPLOY_ARCHITECTURES="90-real,110"', *["-DLINFDEPLOY_STATIC_REGISTRATION"] * static]
    # The marked line is in the object file already, so nothing of libnvinfer is needed.
    compile_with("-O2", *includes, *definitions, "-c", PLUGINS_TRT / "library.cpp", "-o", tmp_path / "library.o")
    found = read_library(tmp_path / "library.o")
    assert (found.architectures, found.headers, found.static) == (("90-real", "110"), version_of(headers), static)
