# SPDX-License-Identifier: Apache-2.0
"""A device without Python: verify_golden, a plan, golden arrays and a library of plugins."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from mock_nvinfer import Plan

IMAGES = 20


@dataclass
class Device:
    """Where the program runs: a plan, a golden folder and a library of plugins.

    Attributes:
        program: verify_golden, linked with the mock.
        folder: Where plan and golden folder are written.
        plugin: The library of plugins.
        plan: What the golden arrays are the answers of.
        images: (N, C, H, W) uint8.
    """

    program: Path
    folder: Path
    plugin: Path
    plan: Plan
    images: Any = field(init=False)

    def __post_init__(self) -> None:
        self.images = np.random.default_rng(7).integers(0, 256, (IMAGES, *self.plan.image), np.uint8)
        self.golden.mkdir()
        np.save(self.golden / "images.npy", self.images)
        for name, values in self.plan.answers(self.images).items():
            np.save(self.golden / f"{name}.npy", values)
        self.write(self.plan)

    @property
    def golden(self) -> Path:
        return self.folder / "golden"

    @property
    def path(self) -> Path:
        return self.folder / "net.plan"

    @property
    def release(self) -> str:
        return f"{self.plan.version // 10000}.{self.plan.version // 100 % 100}.{self.plan.version % 100}"

    def write(self, plan: Plan) -> None:
        self.path.write_bytes(plan.written())

    def change(self, **fields: Any) -> None:
        """Writes another plan; the golden folder stays."""
        self.write(replace(self.plan, **fields))

    def head(self, least: int = 1, most: int = 8, batch: int = 8) -> str:
        return (
            f"{self.path}: TensorRT {self.release}, compute capability 8.7, batches of {least} to {most}, "
            f"run with {batch}\n"
        )

    def run(self, *options: str | Path, faults: str = "", plugin: bool = True) -> tuple[int, str, str]:
        given = ("--plugin", self.plugin) if plugin else ()
        return self.call(self.path, self.golden, *given, *options, faults=faults)

    def call(self, *arguments: str | Path, faults: str = "") -> tuple[int, str, str]:
        environment = {**os.environ, "MOCK_NVINFER": faults}
        done = subprocess.run(
            [self.program, *arguments], capture_output=True, text=True, check=False, env=environment, timeout=60
        )
        return done.returncode, done.stdout, done.stderr

    def refused(self, *options: str | Path, faults: str = "", plugin: bool = True) -> str:
        """The line with which the program ends."""
        code, _, errors = self.run(*options, faults=faults, plugin=plugin)
        assert code == 2, errors
        assert errors.startswith("verify_golden: ")
        assert errors.count("\n") == 1, errors
        return errors.removeprefix("verify_golden: ").rstrip("\n")


def numbers(*shape: int, least: int, most: int) -> Any:
    """Weights of an exact graph: multiples of 2^-12."""
    return np.float32(np.random.default_rng(shape).integers(least * 4096, most * 4096, shape)) / np.float32(4096)
