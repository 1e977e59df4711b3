# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels where there is no GPU: on the emulator, in the place of a card."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
from emulated import Emulated, Library

from linfdeploy.kernels.cuda.card import Card
from linfdeploy.kernels.torch import backends
from linfdeploy.kernels.torch.cuda import CudaBackend

MULTIPROCESSORS = 4


class EmulatedDriver:
    """Starts kernels on the emulator, which has no streams: each is done when it was started."""

    def __init__(self, library: Library) -> None:
        self.launch = library.launch_kernel()
        self._library = library

    def load(self, file: str, names: Sequence[str]) -> list[int]:
        return [self._library.function(name) or 0 for name in names]

    def bind(self) -> None:
        pass

    def error_name(self, code: int) -> str:
        return f"EMULATOR_ERROR_{code}"


class EmulatedBackend(CudaBackend):
    """The CUDA backend, for tensors on the CPU."""

    @contextmanager
    def _stream(self) -> Iterator[int]:
        yield 0


@pytest.fixture(scope="session")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Library:
    if not shutil.which("g++"):
        pytest.skip("there is no g++ to compile the emulator with")
    return Library(Emulated(tmp_path_factory.mktemp("emulator"), flags=("-O1",)).library())


@pytest.fixture
def on_emulator(emulator: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """CPU tensors are computed by the CUDA backend and its kernels."""
    card = Card(EmulatedDriver(emulator), MULTIPROCESSORS)
    monkeypatch.setattr(backends, "_CPU", EmulatedBackend(card, 0))
