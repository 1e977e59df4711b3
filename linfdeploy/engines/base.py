# SPDX-License-Identifier: Apache-2.0
"""The one interface that every engine has, and the one that every backend has."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from linfdeploy.errors import EngineError
from linfdeploy.onnx.read import DeployedGraph

__all__ = ["Answers", "Backend", "BuiltEngine", "Engine", "Images", "Logits"]

Images: TypeAlias = npt.NDArray[np.uint8]
Logits: TypeAlias = npt.NDArray[np.float32]
Answers: TypeAlias = Mapping[str, npt.NDArray[np.float32] | npt.NDArray[np.int64]]


class Engine(ABC):
    """Something that classifies uint8 images.

    Attributes:
        input_shape: (C, H, W) of an image.
        classes: Number of logits.
        versions: Of the libraries that compute, for the report.
    """

    input_shape: tuple[int, int, int]
    classes: int
    versions: Mapping[str, str]

    def run(self, images: Images) -> Logits:
        """Returns the logits of a batch.

        Args:
            images: (N, C, H, W) uint8, N >= 1.

        Returns:
            (N, K) float32, in pixels.

        Raises:
            EngineError: The images do not fit, or the backend fails.
        """
        logits: Logits = self.answer(images)["logits"].astype(np.float32, copy=False)
        return logits

    def answer(self, images: Images) -> Answers:
        """Returns every output of the graph: `logits` and, where the graph has them, `label` and `radius`.

        Args:
            images: (N, C, H, W) uint8, N >= 1.

        Raises:
            EngineError: The images do not fit, or the backend fails.
        """
        if images.dtype != np.uint8 or images.shape[1:] != self.input_shape or len(images) < 1:
            raise EngineError(
                f"images are {images.dtype} {images.shape}; "
                f"expected uint8 (N, {', '.join(map(str, self.input_shape))}) with N >= 1"
            )
        answers = self._answer(np.ascontiguousarray(images))
        logits = answers["logits"]
        if logits.shape != (len(images), self.classes) or logits.dtype != np.float32:
            raise EngineError(
                f"the engine returned logits {logits.dtype} {logits.shape}; "
                f"expected float32 ({len(images)}, {self.classes}): build it again"
            )
        return answers

    @abstractmethod
    def _answer(self, images: Images) -> Answers:
        """Computes the outputs of a checked batch."""


@dataclass(frozen=True)
class BuiltEngine:
    """What a backend made of a graph.

    Attributes:
        data: The engine file.
        versions: Of the libraries that built it; `kernel` says how LinfDist runs.
        layers: See `Manifest.layers`.
    """

    data: bytes
    versions: Mapping[str, str]
    layers: Mapping[str, str] | None = None


class Backend(Protocol):
    """What a module of this package that builds and runs engines has.

    Attributes:
        BACKEND: Its name.
        OPTIONS: Names of the options that it takes.
        FILE_IS_GRAPH: Whether its engine file is the ONNX model; else the model is kept beside it.
    """

    BACKEND: str
    OPTIONS: frozenset[str]
    FILE_IS_GRAPH: bool

    def available(self) -> str | None:
        """Returns None when this machine can build engines, else what is missing and how to get it."""

    def runnable(self) -> str | None:
        """Returns None when this machine can run engines, else what is missing and how to get it."""

    def build(self, graph: DeployedGraph, options: Mapping[str, Any]) -> BuiltEngine:
        """Builds an engine, or raises EngineError."""

    def load(self, graph: DeployedGraph, options: Mapping[str, Any], data: bytes) -> Engine:
        """Opens an engine file that `build` made of `graph`, or raises EngineError."""
