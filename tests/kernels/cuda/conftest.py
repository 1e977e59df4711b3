# SPDX-License-Identifier: Apache-2.0
"""Builds for the emulator, each made once for all tests of this folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from emulated import Emulated, Library, cpu_objects, run

Builds = Callable[[str], Emulated]

# One build for each sanitizer. The one with addresses contracts a * b + c, as nvcc does where it likes to.
FLAGS = {"": ("-O2",), "address,undefined": ("-Og", "-ffp-contract=fast"), "thread": ("-O1",)}


@pytest.fixture(scope="session", autouse=True)
def _compiler() -> None:
    if not shutil.which("g++"):
        pytest.skip("there is no g++ to compile device code with")


def _works(sanitizer: str, folder: Path) -> bool:
    (folder / "probe.cpp").write_text("int main() {}\n")
    probe = folder / "probe"
    linked = run("g++", f"-fsanitize={sanitizer}", "-pthread", folder / "probe.cpp", "-o", probe)
    return linked.returncode == 0 and run(probe).returncode == 0


def _builds(factory: pytest.TempPathFactory, device: Path | None) -> Builds:
    made: dict[str, Emulated] = {}

    def build(sanitizer: str) -> Emulated:
        if sanitizer not in made:
            folder = factory.mktemp("emulated")
            if sanitizer and not _works(sanitizer, folder):
                pytest.skip(f"g++ has no working {sanitizer} sanitizer here")
            made[sanitizer] = Emulated(folder, sanitize=sanitizer, flags=FLAGS[sanitizer])
            if device:
                made[sanitizer].device = device
        return made[sanitizer]

    return build


@pytest.fixture(scope="session")
def builds(tmp_path_factory: pytest.TempPathFactory) -> Builds:
    """The kernels, under each sanitizer."""
    return _builds(tmp_path_factory, None)


@pytest.fixture(scope="session")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Builds:
    """The toy kernels, under each sanitizer."""
    return _builds(tmp_path_factory, Path(__file__).parent / "toys")


@pytest.fixture(scope="session")
def cpu_kernels(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The CPU kernels that the emulated ones are compared with."""
    return cpu_objects(tmp_path_factory.mktemp("cpu"))


@pytest.fixture(scope="session")
def library(builds: Builds) -> Library:
    """The kernels as a shared library."""
    return Library(builds("").library())
