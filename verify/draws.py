# SPDX-License-Identifier: Apache-2.0
"""Random numbers that belong to a sample: the same whichever samples are drawn beside it, in whatever order.

A stream is that of SplitMix64 (Steele, Lea and Flood 2014), from a start that the seed, the purpose and the sample
determine. Streams can be read anywhere and need no state, so no chunk, process or resumed run changes a number.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from linfdeploy.engines.base import Images
from linfdeploy.onnx.pixel_net import PIXEL_MAX

__all__ = ["Draws", "mixed"]

GAMMA = np.uint64(0x9E3779B97F4A7C15)


class Draws:
    """The streams of some samples.

    Each call names its purpose; another purpose gives other numbers, the same purpose the same ones. What draws
    several times names each turn: `draws.normals("start 2", count)`.

    Attributes:
        seed: Of everything.
        samples: (M,) int64, the samples' indices in the data set.
    """

    def __init__(self, seed: int, samples: npt.NDArray[np.int64]) -> None:
        self.seed = seed
        self.samples = samples

    def of(self, rows: npt.NDArray[np.int64] | npt.NDArray[np.bool_] | slice) -> Draws:
        """Returns the streams of some of the samples, by their place among them."""
        return Draws(self.seed, self.samples[rows])

    def bits(self, purpose: str, count: int) -> npt.NDArray[np.uint64]:
        """Returns 64 random bits each, (M, count) uint64."""
        digest = hashlib.sha256(f"{self.seed} {purpose}".encode()).digest()
        start = mixed(self.samples.astype(np.uint64) * GAMMA + np.frombuffer(digest[:8], "<u8"))
        steps = np.arange(1, count + 1, dtype=np.uint64) * GAMMA
        return mixed(start[:, None] + steps)

    def uniforms(self, purpose: str, count: int) -> npt.NDArray[np.float64]:
        """Returns numbers in [0, 1), (M, count) float64, multiples of 2^-53."""
        return (self.bits(purpose, count) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def integers(self, purpose: str, low: int, high: int, count: int) -> npt.NDArray[np.int64]:
        """Returns whole numbers in [low, high), (M, count) int64, for at most 2^32 values."""
        width = np.uint64(high - low)
        whole = ((self.bits(purpose, count) >> np.uint64(32)) * width) >> np.uint64(32)
        return low + whole.astype(np.int64)

    def normals(self, purpose: str, count: int) -> npt.NDArray[np.float64]:
        """Returns normally distributed numbers, (M, count) float64, by the method of Box and Muller."""
        pairs = self.uniforms(purpose, 2 * count).reshape(len(self.samples), 2, count)
        # 1 - u is above 0.
        radius, angle = np.sqrt(-2 * np.log(1 - pairs[:, 0])), 2 * np.pi * pairs[:, 1]
        normals: npt.NDArray[np.float64] = radius * np.cos(angle)
        return normals

    def one_of(self, purpose: str, first: Images, second: Images) -> Images:
        """Takes each pixel, of (M, C, H, W) uint8 each, from one of two images at random."""
        count = int(np.prod(first.shape[1:]))
        heads = (self.bits(purpose, count) >> np.uint64(63)).astype(bool).reshape(first.shape)
        images: Images = np.where(heads, second, first)
        return images

    def images(self, purpose: str, shape: tuple[int, ...]) -> Images:
        """Returns random images, (M, *shape) uint8."""
        count = int(np.prod(shape))
        pixels = self.integers(purpose, 0, PIXEL_MAX + 1, count).astype(np.uint8)
        return pixels.reshape(len(self.samples), *shape)


def mixed(bits: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Returns SplitMix64's output for each state: a bijection that leaves no trace of its order."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
