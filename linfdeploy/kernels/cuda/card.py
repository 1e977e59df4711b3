# SPDX-License-Identifier: Apache-2.0
"""One card's kernels: each source is compiled and loaded when the first kernel of it is started."""

from __future__ import annotations

import threading
from typing import Any

from linfdeploy.errors import KernelError
from linfdeploy.kernels import _cuda
from linfdeploy.kernels.cuda.driver import Driver

__all__ = ["FILES", "Card"]

ENTRIES: list[tuple[str, str]] = _cuda.entries()
"""The name of each kernel and the source it is in; native code knows kernels by their places here."""

FILES: list[str] = list(dict.fromkeys(file for _, file in ENTRIES))
"""The sources that have kernels, without `.cu`."""


class Card:
    """A card and the kernels that were loaded onto it.

    Args:
        driver: Loads kernels and starts them.
        multiprocessors: That the card has; launchers choose between tiles by them.
    """

    def __init__(self, driver: Driver, multiprocessors: int) -> None:
        self._driver = driver
        self._native = _cuda.Card(driver.launch, multiprocessors)
        self._loaded: set[str] = set()
        self._lock = threading.Lock()

    def run(self, op: str, stream: int, sizes: tuple[int, int, int], *arguments: Any) -> None:
        """Starts an op's kernels, in order after what the stream has; does not wait for them.

        Args:
            op: A launcher of the native module.
            stream: The stream's handle.
            sizes: The launcher's first argument.
            arguments: Its other arguments: addresses of device memory, a null one as 0, and numbers.

        Raises:
            KernelError: A kernel could not be compiled, loaded or started.
            MissingExtraError: The compiler is not installed.
        """
        self._driver.bind()
        launcher = getattr(self._native, op)
        # A launcher that met a kernel that is not loaded runs again from its beginning, which is sound as it only
        # overwrites results.
        while (failure := launcher(stream, sizes, *arguments)) is not None:
            code, entry = failure
            name, file = ENTRIES[entry]
            if code != _cuda.NOT_LOADED:
                raise KernelError(
                    f"{op}: the driver does not start {name} for sizes {sizes}: {self._driver.error_name(code)}; "
                    "where an earlier kernel is at fault, CUDA_LAUNCH_BLOCKING=1 shows it"
                )
            self._load(file)

    def prepare(self) -> None:
        """Compiles and loads all kernels, so that none has to be when it is started.

        Raises:
            KernelError: One could not be compiled or loaded.
            MissingExtraError: The compiler is not installed.
        """
        self._driver.bind()
        for file in FILES:
            self._load(file)

    def _load(self, file: str) -> None:
        with self._lock:
            if file in self._loaded:
                return
            entries = {entry: name for entry, (name, source) in enumerate(ENTRIES) if source == file}
            handles = self._driver.load(file, list(entries.values()))
            for entry, handle in zip(entries, handles, strict=True):
                assert handle, f"{ENTRIES[entry][0]} has no handle"
                self._native.load(entry, handle)
            self._loaded.add(file)
