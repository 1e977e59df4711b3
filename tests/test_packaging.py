# SPDX-License-Identifier: Apache-2.0
"""What is installed, what importing costs, the public names, and the guards of the linked folders.

The guards: a checkout without links does not build; the linked folders cannot be imported under a second name;
coverage and pyright look at their real names.
"""

from __future__ import annotations

import importlib
import keyword
import os
import pkgutil
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import processor_time_of_children
from trt_headers import HEADERS, build_library, skip_what_cannot_be_built, version_of

import linfdeploy
from linfdeploy.cli import COMMANDS
from linfdeploy.engines.bundle.sources import plugin_sources
from linfdeploy.engines.custom_ops.library import library
from linfdeploy.engines.trt.library import read_library

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
LINKED = ["training", "verify", "plugins_trt"]
HEAVY = {"cuda", "onnx", "onnxruntime", "scipy", "sklearn", "tensorrt", "torch"}
HELP_SECONDS = 0.3

PUBLIC = {
    "linfdeploy": ["__version__"],
    "linfdeploy.cli": ["main"],
    "linfdeploy.engines": [],
    "linfdeploy.engines.bundle": [],
    "linfdeploy.engines.custom_ops": [],
    "linfdeploy.engines.trt": [],
    "linfdeploy.kernels": [
        *("linf_dist", "linf_dist_argmax", "linf_dist_bounds", "linf_dist_conv", "lp_dist"),
        *("sort_dist", "sort_dist_argtop", "sort_dist_bounds"),
    ],
    "linfdeploy.kernels.cuda": [],
    "linfdeploy.kernels.torch": [],
    "linfdeploy.nets": [],
    "linfdeploy.onnx": [],
    "linfdeploy.onnx.passes": [],
    "linfdeploy.plugins_trt": ["PLUGIN_NAMESPACE", "PLUGIN_VERSION"],
    "linfdeploy.report": ["ReportPaths", "write_report"],
    "linfdeploy.training": [],
    "linfdeploy.training.data": ["Dataset", "Split", "load_dataset"],
    "linfdeploy.training.importers": [],
    "linfdeploy.verify": [],
    "linfdeploy.verify.attacks": [
        *("ATTACKS", "AttackPlan", "AttackResult", "Attempt", "Twin", "Victim", "run_attack"),
    ],
}


def _tool(name: str) -> str:
    """A program of this environment, or of the system."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert found, f"{name} is not installed: pip install 'linfdeploy[dev]'"
    return found


def _run(*command: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, **options)


def _configuration() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def _sources(pattern: str) -> set[str]:
    """Files of the package in the tree, links followed, by their place in the package."""
    found = set()
    for folder, _, names in os.walk(ROOT / "linfdeploy", followlinks=True):
        found |= {str((Path(folder) / name).relative_to(ROOT)) for name in names if Path(name).match(pattern)}
    return found


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    path = os.pathsep.join([str(Path(_tool("cmake")).parent), os.environ["PATH"]])
    build: list[str | Path] = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel"]
    arguments: list[str | Path] = ["--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", folder, ROOT]
    done = _run(*build, *arguments, env={**os.environ, "PATH": path})
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (built,) = folder.glob("*.whl")
    return zipfile.ZipFile(built)


def test_wheel_has_one_top_level_name(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert tops == {"linfdeploy", f"linfdeploy-{linfdeploy.__version__}.dist-info"}


def test_wheel_has_every_module(wheel: zipfile.ZipFile) -> None:
    assert {name for name in wheel.namelist() if name.endswith(".py")} == _sources("*.py")


@pytest.mark.parametrize("part", LINKED)
def test_wheel_holds_linked_folders_as_folders(wheel: zipfile.ZipFile, part: str) -> None:
    entry = wheel.getinfo(f"linfdeploy/{part}/__init__.py")
    kind = entry.external_attr >> 28
    assert kind in {0, 0o10}, "not a regular file"
    assert wheel.read(entry) == (ROOT / part / "__init__.py").read_bytes()


@pytest.mark.parametrize(
    "pattern", ["*.toml", "*.html", "*.css", "*.json", "*.md", "py.typed", "*.pyi", "*.cu", "*.cuh"]
)
def test_wheel_has_the_data(wheel: zipfile.ZipFile, pattern: str) -> None:
    shipped = {name for name in wheel.namelist() if name.startswith("linfdeploy/") and Path(name).match(pattern)}
    assert shipped == _sources(pattern)
    assert shipped


def test_wheel_has_the_shared_headers_and_the_native_modules(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    headers = {name for name in _sources("*.h") if "/include/linf/" in name or "/kernels/cuda/" in name}
    assert {"linfdeploy/kernels/include/linf/linf_dist.h", "linfdeploy/kernels/include/linf/lp_dist.h"} <= headers
    assert headers <= set(names)
    for module in ("_cpu", "_cuda"):
        assert (
            len([name for name in names if re.fullmatch(rf"linfdeploy/kernels/{module}\..*(so|pyd)", name)]) == 1
        )


def test_wheel_has_the_custom_op_library_where_it_is_looked_for(wheel: zipfile.ZipFile) -> None:
    place = "linfdeploy/engines/custom_ops/"
    found = {name for name in wheel.namelist() if name.startswith(place) and not name.endswith(".py")}
    # Built or not, by whether there was ONNX Runtime's header: the same for this wheel and this installation.
    assert found == ({f"{place}lib/{library().name}"} if library().is_file() else set())


def test_wheel_has_what_the_tensorrt_plugins_are_compiled_from(wheel: zipfile.ZipFile) -> None:
    place = "linfdeploy/plugins_trt/"
    sources = {name for pattern in ("*.cpp", "*.h", "CMakeLists.txt") for name in _sources(pattern)}
    sources = {name for name in sources if name.startswith(place)}
    assert {f"{place}library.cpp", f"{place}plugin.h", f"{place}conformance/main.cpp"} < sources
    names = {name for name in wheel.namelist() if not name.endswith(".py")}
    assert {name for name in names if name.startswith(place)} == sources
    natives = {name for name in names - sources if Path(name).suffix == ".cpp" or "CMakeLists" in name}
    assert natives == {"linfdeploy/kernels/cuda/linf_dist_launcher.cpp"}


def test_wheel_has_nothing_else(wheel: zipfile.ZipFile) -> None:
    unwanted = re.compile(r"\.pyc$|\.map$|__pycache__|/tests?/|\.part$|/build/")
    assert [name for name in wheel.namelist() if unwanted.search(name)] == []


def test_tensorrt_plugins_are_built_from_the_wheel(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    """By hand, with CMake's own defaults for where the kernels lie."""
    skip_what_cannot_be_built()
    wheel.extractall(tmp_path / "installed")
    sources = tmp_path / "installed" / "linfdeploy" / "plugins_trt"
    built = read_library(build_library(sources, tmp_path / "build", HEADERS[-1]))
    assert (built.architectures, built.headers, built.static) == (("87",), version_of(HEADERS[-1]), False)
    assert str(ROOT) not in (tmp_path / "build" / "CMakeCache.txt").read_text()


