# SPDX-License-Identifier: Apache-2.0
"""NVRTC compiles every source without a word, and what is kept on disk is what would be compiled now."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from linfdeploy.errors import KernelError, MissingExtraError
from linfdeploy.kernels.cuda import compiler
from linfdeploy.kernels.cuda.aot import KERNELS
from linfdeploy.kernels.cuda.card import ENTRIES, FILES

VERSION = (13, 0)
QUICK = "linf_dist_bounds"


def _has_nvrtc() -> bool:
    try:
        compiler.compiler_version()
    except MissingExtraError:
        return False
    return True


needs_nvrtc = pytest.mark.skipif(not _has_nvrtc(), reason="there is no NVRTC: pip install 'linfdeploy[cuda]'")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this test's results are kept."""
    monkeypatch.setenv("LINFDEPLOY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "kernels"


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """What was compiled, by a compiler that takes no time."""
    calls: list[tuple[str, int]] = []

    def compile_source(file: str, architecture: int) -> tuple[bytes, str]:
        calls.append((file, architecture))
        return f"{file} for {architecture}".encode(), ""

    monkeypatch.setattr(compiler, "compile_source", compile_source)
    monkeypatch.setattr(compiler, "compiler_version", lambda: VERSION)
    monkeypatch.setattr(compiler, "check_architecture", lambda *_: None)
    return calls


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the sources and headers, to change."""
    for name, place in (("SOURCES", compiler.SOURCES), ("INCLUDE", compiler.INCLUDE)):
        copy = shutil.copytree(place, tmp_path / name.lower())
        monkeypatch.setattr(compiler, name, copy)
    return tmp_path


@needs_nvrtc
@pytest.mark.parametrize(("file", "architecture"), [*((file, 90) for file in FILES), (QUICK, 75), (QUICK, 120)])
def test_every_source_compiles_without_a_warning(file: str, architecture: int) -> None:
    code, log = compiler.compile_source(file, architecture)
    assert log == ""
    assert code.startswith(b"\x7fELF")
    for name in (name for name, source in ENTRIES if source == file):
        assert f".text.{name}\0".encode() in code


@needs_nvrtc
def test_the_binding_takes_what_is_compiled(cache: Path) -> None:
    from cuda.core import ObjectCode

    code = compiler.cubin(QUICK, 90)
    assert ObjectCode.from_cubin(code, name=QUICK).code == code
    assert len(list(cache.iterdir())) == 1


def test_a_result_is_kept(cache: Path, compiled: list[tuple[str, int]]) -> None:
    first = compiler.cubin(QUICK, 90)
    assert compiler.cubin(QUICK, 90) == first
    assert compiled == [(QUICK, 90)]
    (kept,) = cache.iterdir()
    assert kept == compiler.kept(QUICK, 90, VERSION)
    assert kept.read_bytes() == hashlib.sha256(first).digest() + first


def test_each_architecture_and_source_is_kept_by_itself(cache: Path, compiled: list[tuple[str, int]]) -> None:
    for file in FILES[:2]:
        for architecture in (80, 90):
            assert compiler.cubin(file, architecture) == f"{file} for {architecture}".encode()
    assert len(compiled) == len(list(cache.iterdir())) == 4


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:32],
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: data[:40] + bytes([data[40] ^ 1]) + data[41:],
        lambda data: bytes([data[0] ^ 1]) + data[1:],
    ],
    ids=["empty", "no code", "short", "long", "a bit of the code", "a bit of the hash"],
)
def test_a_damaged_result_is_made_again(
    damage: Callable[[bytes], bytes], cache: Path, compiled: list[tuple[str, int]]
) -> None:
    first = compiler.cubin(QUICK, 90)
    (kept,) = cache.iterdir()
    whole = kept.read_bytes()
    kept.write_bytes(damage(whole))
    assert compiler.cubin(QUICK, 90) == first
    assert len(compiled) == 2
    assert kept.read_bytes() == whole


def test_nothing_need_be_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiled: list[tuple[str, int]]
) -> None:
    # A folder below a file cannot be made, whoever runs this.
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LINFDEPLOY_CACHE", str(tmp_path / "file"))
    assert compiler.cubin(QUICK, 90) == compiler.cubin(QUICK, 90)
    assert len(compiled) == 2


def test_places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.delenv("LINFDEPLOY_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert compiler.kept(QUICK, 90, VERSION).parent == Path("/home/someone/.cache/linfdeploy/kernels")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert compiler.kept(QUICK, 90, VERSION).parent == tmp_path / "linfdeploy" / "kernels"
    monkeypatch.setenv("LINFDEPLOY_CACHE", str(tmp_path / "own"))
    assert compiler.kept(QUICK, 90, VERSION).parent == tmp_path / "own" / "kernels"


def test_a_place_is_of_all_that_makes_the_result(sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def place(version: tuple[int, int] = VERSION, architecture: int = 90) -> Path:
        return compiler.kept(QUICK, architecture, version)

    places = [place(), place((13, 1)), place(architecture=80)]
    headers = sorted((sources / "include" / "linf").iterdir()) + sorted((sources / "sources").glob("*.h"))
    for path in [sources / "sources" / f"{QUICK}.cu", *headers]:
        with path.open("a", encoding="utf-8") as file:
            file.write("\n")
        places.append(place())
    monkeypatch.setitem(compiler.OPTIONS, "ftz", True)
    places.append(place())
    assert len(set(places)) == len(places)
    with (sources / "sources" / "linf_dist.cu").open("a", encoding="utf-8") as file:
        file.write("\n")
    assert place() == places[-1], "another source is no part of this one"


@needs_nvrtc
def test_processes_may_compile_at_once(cache: Path) -> None:
    script = f"from linfdeploy.kernels.cuda.compiler import cubin; print(len(cubin({QUICK!r}, 90)))"
    runs = [subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    sizes = {run.communicate(timeout=120)[0] for run in runs}
    assert [run.returncode for run in runs] == [0, 0, 0]
    (kept,) = cache.iterdir()
    assert sizes == {f"{kept.stat().st_size - 32}\n"}


@pytest.mark.parametrize("module", ["cuda.core", "cuda.bindings"])
def test_a_missing_compiler(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    text = "compiling the kernels for CUDA needs packages that are not installed: pip install 'linfdeploy[cuda]'"
    with pytest.raises(MissingExtraError, match=f"^{re.escape(text)}$"):
        compiler.cubin(QUICK, 90)


@needs_nvrtc
def test_a_compiler_without_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    from cuda.bindings import nvrtc

    def missing() -> Any:
        raise RuntimeError("libnvrtc.so.13 not found")

    monkeypatch.setattr(nvrtc, "nvrtcVersion", missing)
    with pytest.raises(MissingExtraError, match="pip install"):
        compiler.cubin(QUICK, 90)


@needs_nvrtc
def test_cards_that_are_too_old_or_too_new() -> None:
    with pytest.raises(
        KernelError,
        match=r"^the card has compute capability 7\.0; expected 7\.5 \(Turing\) or later: use CPU tensors$",
    ):
        compiler.cubin(QUICK, 70)
    with pytest.raises(
        KernelError,
        match=r"^the card has compute capability 99\.0, which NVRTC \d+\.\d+ does not know; "
        r"expected a later one: pip install --upgrade cuda-bindings nvidia-cuda-nvrtc$",
    ):
        compiler.cubin(QUICK, 990)


@needs_nvrtc
def test_a_source_that_does_not_compile(sources: Path, cache: Path) -> None:
    (sources / "sources" / "broken.cu").write_text("#define LINF 1\n__global__ void broken() { nonsense; }\n")
    text = (
        'broken.cu does not compile for sm_90: broken.cu(2): error: identifier "nonsense" is undefined; '
        "please report this"
    )
    with pytest.raises(KernelError, match=f"^{re.escape(text)}$") as found:
        compiler.cubin("broken", 90)
    assert "1 error detected in the compilation" in str(found.value.__cause__)
    assert not cache.exists()


@needs_nvrtc
def test_ptx_is_of_one_kernel_and_kept(cache: Path) -> None:
    code = compiler.ptx("linf_dist_conv_aot", "linf_dist_conv_aot_medium", 87)
    assert re.findall(r"\.visible \.entry (\w+)\(", code) == ["linf_dist_conv_aot_medium"]
    assert ".extern .shared" in code
    assert compiler.ptx("linf_dist_conv_aot", "linf_dist_conv_aot_medium", 87) == code
    (kept,) = cache.iterdir()
    assert kept == compiler.kept("linf_dist_conv_aot", 87, compiler.compiler_version(), "ptx")


def test_ptx_leaves_the_other_kernels_out(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    text = "head\n.visible .entry first(\n)\n{\n}\n\n.visible .entry first_not(\n)\n{\n}\n"
    monkeypatch.setattr(compiler, "compiler_version", lambda: VERSION)
    monkeypatch.setattr(compiler, "check_architecture", lambda *_: None)
    monkeypatch.setattr(compiler, "compile_ptx", lambda *_: (text.encode(), ""))
    assert compiler.ptx(QUICK, "first", 87) == "head\n.visible .entry first(\n)\n{\n}\n\n"
    assert compiler.ptx(QUICK, "first_not", 87) == "head\n.visible .entry first_not(\n)\n{\n}\n"


@needs_nvrtc
@pytest.mark.parametrize("file", sorted({kernel.file for kernel in KERNELS.values()}))
def test_ptx_compiles_without_a_warning(file: str) -> None:
    code, log = compiler.compile_ptx(file, 75)
    assert log == ""
    assert sorted(re.findall(r"\.visible \.entry (\w+)\(", code.decode())) == sorted(
        kernel.name for kernel in KERNELS.values() if kernel.file == file
    )


@needs_nvrtc
def test_ptx_that_does_not_compile(sources: Path, cache: Path) -> None:
    (sources / "sources" / "broken.cu").write_text("#define LINF 1\n__global__ void broken() { nonsense; }\n")
    text = (
        'broken.cu does not compile for compute_90: broken.cu(2): error: identifier "nonsense" is undefined; '
        "please report this"
    )
    with pytest.raises(KernelError, match=f"^{re.escape(text)}$") as found:
        compiler.ptx("broken", "broken", 90)
    assert "1 error detected in the compilation" in str(found.value.__cause__)
    assert not cache.exists()


@needs_nvrtc
def test_ptx_for_cards_that_are_too_old() -> None:
    text = "the card has compute capability 7.0; expected 7.5 (Turing) or later: build for a later card"
    with pytest.raises(KernelError, match=f"^{re.escape(text)}$"):
        compiler.ptx("linf_dist_aot", "linf_dist_aot_f32_small", 70)
