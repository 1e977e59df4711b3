# SPDX-License-Identifier: Apache-2.0
"""What the tests of this folder need, built once for all of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import mock_nvinfer
import pytest
from emulated import Emulated
from golden_device import Device, numbers
from mock_nvinfer import Plan
from trt_headers import HEADERS, PLUGINS, cuda_headers, version_of

Builds = Callable[[str], Emulated]


def flags(headers: Path, *others: str) -> tuple[str, ...]:
    return (*others, f"-isystem{headers}", f"-isystem{cuda_headers()}")


@pytest.fixture(scope="session")
def emulated_plugins(builds: Builds, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Emulated]:
    """Makes the plugins' library, `libplugin.so`, with kernels on the emulator and the headers of a release."""
    runtime = Path(__file__).parent / "emulated_runtime.cpp"

    @cache
    def made(headers: Path) -> Emulated:
        kernels = builds("address,undefined")
        kernels.compiled(kernels.launchers())
        folder = tmp_path_factory.mktemp("plugin")
        build = Emulated(folder, sanitize=kernels.sanitize, flags=(*kernels.flags, *flags(headers)))
        build.adopt(kernels)
        build.library("libplugin.so", [*sorted(PLUGINS.glob("*.cpp")), runtime])
        return build

    return made


@pytest.fixture(scope="session")
def plugin(emulated_plugins: Callable[[Path], Emulated]) -> Path:
    """The library that runs with verify_golden; one for all releases, as on a device."""
    return emulated_plugins(HEADERS[0]).folder / "libplugin.so"


@pytest.fixture(scope="session", params=HEADERS, ids=[version_of(folder) for folder in HEADERS])
def headers(request: pytest.FixtureRequest) -> Path:
    folder: Path = request.param
    return folder


@pytest.fixture(scope="session")
def runner(headers: Path, tmp_path_factory: pytest.TempPathFactory) -> Emulated:
    """Compiles verify_golden with these headers."""
    return mock_nvinfer.runner_build(tmp_path_factory.mktemp("runner"), headers, *flags(headers))


@pytest.fixture(scope="session")
def program(runner: Emulated) -> Path:
    return mock_nvinfer.program(runner)


@pytest.fixture
def device(program: Path, plugin: Path, headers: Path, tmp_path: Path) -> Device:
    major, minor, patch = mock_nvinfer.release_of(headers)
    first = numbers(12, 16, least=0, most=255), numbers(12, least=-20, most=20)
    second = numbers(10, 12, least=180, most=260), numbers(10, least=-8, most=8)
    plan = Plan(major * 10000 + minor * 100 + patch, [first, second], (1, 4, 4))
    return Device(program, tmp_path, plugin, plan)
