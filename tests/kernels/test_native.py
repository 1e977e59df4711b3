# SPDX-License-Identifier: Apache-2.0
"""The native code by itself: nothing leaks out of an instruction set's namespace, and sanitizers find nothing."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CPU = ROOT / "linfdeploy" / "kernels" / "cpu"
INCLUDES = [f"-I{CPU}", f"-I{CPU.parent / 'include'}"]
FLAGS = ["-std=c++17", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi"]
ISAS: dict[str, list[str]] = {
    "baseline": [],
    "avx2": ["-march=x86-64-v3"],
    "avx512": ["-march=x86-64-v4", "-mprefer-vector-width=512"],
}
VARIANTS = list(ISAS) if platform.machine() in {"x86_64", "AMD64"} else ["baseline"]

pytestmark = pytest.mark.skipif(
    not (shutil.which("g++") and shutil.which("nm")), reason="there is no g++ and nm to compile and look with"
)


def _compile(*arguments: str | Path) -> None:
    done = subprocess.run(["g++", *FLAGS, *INCLUDES, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def _symbols(path: Path) -> list[tuple[str, str]]:
    """The kind and the mangled name of each symbol."""
    lines = subprocess.run(["nm", path], capture_output=True, text=True, check=True).stdout.splitlines()
    return [(line[17], line[19:]) for line in lines]


def _leaks(path: Path, isa: str) -> list[str]:
    """Definitions that the linker could share with another variant; lower-case kinds are local."""
    inside = re.compile(rf"_Z(T[ISV]|GV)?Z*NK?4linf{len(isa)}{isa}")
    return [
        name
        for kind, name in _symbols(path)
        if kind not in "Utbrd" and not inside.match(name) and not name.startswith("DW.ref.")
    ]


@pytest.mark.parametrize("optimisation", ["-O0", "-O3"])
@pytest.mark.parametrize("isa", VARIANTS)
def test_nothing_leaves_the_namespace(isa: str, optimisation: str, tmp_path: Path) -> None:
    # At -O0 every inline function is emitted; a shared one could come from AVX-512 and kill an older processor.
    compiled = tmp_path / "variant.o"
    arguments: list[str | Path] = [
        *ISAS[isa],
        optimisation,
        f"-DLINF_ISA={isa}",
        "-c",
        CPU / "variant.cpp",
    ]
    _compile(*arguments, "-o", compiled)
    assert any(name == f"_ZN4linf{len(isa)}{isa}7kernelsE" for _, name in _symbols(compiled))
    assert _leaks(compiled, isa) == []


def test_the_leak_test_sees_leaks(tmp_path: Path) -> None:
    (tmp_path / "leak.cpp").write_text(
        "namespace linf { inline int shared() { return 1; }\n"
        "template <int n> int made() { return n; }\n"
        "namespace avx2 { inline int kept() { return 2; }\n"
        "int all() { return shared() + made<3>() + kept(); } } }\n"
    )
    _compile("-O0", "-c", tmp_path / "leak.cpp", "-o", tmp_path / "leak.o")
    assert sorted(_leaks(tmp_path / "leak.o", "avx2")) == ["_ZN4linf4madeILi3EEEiv", "_ZN4linf6sharedEv"]


@pytest.fixture(params=["address,undefined", "thread"])
def sanitize(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    """The flags of a sanitizer that works here."""
    flags = [f"-fsanitize={request.param}", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-pthread"]
    (tmp_path / "probe.cpp").write_text("int main() {}\n")
    linked = subprocess.run(
        ["g++", *flags, tmp_path / "probe.cpp", "-o", tmp_path / "probe"], capture_output=True, check=False
    )
    if linked.returncode or subprocess.run([tmp_path / "probe"], capture_output=True, check=False).returncode:
        pytest.skip(f"g++ has no working {request.param} sanitizer here")
    return flags


def test_sanitizers_find_nothing(sanitize: list[str], tmp_path: Path) -> None:
    objects = [tmp_path / f"{isa}.o" for isa in VARIANTS]

    def compile_variant(isa: str) -> None:
        variant: list[str | Path] = [*ISAS[isa], f"-DLINF_ISA={isa}", "-c", CPU / "variant.cpp"]
        _compile("-O1", "-g1", *sanitize, *variant, "-o", tmp_path / f"{isa}.o")

    with ThreadPoolExecutor() as pool:
        list(pool.map(compile_variant, VARIANTS))
    program = tmp_path / "test_kernels"
    shared = [CPU / name for name in ("dispatch.cpp", "linf_dist_conv.cpp", "parallel.cpp")]
    sources = [Path(__file__).parent / "native" / "test_kernels.cpp", *shared]
    _compile("-O1", "-g1", "-Wall", "-Wextra", *sanitize, *sources, *objects, "-o", program)
    done = subprocess.run([program], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "baseline: done" in done.stdout