@pytest.mark.parametrize("folder", ["plugins_trt", "linfdeploy/plugins_trt"])
def test_tensorrt_plugins_find_the_kernels_in_the_tree(folder: str, tmp_path: Path) -> None:
    """Through the link as well as without."""
    skip_what_cannot_be_built()
    compiler = f"-DCMAKE_CUDA_COMPILER={shutil.which('nvcc')}", "-DCMAKE_CUDA_ARCHITECTURES=87"
    done = _run(_tool("cmake"), "-S", ROOT / folder, "-B", tmp_path, *compiler, f"-DTENSORRT_INCLUDE={HEADERS[0]}")
    assert done.returncode == 0, done.stderr
    (found,) = re.findall(r"^KERNELS:PATH=(.*)$", (tmp_path / "CMakeCache.txt").read_text(), re.MULTILINE)
    assert Path(found).samefile(ROOT / "linfdeploy" / "kernels")


def test_wheel_holds_the_sources_of_a_bundle(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    wheel.extractall(tmp_path)
    assert plugin_sources(tmp_path / "linfdeploy") == plugin_sources()


def test_wheel_runs_without_the_tree(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    wheel.extractall(tmp_path)
    # -S leaves out the .pth files, and with them an editable install.
    script = (
        "import sys\n"
        f"sys.path[:0] = [{str(tmp_path)!r}, {str(Path(np.__file__).parents[1])!r}]\n"
        "import numpy, linfdeploy.training, linfdeploy.verify, linfdeploy.plugins_trt\n"
        "from linfdeploy.kernels import linf_dist\n"
        "y = linf_dist(numpy.float32([[0, 3]]), numpy.float32([[1, 1], [0, 2]]))\n"
        "print(linfdeploy.training.__file__, y.tolist())\n"
    )
    done = _run(sys.executable, "-I", "-S", "-c", script, cwd=tmp_path)
    assert done.stdout == f"{tmp_path}/linfdeploy/training/__init__.py [[2.0, 1.0]]\n", done.stderr


@pytest.mark.parametrize("part", LINKED)
def test_checkout_without_links_does_not_build(part: str, tmp_path: Path) -> None:
    shutil.copy(ROOT / "CMakeLists.txt", tmp_path)
    for name in LINKED:
        (tmp_path / "linfdeploy" / name).mkdir(parents=True)
    (tmp_path / "linfdeploy" / part).rmdir()
    (tmp_path / "linfdeploy" / part).write_text(f"../{part}")
    done = _run(_tool("cmake"), "-S", tmp_path, "-B", tmp_path / "build", "-DSKBUILD=1")
    assert done.returncode != 0
    text = " ".join(done.stderr.split())
    assert f"linfdeploy/{part} is not a folder: this checkout lost its symbolic links." in text
    assert "git clone -c core.symlinks=true" in text


@pytest.mark.parametrize("part", LINKED)
def test_linked_folder_has_one_name(part: str) -> None:
    done = _run(sys.executable, "-c", f"import {part}", cwd=ROOT)
    last = done.stderr.strip().splitlines()[-1]
    assert last == f"ImportError: this folder is installed as linfdeploy.{part}: import it under that name"
    assert (ROOT / "linfdeploy" / part).is_symlink()
    assert (ROOT / "linfdeploy" / part).readlink() == Path("..") / part


def test_coverage_and_pyright_look_at_real_names() -> None:
    tool = _configuration()["tool"]
    assert tool["coverage"]["run"]["source"] == ["linfdeploy", *LINKED]
    assert tool["pyright"]["include"] == ["linfdeploy", *LINKED, "tests"]
    assert {f"linfdeploy/{part}" for part in LINKED} <= set(tool["pyright"]["exclude"])
    # mypy follows links: listing the real names would report twice.
    assert tool["mypy"]["files"] == ["linfdeploy", "tests"]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        *[(f"import {part}", f"import linfdeploy.{part}: the top-level name is a second copy") for part in LINKED],
        *[(f"from {part} import x", f"import linfdeploy.{part}: the top-level name") for part in LINKED],
        ("from .recipe import x", "TID252"),
    ],
)
def test_ruff_bans_second_names_and_relative_imports(source: str, expected: str) -> None:
    command = [_tool("ruff"), "check", "--select", "TID", "--no-cache", "--output-format", "concise"]
    done = _run(*command, "--stdin-filename", ROOT / "linfdeploy" / "example.py", "-", input=f"{source}\n")
    assert done.returncode == 1
    assert expected in done.stdout


