# SPDX-License-Identifier: Apache-2.0
"""A sheet of adversarial images: each row the image, what the attack made of it, and the difference, magnified."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["adversarial_sheet"]

MAX_ROWS = 32
GAP = 2
PAPER, MIDDLE = 255, 128
# Small pictures are enlarged to about this many pixels.
SIDE = 64

Pictures = npt.NDArray[np.uint8]


def adversarial_sheet(images: Pictures, adversarial: Pictures, levels: int) -> Pictures | None:
    """Draws at most 32 rows of three pictures.

    Args:
        images: (N, C, H, W) uint8.
        adversarial: Of the same shape.
        levels: A difference of so many is drawn white, of as many the other way black, and none grey.

    Returns:
        (H', W') uint8 for one channel, (H', W', 3) for three; None without images, or with other channels.
    """
    if not len(images) or images.shape[1] not in {1, 3}:
        return None
    images, adversarial = images[:MAX_ROWS], adversarial[:MAX_ROWS]
    change = (adversarial.astype(np.int64) - images) * (MIDDLE - 1)
    # Divided towards zero: no difference is exactly the middle.
    difference = np.clip(MIDDLE + np.trunc(change / max(levels, 1)), 0, PAPER).astype(np.uint8)
    rows = [_row(each) for each in zip(images, adversarial, difference, strict=True)]
    gap = np.full((GAP, *rows[0].shape[1:]), PAPER, np.uint8)
    sheet = np.concatenate([part for row in rows for part in (gap, row)] + [gap])
    return sheet[..., 0] if sheet.shape[2] == 1 else sheet


def _row(pictures: tuple[Pictures, ...]) -> Pictures:
    drawn = [_enlarged(picture.transpose(1, 2, 0)) for picture in pictures]
    gap = np.full((drawn[0].shape[0], GAP, drawn[0].shape[2]), PAPER, np.uint8)
    return np.concatenate([part for picture in drawn for part in (gap, picture)] + [gap], 1)


def _enlarged(picture: Pictures) -> Pictures:
    times = max(SIDE // max(picture.shape[:2]), 1)
    enlarged: Pictures = picture.repeat(times, 0).repeat(times, 1)
    return enlarged
