# SPDX-License-Identifier: Apache-2.0
"""Files that the commands read, made once."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from small_nets import NET, checkpoint, exported, random_images

from linfdeploy.engines.build import engine_from_onnx


@dataclass(frozen=True)
class Files:
    """A checkpoint, its model, its engine with manifest, and a data set that fits, in a folder of their own."""

    folder: Path
    checkpoint: Path
    model: Path
    engine: Path
    data: Path


def files_in(folder: Path) -> Files:
    return Files(folder, *(folder / name for name in ("ckpt.pt", "model.onnx", "model.engine", "data.npz")))


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Files:
    made = files_in(tmp_path_factory.mktemp("made"))
    checkpoint(made.checkpoint)
    made.model.write_bytes(exported())
    engine_from_onnx(made.model, made.engine, None, {"device": "cpu", "threads": 1, "custom_ops": "auto"})
    images = random_images(40)
    np.savez(made.data, images=images, labels=np.arange(40) % NET.spec.classes)
    return made


@pytest.fixture
def files(made: Files, tmp_path: Path) -> Files:
    """A copy that a test may spoil."""
    folder = tmp_path / "files"
    shutil.copytree(made.folder, folder)
    return files_in(folder)
