# SPDX-License-Identifier: Apache-2.0
"""Small libraries that say of themselves what the TensorRT plugins' library says, and hold no plugins."""

from __future__ import annotations

import subprocess
import tempfile
from functools import cache
from pathlib import Path

__all__ = ["fake_library", "says"]

PLACE = b"x" * 600


def says(architectures: str = "87", tensorrt: str = "10.3", registration: str = "none") -> str:
    return f"linfdeploy-plugins/1 architectures={architectures} tensorrt={tensorrt} registration={registration}"


def fake_library(path: Path, code: str = "", text: str | None = None) -> Path:
    """A library with some C functions, and with a text in its bytes."""
    words = (says() if text is None else text).encode()
    path.write_bytes(_compiled(code).replace(PLACE, words.ljust(len(PLACE), b"\0")))
    return path


@cache
def _compiled(code: str) -> bytes:
    source = f'extern "C" {{ __attribute__((used)) const char made_for[] = "{PLACE.decode()}"; {code} }}\n'
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "made.so"
        command = ["g++", "-shared", "-fPIC", "-x", "c++", "-", "-o", str(made)]
        subprocess.run(command, input=source, text=True, check=True)
        return made.read_bytes()
