# SPDX-License-Identifier: Apache-2.0
"""Real runtimes of TensorRT, each in a folder of its own: two cannot be loaded in one process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

__all__ = ["RUNTIMES", "module_of", "needs_runtime", "run_with", "runtime"]

FOLDER = Path(sys.prefix) / "tensorrt"
RUNTIMES = ("lean-10", "lean-11", "rtx-1")
"""Those that have a registry of plugins; rtx has a parser and a builder too. `full-10` and `full-11` are bindings
without their libraries."""


def runtime(name_prefix: str) -> Path | None:
    """The folder of a runtime, such as `lean-10.16.1.11`, by how its name begins; None where there is none."""
    found = [folder for folder in sorted(FOLDER.glob(f"{name_prefix}*")) if folder.suffix != ".part"]
    return found[-1] if found else None


def needs_runtime(name_prefix: str) -> pytest.MarkDecorator:
    """Skips a test where that runtime is not installed."""
    why = f"there is no runtime {name_prefix} of TensorRT: make .venv/tensorrt.stamp, on x86-64 Linux"
    return pytest.mark.skipif(runtime(name_prefix) is None, reason=why)


def module_of(folder: Path) -> str:
    """The name of its Python module."""
    return f"tensorrt_{folder.name.partition('-')[0]}_bindings"


def run_with(folder: Path, script: str | Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs Python's text, or a file, in a process that imports the runtime's module.

    The runtime's libraries need no LD_LIBRARY_PATH: its module imports the package beside it, which opens them.
    """
    program = [str(script)] if isinstance(script, Path) else ["-c", script]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run(
        [sys.executable, *program, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env=environment,
        errors="replace",
    )