def _loaded_by(module: str) -> set[str]:
    script = f"import sys, {module}; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = _run(sys.executable, "-c", script)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize("module", ["linfdeploy", "linfdeploy.errors", "linfdeploy.files", "linfdeploy.kernels"])
def test_light_modules(module: str) -> None:
    assert not HEAVY & _loaded_by(module)


COMMAND_MODULES = [f"linfdeploy.cli.{command}{'_' * keyword.iskeyword(command)}" for command in COMMANDS]


@pytest.mark.parametrize("module", ["linfdeploy.cli", *COMMAND_MODULES])
def test_commands_import_nothing_heavy(module: str) -> None:
    assert not (HEAVY | {"numpy"}) & _loaded_by(module)


def test_help_names_every_command_at_once() -> None:
    seconds = []
    for _ in range(5):
        start = processor_time_of_children()
        done = _run(_tool("linfdeploy"), "--help")
        seconds.append(processor_time_of_children() - start)
        assert done.returncode == 0, done.stderr
        commands = done.stdout.split("Commands:")[1].splitlines()
        assert [line.split()[0] for line in commands if line.strip()] == list(COMMANDS)
    assert min(seconds) < HELP_SECONDS


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    done = _run(sys.executable, "-m", "linfdeploy", command, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"Usage: linfdeploy {command}") or f" {command} " in done.stdout.splitlines()[0]


def test_version() -> None:
    assert _run(_tool("linfdeploy"), "--version").stdout == f"linfdeploy, version {linfdeploy.__version__}\n"
    assert _configuration()["project"]["version"] == linfdeploy.__version__


@pytest.mark.parametrize("arguments", [["nonsense"], ["--nonsense"]])
def test_wrong_use_is_one_line_and_exit_code_2(arguments: list[str]) -> None:
    done = _run(_tool("linfdeploy"), *arguments)
    assert done.returncode == 2
    assert re.fullmatch(r"error: (there is no command|No such option).*nonsense.*\n", done.stderr)


def _modules() -> list[str]:
    found = [info.name for info in pkgutil.walk_packages(linfdeploy.__path__, "linfdeploy.")]
    return ["linfdeploy", *[name for name in found if name != "linfdeploy.__main__"]]


def test_packages_are_pinned() -> None:
    packages = {name for name in _modules() if hasattr(importlib.import_module(name), "__path__")}
    assert packages == set(PUBLIC)


@pytest.mark.parametrize("package", PUBLIC)
def test_public_names(package: str) -> None:
    assert sorted(getattr(importlib.import_module(package), "__all__", [])) == PUBLIC[package]


@pytest.mark.parametrize("module", _modules())
def test_all_is_true(module: str) -> None:
    loaded = importlib.import_module(module)
    names = getattr(loaded, "__all__", [])
    assert len(set(names)) == len(names)
    assert [name for name in names if not hasattr(loaded, name)] == []


def test_every_source_names_its_license() -> None:
    line = "SPDX-License-Identifier: Apache-2.0"
    folders = ["benchmarks", "linfdeploy", *LINKED, "tests"]
    suffixes = {".py", ".cpp", ".h", ".cu", ".cuh"}
    sources = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in suffixes]
    assert len(sources) > 50
    assert [str(path) for path in sources if line not in path.read_text(encoding="utf-8").split("\n", 1)[0]] == []


def test_hooks_use_the_pinned_tools() -> None:
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    dev = _configuration()["project"]["optional-dependencies"]["dev"]
    for pin in re.findall(r"\"((?:ruff|clang-format)==[^\"]+)\"", hooks):
        assert pin in dev
    assert len(re.findall(r"\"(?:ruff|clang-format)==", hooks)) == 3
