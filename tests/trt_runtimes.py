# SPDX-License-Identifier: Apache-2.0
"""Real runtimes of TensorRT, each in a folder of its own: two cannot be loaded in one process."""

from __future__ import annotations

import sys
from pathlib import Path

__all__ = ["runtime"]

FOLDER = Path(sys.prefix) / "tensorrt"


def runtime(name_prefix: str) -> Path | None:
    """The folder of a runtime, such as `lean-10.16.1.11`, by how its name begins; None where there is none."""
    found = [folder for folder in sorted(FOLDER.glob(f"{name_prefix}*")) if folder.suffix != ".part"]
    return found[-1] if found else None
