# SPDX-License-Identifier: Apache-2.0
"""Augmentation of training images, as tensor code for any device; only the small numbers are drawn on the CPU."""

from __future__ import annotations

import torch

__all__ = ["draw_shifts", "random_shift", "shift", "unit_range"]


def random_shift(images: torch.Tensor, padding: int, generator: torch.Generator) -> torch.Tensor:
    """Shifts every image by its own random offset of up to `padding` pixels, repeating the edges.

    The same as padding by `padding` edge pixels and cropping back at random.

    Args:
        images: (N, C, H, W), of any dtype, on any device.
        padding: At least 0; the offsets are whole and uniform in [-padding, padding], rows and columns apart.
        generator: On the CPU; where the offsets come from.

    Returns:
        (N, C, H, W), of the dtype of `images`.
    """
    return shift(images, draw_shifts(len(images), padding, generator).to(images.device), padding)


def draw_shifts(count: int, padding: int, generator: torch.Generator) -> torch.Tensor:
    """Returns offsets of rows and columns, (2, count) int64 in [-padding, padding], on the CPU."""
    if padding == 0:
        return torch.zeros(2, count, dtype=torch.int64)
    return torch.stack([torch.randint(-padding, padding + 1, (count,), generator=generator) for _ in range(2)])


def shift(images: torch.Tensor, offsets: torch.Tensor, padding: int) -> torch.Tensor:
    """Shifts images (N, C, H, W) by offsets (2, N) of rows and columns, which are at most `padding`."""
    if padding == 0:
        return images
    count, channels, height, width = images.shape
    rows, columns = _sources(offsets[0], height), _sources(offsets[1], width)
    source = (rows[:, :, None] * width + columns[:, None, :]).view(count, 1, -1)
    return images.flatten(2).gather(2, source.expand(-1, channels, -1)).view_as(images)


def unit_range(levels: torch.Tensor) -> torch.Tensor:
    """Maps uint8 levels to float32 in [0, 1], to the same bits on every device."""
    # By a tensor: divided by a number, CUDA multiplies by its rounded inverse.
    return levels.float() / torch.full((), 255.0, device=levels.device)


def _sources(offsets: torch.Tensor, size: int) -> torch.Tensor:
    return (torch.arange(size, device=offsets.device) + offsets[:, None]).clamp_(0, size - 1)
