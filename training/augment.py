# SPDX-License-Identifier: Apache-2.0
"""Augmentation of training images, as tensor code for any device; only the small numbers are drawn on the CPU."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from linfdeploy.training.recipe import Recipe

__all__ = ["Augmentation", "unit_range"]


@dataclass(frozen=True)
class Augmentation:
    """Random crops of padded images, and mirror images: torchvision's RandomCrop and RandomHorizontalFlip.

    Attributes:
        padding: Pixels added on each side before cropping.
        zeros: Whether they are black; else the edge is repeated.
        side: Pixels of a crop either way; 0 keeps the size.
        flip: Whether half of the images are mirrored, left to right.
        share: Of the images, how many are cropped at random; the others are cropped from the middle.
    """

    padding: int = 0
    zeros: bool = False
    side: int = 0
    flip: bool = False
    share: float = 1.0

    @classmethod
    def of(cls, recipe: Recipe) -> Augmentation:
        """Returns what a recipe asks for."""
        fill_is_zero = recipe.crop_fill == "zero"
        return cls(recipe.crop_padding, fill_is_zero, recipe.crop_size, recipe.flip, recipe.crop_share)

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Returns height and width of what comes out."""
        return (self.side, self.side) if self.side else (height, width)

    def draw(self, count: int, height: int, width: int, generator: torch.Generator) -> torch.Tensor:
        """Draws what happens to `count` images, and nothing that is not needed.

        Args:
            count: Images.
            height: Of the images, in pixels.
            width: The same.
            generator: On the CPU.

        Returns:
            (3, count) int64 on the CPU: the crop's first row and column in the image, of which the padding is at
            negative numbers, and 1 for a mirror image, else 0.
        """
        drawn = torch.zeros(3, count, dtype=torch.int64)
        kept = torch.rand(count, generator=generator) >= self.share if self.share < 1 else None
        for row, (whole, part) in enumerate(zip((height, width), self.size(height, width), strict=True)):
            if (last := whole + self.padding - part) > -self.padding:
                drawn[row] = torch.randint(-self.padding, last + 1, (count,), generator=generator)
            if kept is not None:
                drawn[row, kept] = (whole - part) // 2
        if self.flip:
            drawn[2] = torch.randint(0, 2, (count,), generator=generator)
        return drawn

    def apply(self, images: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        """Crops and mirrors.

        Args:
            images: (N, C, H, W), of any dtype, on any device.
            drawn: (3, N) int64 on the same device; see `draw`.

        Returns:
            (N, C, H', W') of the same dtype, H' and W' as `size` says.
        """
        if self == Augmentation():
            return images
        count, channels, height, width = images.shape
        rows, columns = (
            first[:, None] + torch.arange(length, device=images.device)
            for first, length in zip(drawn, self.size(height, width), strict=False)
        )
        if self.flip:
            columns = torch.where(drawn[2, :, None] == 1, columns.flip(1), columns)
        source = rows.clamp(0, height - 1)[:, :, None] * width + columns.clamp(0, width - 1)[:, None, :]
        flat = source.view(count, 1, -1).expand(-1, channels, -1)
        cropped = images.flatten(2).gather(2, flat).view(count, channels, *source.shape[1:])
        if not self.zeros:
            return cropped
        inside = _within(rows, height)[:, None, :, None] & _within(columns, width)[:, None, None, :]
        return cropped * inside


def unit_range(levels: torch.Tensor) -> torch.Tensor:
    """Maps uint8 levels to float32 in [0, 1], to the same bits on every device."""
    # By a tensor: divided by a number, CUDA multiplies by its rounded inverse.
    return levels.float() / torch.full((), 255.0, device=levels.device)


def _within(places: torch.Tensor, size: int) -> torch.Tensor:
    return (places >= 0) & (places < size)
