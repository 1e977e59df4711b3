# SPDX-License-Identifier: Apache-2.0
"""Augmentation of training images, as tensor code."""

from __future__ import annotations

import torch

__all__ = ["random_shift"]


def random_shift(images: torch.Tensor, padding: int, generator: torch.Generator) -> torch.Tensor:
    """Shifts every image by its own random offset of up to `padding` pixels, repeating the edges.

    The same as padding by `padding` edge pixels and cropping back at random.

    Args:
        images: (N, C, H, W), of any dtype.
        padding: At least 0; the offsets are whole and uniform in [-padding, padding], rows and columns apart.
        generator: On the device of `images`; where the offsets come from.

    Returns:
        (N, C, H, W), of the dtype of `images`.
    """
    if padding == 0:
        return images
    count, channels, height, width = images.shape
    rows = _shifted(count, height, padding, generator)
    columns = _shifted(count, width, padding, generator)
    source = (rows[:, :, None] * width + columns[:, None, :]).view(count, 1, -1)
    return images.flatten(2).gather(2, source.expand(-1, channels, -1)).view_as(images)


def _shifted(count: int, size: int, padding: int, generator: torch.Generator) -> torch.Tensor:
    offsets = torch.randint(
        -padding, padding + 1, (count, 1), generator=generator, device=generator.device, dtype=torch.int64
    )
    return (torch.arange(size, device=generator.device) + offsets).clamp_(0, size - 1)
