# SPDX-License-Identifier: Apache-2.0
"""Builds for the emulator, each made once for all tests of this folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from emulated import Library, cpu_objects
from emulator_builds import Builds, builds_in


def pytest_runtest_setup(item: pytest.Item) -> None:
    if not item.get_closest_marker("gpu") and not shutil.which("g++"):
        pytest.skip("there is no g++ to compile device code with")


@pytest.fixture(scope="session")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Builds:
    """The toy kernels, under each sanitizer."""
    return builds_in(tmp_path_factory, Path(__file__).parent / "toys")


@pytest.fixture(scope="session")
def cpu_kernels(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The CPU kernels that the emulated ones are compared with."""
    return cpu_objects(tmp_path_factory.mktemp("cpu"))


@pytest.fixture(scope="session")
def library(builds: Builds) -> Library:
    """The kernels as a shared library."""
    return Library(builds("").library())
