# SPDX-License-Identifier: Apache-2.0
"""The plugins in the registry of a real runtime of TensorRT, which needs no GPU for that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

WHY = "there is no runtime of TensorRT: pip install --no-deps tensorrt_lean_cu13_libs tensorrt_lean_cu13_bindings"
trt: Any = pytest.importorskip("tensorrt_lean_bindings", reason=WHY)


@pytest.fixture(scope="module")
def registry(library: Path) -> Any:
    found = trt.get_plugin_registry()
    assert found.load_library(str(library)) is not None
    return found


@pytest.mark.parametrize("name", ["LinfDist", "LinfDistConv"])
def test_it_finds_and_makes_the_plugin(registry: Any, name: str) -> None:
    creator = registry.get_creator(name, "1", "linfdeploy")
    assert (creator.name, creator.plugin_version, creator.plugin_namespace) == (name, "1", "linfdeploy")
    plugin = creator.create_plugin("layer", trt.PluginFieldCollection([]), trt.TensorRTPhase.BUILD)
    core = plugin.get_capability_interface(trt.PluginCapabilityType.CORE)
    assert (core.plugin_name, core.plugin_namespace) == (name, "linfdeploy")


@pytest.mark.parametrize("name", ["LinfDist", "LinfDistConv"])
def test_an_engine_without_the_plugins_record_is_refused(
    registry: Any, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    creator = registry.get_creator(name, "1", "linfdeploy")
    empty = trt.PluginFieldCollection([])
    assert creator.create_plugin("layer", empty, trt.TensorRTPhase.RUNTIME) is None
    assert "build the engine again with this plugin" in capfd.readouterr().err


@pytest.mark.parametrize(("version", "namespace"), [("2", "linfdeploy"), ("1", "")])
def test_another_version_or_namespace_is_not_found(registry: Any, version: str, namespace: str) -> None:
    assert registry.get_creator("LinfDist", version, namespace) is None
