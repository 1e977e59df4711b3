# SPDX-License-Identifier: Apache-2.0
"""Fixtures that every folder shares."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# Before torch starts its OpenMP threads: spinning while they wait, they cost a busy machine most of the run.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# A shell has what it puts into the background ignore SIGINT, and so would the programs that tests interrupt.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

from emulator_builds import Builds, builds_in
from trt_headers import HEADERS, shared_libraries, skip_what_cannot_be_built, version_of
from work_units import WorkUnits, sorted_by_cost

from linfdeploy.engines.trt.library import PluginLibrary
from linfdeploy.kernels import _cpu

# A test fails for what is computed, never for how busy the machine is.
settings.register_profile("linfdeploy", deadline=None)
settings.load_profile("linfdeploy")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--thorough", action="store_true", help="also run what repeats other tests at length")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> WorkUnits | None:
    """Tests that share builds or other fixtures stay on one worker, unless another way of sharing is asked for."""
    return WorkUnits(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The tests that take longest come first; those that repeat others at length, only when asked for."""
    chosen = [item for item in items if config.getoption("thorough") or not item.get_closest_marker("thorough")]
    config.hook.pytest_deselected(items=list(set(items) - set(chosen)))
    items[:] = sorted_by_cost(chosen)


@pytest.fixture(params=_cpu.available())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each instruction set of this machine in turn; the one that was active comes back afterwards."""
    before = _cpu.active()
    _cpu.use(request.param)
    yield request.param
    _cpu.use(before)


@pytest.fixture(scope="session")
def builds(tmp_path_factory: pytest.TempPathFactory) -> Builds:
    """The CUDA kernels on the emulator, under each sanitizer."""
    return builds_in(tmp_path_factory)


@pytest.fixture(scope="session", params=HEADERS or [Path()], ids=lambda folder: version_of(folder) or "none")
def each_plugin_library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PluginLibrary:
    """The TensorRT plugins' library, built for sm_87 with the headers of each release that there is."""
    skip_what_cannot_be_built()
    return shared_libraries(tmp_path_factory)(request.param)


@pytest.fixture(scope="session")
def plugin_library(tmp_path_factory: pytest.TempPathFactory) -> PluginLibrary:
    """The TensorRT plugins' library, built for sm_87 with the headers of the earliest release that there is."""
    skip_what_cannot_be_built()
    return shared_libraries(tmp_path_factory)(HEADERS[0])
