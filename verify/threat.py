# SPDX-License-Identifier: Apache-2.0
"""Threat models: which images an attacker may put in the place of an image.

Boxes are built in pixels, where images are integers, and never in normalised units, where rounding `eps / std`
would leave legal images outside. With eps an exact rational of the [0, 1] pixel range:

    pixels   uint8 images that differ by at most  floor(255 eps)  levels in every pixel
    real     real perturbations of at most eps, which the camera then rounds to uint8 in any faithful way:
             at most  ceil(255 eps)  levels in every pixel

both clipped to [0, 255]. `real` contains every real image within eps, so it is the stronger claim.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from linfdeploy.engines.base import Images
from linfdeploy.errors import InputError
from linfdeploy.onnx.pixel_net import PIXEL_MAX

__all__ = ["Threat", "ThreatModel", "parse_eps"]

ThreatModel: TypeAlias = Literal["pixels", "real"]

# Short enough that no exact rational takes noticeable time.
EPS_PATTERN = re.compile(r"(\d{1,12}(?:\.\d{1,12})?|\.\d{1,12})(?:/(\d{1,12})|(px))?", re.ASCII)


@dataclass(frozen=True)
class Threat:
    """An attacker who may move every pixel by eps.

    Attributes:
        model: `pixels` or `real`.
        text: eps as it was given.
        eps: Exactly, as a fraction of the pixel range.
    """

    model: ThreatModel
    text: str
    eps: Fraction

    def __post_init__(self) -> None:
        """Refuses an attacker who can do nothing.

        Raises:
            InputError: eps is below one level in the `pixels` model.
        """
        if self.levels < 1:
            raise InputError(
                f"eps {self.text} is {float(PIXEL_MAX * self.eps):g} of 255 levels; expected at least 1 level "
                "in the threat model 'pixels': use a larger eps or --threat-model real"
            )

    @property
    def levels(self) -> int:
        """The most levels by which a uint8 pixel can differ."""
        pixels = PIXEL_MAX * self.eps
        return math.floor(pixels) if self.model == "pixels" else math.ceil(pixels)

    def box(self, images: Images) -> tuple[Images, Images]:
        """Returns the least and the greatest image, (N, C, H, W) uint8, that the attacker can reach."""
        return box_of(images, self.levels)


def box_of(images: Images, levels: int | npt.NDArray[np.int64]) -> tuple[Images, Images]:
    """Returns the images `levels` below and above, clipped to [0, 255]; (N,) levels are each image's own."""
    wide = images.astype(np.int16)
    reach = np.asarray(levels, np.int16).reshape(-1, 1, 1, 1)
    lower, upper = np.maximum(wide - reach, 0), np.minimum(wide + reach, PIXEL_MAX)
    return lower.astype(np.uint8), upper.astype(np.uint8)


def parse_eps(text: str) -> Fraction:
    """Reads a radius exactly: `8/255` and `0.3` are fractions of the pixel range, `8px` is in pixels.

    Returns:
        The radius as a fraction of the pixel range, in (0, 1].

    Raises:
        InputError: The text is no such number.
    """
    match = EPS_PATTERN.fullmatch(text.strip())
    if match is None or (match[2] is not None and int(match[2]) == 0):
        raise InputError(f"eps is {text!r}; expected a fraction of the pixel range such as 8/255 or 0.3, or 8px")
    eps = Fraction(match[1]) / int(match[2] or (PIXEL_MAX if match[3] else 1))
    if not 0 < eps <= 1:
        raise InputError(f"eps is {text!r}; expected more than 0 and at most the whole pixel range, 1 or 255px")
    return eps
