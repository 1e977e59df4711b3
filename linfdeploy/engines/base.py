# SPDX-License-Identifier: Apache-2.0
"""The one interface that every engine has."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from linfdeploy.errors import EngineError

__all__ = ["Answers", "Engine", "Images", "Logits"]

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
