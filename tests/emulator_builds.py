# SPDX-License-Identifier: Apache-2.0
"""Builds of device code for the emulator, one for each sanitizer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from emulated import Emulated, run

__all__ = ["Builds", "builds_in"]

Builds = Callable[[str], Emulated]

# One build for each sanitizer. The one with addresses contracts a * b + c, as nvcc does where it likes to.
FLAGS = {"": ("-O2",), "address,undefined": ("-Og", "-ffp-contract=fast"), "thread": ("-O1",)}


def _works(sanitizer: str, folder: Path) -> bool:
    (folder / "probe.cpp").write_text("int main() {}\n")
    probe = folder / "probe"
    linked = run("g++", f"-fsanitize={sanitizer}", "-pthread", folder / "probe.cpp", "-o", probe)
    return linked.returncode == 0 and run(probe).returncode == 0


def builds_in(factory: pytest.TempPathFactory, device: Path | None = None) -> Builds:
    """Makes builds of the kernels, or of those of a folder, when they are first asked for."""
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
