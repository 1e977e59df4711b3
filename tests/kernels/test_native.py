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
from emulated import run

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


def _installed(isa: str) -> Path | None:
    """The object that was linked into the installed module, unless a source is newer."""
    newest = max(path.stat().st_mtime for folder in (CPU, CPU.parent / "include") for path in folder.rglob("*.*"))
    objects = ROOT.glob(f"build/*/linfdeploy/kernels/cpu/CMakeFiles/kernels_{isa}.dir/variant.cpp.o")
    return next((path for path in objects if path.stat().st_mtime > newest), None)


@pytest.mark.parametrize("optimisation", ["-O0", "-O3"])
@pytest.mark.parametrize("isa", VARIANTS)
def test_nothing_leaves_the_namespace(isa: str, optimisation: str, tmp_path: Path) -> None:
    # At -O0 every inline function is emitted; a shared one could come from AVX-512 and kill an older processor.
    compiled = _installed(isa) if optimisation == "-O3" else None
    if compiled is None:
        compiled = tmp_path / "variant.o"
        variant = [*ISAS[isa], optimisation, f"-DLINF_ISA={isa}", "-c", CPU / "variant.cpp"]
        _compile(*variant, "-o", compiled)
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


def _sanitize(sanitizer: str, tmp_path: Path) -> list[str]:
    """The flags of a sanitizer, which must work here."""
    flags = [f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-pthread"]
    (tmp_path / "probe.cpp").write_text("int main() {}\n")
    linked = subprocess.run(
        ["g++", *flags, tmp_path / "probe.cpp", "-o", tmp_path / "probe"], capture_output=True, check=False
    )
    if linked.returncode or subprocess.run([tmp_path / "probe"], capture_output=True, check=False).returncode:
        pytest.skip(f"g++ has no working {sanitizer} sanitizer here")
    return flags


# Addresses are each instruction set's own. Work is shared out among threads by the same lines for all of them.
@pytest.mark.parametrize(
    ("sanitizer", "variants"),
    [
        ("address,undefined", VARIANTS),
        ("thread", ["baseline"]),
        pytest.param("thread", VARIANTS, marks=pytest.mark.thorough),
    ],
)
def test_sanitizers_find_nothing(sanitizer: str, variants: list[str], tmp_path: Path) -> None:
    sanitize = _sanitize(sanitizer, tmp_path)

    def compile_variant(isa: str) -> None:
        variant: list[str | Path] = [*ISAS[isa], f"-DLINF_ISA={isa}", "-c", CPU / "variant.cpp"]
        _compile("-O1", "-g1", *sanitize, *variant, "-o", tmp_path / f"{isa}.o")

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(compile_variant, variants))
    program = tmp_path / "test_kernels"
    shared = [CPU / name for name in ("dispatch.cpp", "linf_dist_conv.cpp", "parallel.cpp")]
    sources = [Path(__file__).parent / "native" / "test_kernels.cpp", *shared]
    # Without the others dispatch.cpp finds that this processor has none of them.
    alone = [] if variants == VARIANTS else ["-D__builtin_cpu_supports(set)=0"]
    objects = [tmp_path / f"{isa}.o" for isa in variants]
    _compile("-O1", "-g1", "-Wall", "-Wextra", *alone, *sanitize, *sources, *objects, "-o", program)
    done = run(program)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.findall(r"(\w+): done", done.stdout)[-1] == "baseline"
