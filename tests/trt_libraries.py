# SPDX-License-Identifier: Apache-2.0
"""Small libraries that say of themselves what the TensorRT plugins' library says, and hold no plugins."""

from __future__ import annotations

import subprocess
from pathlib import Path

__all__ = ["fake_library", "says"]


def says(architectures: str = "87", tensorrt: str = "10.3", registration: str = "none") -> str:
    return f"linfdeploy-plugins/1 architectures={architectures} tensorrt={tensorrt} registration={registration}"


def fake_library(path: Path, code: str = "", text: str | None = None) -> Path:
    """A library with some C functions, and with a text in its bytes."""
    words = says() if text is None else text
    source = f'extern "C" {{ __attribute__((used)) const char made_for[] = "{words}"; {code} }}\n'
    command = ["g++", "-shared", "-fPIC", "-x", "c++", "-", "-o", str(path)]
    subprocess.run(command, input=source, text=True, check=True)
    return path
