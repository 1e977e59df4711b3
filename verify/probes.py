# SPDX-License-Identifier: Apache-2.0
"""The images on which an engine is compared with the evaluator.

Besides the data and what lies around them there are two families made for the net at hand: images that rest on as
many different weights as possible, and images that tell the operation orders of `linfdeploy.engines.roundings`
apart. Whatever they fail to show is reported: as coverage, and as orders that fit alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from linfdeploy.engines.base import Images
from linfdeploy.engines.reference import ReferenceEngine, Rounding, roundings_of
from linfdeploy.onnx.pixel_net import PIXEL_MAX, PixelNet
from linfdeploy.report.model import LayerCoverage
from linfdeploy.verify.coverage import Coverage, operations
from linfdeploy.verify.draws import Draws
from linfdeploy.verify.threat import box_of

__all__ = ["ORDER", "PAIRED_PROBES", "WEIGHTS", "Family", "Moved", "ProbeSet", "make_probes", "separating_images"]

PAIRED_PROBES = ("box lower end", "box upper end", "box corner", "one level apart")
"""Families whose images are those of the data, moved; each pair is audited for its Lipschitz ratio as well."""
WEIGHTS, ORDER = "many weights", "operation order"
"""The families that are made for the net."""

RANDOM_IMAGES = 256
COVERING_IMAGES = 2048
CROSSINGS = 6
RANDOM_PIXELS = 0.02
FIRST_POOL = 64
LAST_POOL = 2**15
# Differences to compute while searching, for either family: a second or two of one core.
SEARCH_OPERATIONS = 10**10

Codes: TypeAlias = npt.NDArray[np.uint64]


class Moved:
    """A family of images that are those of the data, moved; each is made when it is asked for.

    It is indexed by rows like an array; images are never all in memory.
    """

    def __init__(self, images: Images, move: Callable[[Images, Draws], Images], seed: int) -> None:
        self._images = images
        self._move = move
        self._draws = Draws(seed, np.arange(len(images)))

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, rows: slice | npt.NDArray[np.int64]) -> Images:
        return self._move(self._images[rows], self._draws.of(rows))


Family: TypeAlias = Images | Moved


@dataclass(frozen=True)
class ProbeSet:
    """Families of images, each (N, C, H, W) uint8, the data first; and what weights they look at."""

    families: dict[str, Family]
    coverage: tuple[LayerCoverage, ...]


def make_probes(net: PixelNet, images: Images, levels: int, seed: int) -> ProbeSet:
    """Returns named families of images: data, box corners, random and constant images, and those made for the net.

    Args:
        net: Read from the engine's own graph.
        images: (N, C, H, W) uint8, the data.
        levels: Half the width of the boxes.
        seed: Of everything random.
    """
    rng = np.random.default_rng(seed)
    families = _general_probes(rng, images, levels, seed)
    coverage = Coverage(net)
    for family in families.values():
        coverage.add(_some(family, _affordable(net, COVERING_IMAGES) // len(families)))
    families[WEIGHTS] = _covering_images(net, images, coverage, rng)
    families[ORDER] = separating_images(net, tuple(roundings_of(net)), _pools(net, images, rng))
    return ProbeSet({name: family for name, family in families.items() if len(family)}, coverage.layers)


def separating_images(net: PixelNet, roundings: Sequence[Rounding], pools: Iterable[Images]) -> Images:
    """Returns images that tell every two of the roundings apart that any image of the pools tells apart.

    Args:
        net: The net.
        roundings: Members of its family.
        pools: Images to choose from, (N, C, H, W) uint8; a pool is only asked for while two are still alike.
    """
    kept, alike, work = [np.empty((0, *net.input_shape), np.uint8)], [tuple(roundings)], 0
    images = iter(pools)
    while (alike := [group for group in alike if len(group) > 1]) and (pool := next(images, None)) is not None:
        work += len(pool) * sum(map(len, alike)) * operations(net)
        if work > SEARCH_OPERATIONS and len(kept) > 1:
            break
        groups, alike = alike, []
        for group in groups:
            chosen, parts = _split(group, np.stack([_codes(net, rounding, pool) for rounding in group]))
            kept.append(pool[chosen])
            alike += parts
    return np.concatenate(kept)


def _general_probes(rng: np.random.Generator, images: Images, levels: int, seed: int) -> dict[str, Family]:
    shape = images.shape[1:]
    return {
        "data": images,
        "box lower end": Moved(images, lambda part, _: box_of(part, levels)[0], seed),
        "box upper end": Moved(images, lambda part, _: box_of(part, levels)[1], seed),
        "box corner": Moved(images, lambda part, draws: draws.one_of("corner", *box_of(part, levels)), seed),
        "one level apart": Moved(images, lambda part, draws: draws.one_of("level", *box_of(part, 1)), seed),
        "random": rng.integers(0, PIXEL_MAX + 1, (RANDOM_IMAGES, *shape), np.uint8),
        "black and white": rng.integers(0, 2, (RANDOM_IMAGES, *shape), np.uint8) * np.uint8(PIXEL_MAX),
        "constant": np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None, None, None], (256, *shape)),
    }


def _some(images: Family, count: int) -> Images:
    """Returns at most about `count` of the images, evenly spread, at least one."""
    return images[:: max(-(-len(images) // max(count, 1)), 1)]


def _affordable(net: PixelNet, count: int) -> int:
    return max(min(count, SEARCH_OPERATIONS // operations(net)), 1)


def _targets(net: PixelNet) -> npt.NDArray[np.float64]:
    """Returns, for each row of the first layer, the pixels at distance 0 from it, (O, inputs).

    Of a convolution it is the filter as a tile, laid so that the window in the middle shows just that.
    """
    layer, centre = net.layers[0], net.input_centre.astype(np.float64)
    weight = layer.weight.astype(np.float64)
    if (window := layer.window) is None:
        return weight + centre
    channels, *size = window.shape
    tile = weight.reshape(-1, channels, window.kernel, window.kernel)
    rows, columns = (
        (np.arange(count) - places // 2 * window.stride + window.padding) % window.kernel
        for count, places in zip(size, window.places, strict=True)
    )
    tiled: npt.NDArray[np.float64] = tile[:, :, rows[:, None], columns].reshape(len(weight), -1) + centre
    return tiled


def _nearest_images(net: PixelNet) -> Images:
    """Returns, for each row of the first layer, the image that is nearest to it, (O, I)."""
    images: Images = np.clip(np.rint(_targets(net)), 0, PIXEL_MAX).astype(np.uint8)
    return images


def _pixels_of(net: PixelNet, columns: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Returns which pixels columns of the first weight meet, a window's in the middle; `net.inputs` is none."""
    layer = net.layers[0]
    rows, places = (1, 1) if layer.window is None else layer.window.places
    return layer.sources(np.full_like(columns, rows // 2 * places + places // 2), columns)


def _covering_images(net: PixelNet, images: Images, coverage: Coverage, rng: np.random.Generator) -> Images:
    """Returns images that rest on weights which no image of `coverage` rests on, and adds them to it.

    The first layer's weights are aimed at one by one; then images are crossed, and those that show something new
    are crossed further.
    """
    count = max(_affordable(net, (CROSSINGS + 2) * COVERING_IMAGES) // (CROSSINGS + 2), 1)
    nearest = _some(_nearest_images(net).reshape(-1, *net.input_shape), count)
    parents = np.concatenate([_some(images, count), nearest])
    candidates = np.concatenate([nearest, _single_weight_images(net, coverage.unreached(0), count, rng)])
    kept = [candidates[coverage.add(candidates)]]
    for _ in range(CROSSINGS):
        parents = np.concatenate([parents, kept[-1]])
        candidates = _crossed(parents, count, rng)
        kept.append(candidates[coverage.add(candidates)])
    return np.concatenate(kept)


def _crossed(parents: Images, count: int, rng: np.random.Generator) -> Images:
    """Returns images each of whose pixels is that of one of two parents, but for a few that are random."""
    first, second = (parents[rng.integers(0, len(parents), count)] for _ in range(2))
    chances = rng.random(first.shape)
    children = np.where(chances < rng.random((count, 1, 1, 1)), first, second)
    random = rng.integers(0, PIXEL_MAX + 1, first.shape, np.uint8)
    images: Images = np.where(rng.random(first.shape) < RANDOM_PIXELS, random, children)
    return images


def _single_weight_images(
    net: PixelNet, pairs: npt.NDArray[np.int64], count: int, rng: np.random.Generator
) -> Images:
    """Returns images (P, C, H, W) on each of which one of `pairs` (output, input) of the first layer attains."""
    rows, columns = rng.permutation(pairs)[:count].T
    columns = _pixels_of(net, columns)
    rows, columns = rows[columns < net.inputs], columns[columns < net.inputs]
    flat = _nearest_images(net)[rows]
    flat[np.arange(len(rows)), columns] = _just_farthest(net, rows, columns)
    images: Images = flat.reshape(-1, *net.input_shape)
    return images


def _just_farthest(net: PixelNet, rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64]) -> Images:
    """Returns, (P,), the value that makes a pixel of a row's nearest image attain the row's distance.

    It exceeds the other pixels' distances by as little as it can: of small numbers the last bits show.
    """
    weight = _targets(net)
    rest = np.abs(weight - _nearest_images(net)).max(1)[rows] + 1
    target = weight[rows, columns]
    above = target + rest <= PIXEL_MAX
    value = np.where(above, np.ceil(target + rest), np.floor(target - rest))
    pixels: Images = np.clip(value, 0, PIXEL_MAX).astype(np.uint8)
    return pixels


def _pools(net: PixelNet, images: Images, rng: np.random.Generator) -> Iterator[Images]:
    """Yields ever larger pools of images of many kinds."""
    nearest = _nearest_images(net).reshape(-1, *net.input_shape)
    count = FIRST_POOL
    while count <= LAST_POOL:
        shape = (count // 4, *net.input_shape)
        any_image = rng.integers(0, PIXEL_MAX + 1, shape, np.uint8)
        # Small differences have the finest last places, and only they are subnormal.
        close = nearest[rng.integers(0, len(nearest), len(any_image))]
        dark = rng.integers(0, 4, shape, np.uint8) * (rng.random(shape) < 0.1)
        sparse = np.where(rng.random(shape) < 0.1, any_image, close)
        yield np.concatenate([_some(images, len(any_image)), any_image, close, dark.astype(np.uint8), sparse])
        count *= 4


def _codes(net: PixelNet, rounding: Rounding, images: Images) -> Codes:
    """Returns a number for each image, (N,), which differs where the logits do, but for a hash's chance."""
    # Minus zero is zero.
    bits = (ReferenceEngine(net, rounding).run(images) + np.float32(0)).view(np.uint32).astype(np.uint64)
    factors = np.random.default_rng(0).integers(1, 2**63, bits.shape[1], np.uint64) * np.uint64(2) + np.uint64(1)
    codes: Codes = (bits * factors).sum(1, dtype=np.uint64)
    return codes


def _split(group: tuple[Rounding, ...], codes: Codes) -> tuple[list[int], list[tuple[Rounding, ...]]]:
    """Splits roundings by their codes, (G, N); returns which images it takes, and the groups that stay alike."""
    kinds = np.array([len(np.unique(column)) for column in codes.T])
    best = int(kinds.argmax())
    if len(group) < 2 or kinds[best] < 2:
        return [], [group]
    chosen, alike = [best], []
    for code in np.unique(codes[:, best]):
        members = np.flatnonzero(codes[:, best] == code)
        more, parts = _split(tuple(group[i] for i in members), codes[members])
        chosen += more
        alike += parts
    return sorted(set(chosen)), alike
