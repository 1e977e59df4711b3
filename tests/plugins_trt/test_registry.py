# SPDX-License-Identifier: Apache-2.0
"""The plugins in the registries of real runtimes of TensorRT, which need no GPU for that."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from trt_libraries import fake_library
from trt_runtimes import RUNTIMES, module_of, needs_runtime, run_with, runtime

from linfdeploy.engines.trt.compiler import NAME
from linfdeploy.engines.trt.library import PLUGINS, PluginLibrary

PROBE = Path(__file__).with_name("registry_probe.py")
FIELDS = {
    "LinfDist": [],
    "LinfDistConv": ["kernel_shape", "strides", "pads", "dilations", "group", "auto_pad"],
}


@pytest.fixture(params=[pytest.param(name, marks=needs_runtime(name)) for name in RUNTIMES])
def folder(request: pytest.FixtureRequest) -> Path:
    """A runtime."""
    found = runtime(request.param)
    assert found
    return found


def _probed(folder: Path, *libraries: Path) -> tuple[dict[str, Any], str]:
    """What the registry has after loading the libraries, and what was printed meanwhile."""
    done = run_with(folder, PROBE, module_of(folder), *libraries)
    assert done.returncode == 0, done.stdout + done.stderr
    *_, last = done.stdout.splitlines()
    return json.loads(last), done.stderr


def test_the_plugins_are_found_and_made(folder: Path, each_plugin_library: PluginLibrary) -> None:
    """A library of the headers of either release, in each registry."""
    found, printed = _probed(folder, each_plugin_library.path)
    assert found["answers"] == ["loaded"]
    assert folder.name.endswith(found["version"])
    for name in PLUGINS:
        identity = [name, "1", "linfdeploy"]
        made = found[":".join(identity)]
        assert made.pop("fields") == FIELDS[name]
        assert made == {"creator": identity, "plugin": identity, "from nothing serialized": None}
        assert f"[linfdeploy] {name}: an engine's record of format 0 with 0 fields; expected format 1" in printed


def test_another_version_or_namespace_is_not_found(folder: Path, plugin_library: PluginLibrary) -> None:
    found, _ = _probed(folder, plugin_library.path)
    assert found["LinfDist:2:linfdeploy"] is None
    assert found["LinfDist:1:"] is None


def test_the_same_library_is_loaded_once(folder: Path, plugin_library: PluginLibrary, tmp_path: Path) -> None:
    copy = Path(shutil.copy(plugin_library.path, tmp_path / "copy.so"))
    found, _ = _probed(folder, plugin_library.path, plugin_library.path, copy)
    assert found["answers"] == ["loaded"] * 3


def test_another_library_in_one_process_is_refused(
    folder: Path, plugin_library: PluginLibrary, tmp_path: Path
) -> None:
    other = tmp_path / "other.so"
    other.write_bytes(plugin_library.path.read_bytes() + b"\0")
    found, _ = _probed(folder, plugin_library.path, other)
    assert found["answers"] == [
        "loaded",
        f"{other} cannot be loaded: this process has the plugins of {plugin_library.path}; start another one",
    ]


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("", "it does not export getCreators and setLoggerFinder; expected the TensorRT plugins' library, {name}"),
        (
            "void setLoggerFinder(void*) {}",
            "it does not export getCreators; expected the TensorRT plugins' library, {name}",
        ),
        ("void absent(); void getCreators() { absent(); }", "{path}: undefined symbol: absent"),
        (
            "void** getCreators(int* n) { *n = 0; return 0; } void setLoggerFinder(void*) {}",
            "it exports what is expected, so TensorRT's log says why",
        ),
    ],
    ids=["no entry points", "one entry point", "a missing symbol", "no plugins"],
)
def test_a_library_that_tensorrt_does_not_take_is_named(folder: Path, tmp_path: Path, code: str, why: str) -> None:
    """TensorRT answers all of these with nothing."""
    path = fake_library(tmp_path / "fake.so", code)
    found, _ = _probed(folder, path)
    assert found["answers"] == [
        f"TensorRT {found['version']} does not load {path}: {why.format(path=path, name=NAME)}"
    ]
