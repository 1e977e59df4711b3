# SPDX-License-Identifier: Apache-2.0
"""The engine against the bit-exact evaluator, on images chosen to show differences.

In exact mode one differing bit is a violation. In fp32 and fp16 the roundings an engine may follow are tried, and
the one that matches is named; beyond `2 delta` no rounding explains a difference, and it is a violation as well.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from linfdeploy.engines.base import Engine, Images, Logits
from linfdeploy.engines.plain import check_evaluator
from linfdeploy.engines.reference import ReferenceEngine, Rounding, roundings_of
from linfdeploy.onnx.passes.ranges import rounding_error, value_ranges
from linfdeploy.onnx.pixel_net import PIXEL_MAX, PixelNet
from linfdeploy.report.model import Conformance, Probe, Violation
from linfdeploy.verify.diagnosis import diagnose
from linfdeploy.verify.threat import box_of

__all__ = [
    "BATCH",
    "PAIRED_PROBES",
    "ConformanceResult",
    "check_conformance",
    "make_probes",
    "run_batched",
    "ulp_distance",
]

BATCH = 256
PAIRED_PROBES = ("box lower end", "box upper end", "box corner", "one level apart")
"""Families whose images are those of the data, moved; each pair is audited for its Lipschitz ratio as well."""

ODD_BATCHES = (1, 3, 7, 17, 255)
RANDOM_IMAGES = 256
MATCHING_IMAGES = 64
# Of each family, for the evaluator against plain numpy.
PLAIN_IMAGES = 2


@dataclass(frozen=True)
class ConformanceResult:
    """What conformance testing found.

    Attributes:
        conformance: For the report.
        rounding: The rounding that explains every bit, or None.
        violations: Differences that no rounding explains, non-determinism, wrong radii.
        logits: The engine's, (N, K), of each family of probes.
    """

    conformance: Conformance
    rounding: Rounding | None
    violations: tuple[Violation, ...]
    logits: Mapping[str, Logits] = field(default_factory=dict)


def make_probes(images: Images, levels: int, seed: int) -> dict[str, Images]:
    """Returns named families of images: data, box corners, random and constant images.

    Args:
        images: (N, C, H, W) uint8, the data.
        levels: Half the width of the boxes.
        seed: Of the random images.
    """
    rng = np.random.default_rng(seed)
    shape = images.shape[1:]
    lower, upper = box_of(images, levels)
    return {
        "data": images,
        "box lower end": lower,
        "box upper end": upper,
        "box corner": _mixed(rng, lower, upper),
        "one level apart": _mixed(rng, *box_of(images, 1)),
        "random": rng.integers(0, PIXEL_MAX + 1, (RANDOM_IMAGES, *shape), np.uint8),
        "black and white": rng.integers(0, 2, (RANDOM_IMAGES, *shape), np.uint8) * np.uint8(PIXEL_MAX),
        "constant": np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None, None, None], (256, *shape)),
    }


def _mixed(rng: np.random.Generator, lower: Images, upper: Images) -> Images:
    """Takes each pixel from one of two images at random."""
    images: Images = np.where(rng.integers(0, 2, lower.shape, np.uint8) == 1, upper, lower)
    return images


def check_conformance(engine: Engine, net: PixelNet, probes: Mapping[str, Images]) -> ConformanceResult:
    """Runs every probe on the engine and on the evaluator and compares bits.

    Args:
        engine: The engine.
        net: Read from the engine's own graph.
        probes: Families of images, each (N, C, H, W) uint8, as `make_probes` makes them; the first is the data.

    Raises:
        EngineError: The evaluator itself differs from plain numpy.
    """
    # Some of each family: on dark or whole-numbered images alone, several roundings give the same bits.
    some = [images[:: -(-len(images) // MATCHING_IMAGES)] for images in probes.values()]
    rounding = _matching_rounding(engine, net, np.concatenate(some))
    evaluator = ReferenceEngine(net, rounding or Rounding())
    check_evaluator(
        evaluator,
        np.concatenate([images[:PLAIN_IMAGES] for images in probes.values()]),
        *(probes[name][:PLAIN_IMAGES] for name in ("box lower end", "box upper end")),
    )
    found: list[Probe] = []
    violations: list[Violation] = []
    found_logits: dict[str, Logits] = {}
    ulps, rows = Counter[str](), 0
    limit = 2 * rounding_error(net, value_ranges(net))
    for name, images in probes.items():
        logits, expected = run_batched(engine, images), run_batched(evaluator, images)
        found_logits[name] = logits
        distance = ulp_distance(logits, expected)
        found.append(_probe(name, distance))
        ulps.update(_binned(distance))
        rows += len(images)
        violations += _difference(net, name, images, logits, expected, limit)
    (data, whole), *_ = zip(probes.values(), found_logits.values(), strict=True)
    unstable = list(_instabilities(engine, data, whole))
    violations += [*unstable, *_radius_violations(engine, evaluator, data)]
    conformance = Conformance(
        samples=rows,
        bit_identical=ulps["0"] / max(ulps.total(), 1),
        max_ulp=max(probe.max_ulp for probe in found),
        deterministic=not unstable,
        probes=tuple(found),
        ulps=dict(ulps),
    )
    matched = rounding if ulps["0"] == ulps.total() else None
    return ConformanceResult(conformance, matched, tuple(violations), found_logits)


def run_batched(engine: Engine, images: Images, batch: int = BATCH) -> Logits:
    """Returns the logits of all images, (N, K) float32, computed `batch` at a time."""
    return np.concatenate([engine.run(images[i : i + batch]) for i in range(0, len(images), batch)])


def ulp_distance(a: Logits, b: Logits) -> npt.NDArray[np.int64]:
    """Returns how many float32 values apart two arrays' elements are; -0 and 0 are one value."""
    distance: npt.NDArray[np.int64] = np.abs(_ordered(a) - _ordered(b))
    return distance


def _ordered(values: Logits) -> npt.NDArray[np.int64]:
    bits = np.ascontiguousarray(values).view(np.int32).astype(np.int64)
    ordered: npt.NDArray[np.int64] = np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)
    return ordered


def _binned(distance: npt.NDArray[np.int64]) -> dict[str, int]:
    """Counts distances in bins 0, 1, 2-3, 4-7, ..., which double."""
    # frexp's exponent is the number of binary digits.
    digits, counts = np.unique(np.frexp(distance.astype(np.float64))[1], return_counts=True)
    names = ["0" if n == 0 else "1" if n == 1 else f"{2 ** (n - 1)}-{2**n - 1}" for n in digits.tolist()]
    return dict(zip(names, counts.tolist(), strict=True))


def _matching_rounding(engine: Engine, net: PixelNet, images: Images) -> Rounding | None:
    logits = run_batched(engine, images)
    for rounding in roundings_of(net):
        if np.array_equal(run_batched(ReferenceEngine(net, rounding), images), logits):
            return rounding
    return None


def _probe(name: str, distance: npt.NDArray[np.int64]) -> Probe:
    return Probe(name, len(distance), float((distance == 0).mean()), int(distance.max()))


def _difference(
    net: PixelNet, name: str, images: Images, logits: Logits, expected: Logits, limit: Fraction
) -> Iterator[Violation]:
    """Yields a violation when a probe's logits differ by more than the net's precision allows."""
    with np.errstate(invalid="ignore"):
        change = np.abs(logits.astype(np.float64) - expected.astype(np.float64))
    allowed = 0.0 if net.precision == "exact" else float(limit)
    if not (wrong := ~(change <= allowed)).any():
        return
    cause = diagnose(net, images, logits, expected)
    yield Violation(
        "conformance",
        f"{wrong.mean():.2%} of the logits of probe '{name}' differ, by up to {change.max():g} pixel where "
        f"{allowed:g} is allowed: {cause}",
    )


def _instabilities(engine: Engine, images: Images, whole: Logits) -> Iterator[Violation]:
    """Yields a violation for each way in which the images get other logits than `whole`, of the first run."""
    if not np.array_equal(whole, run_batched(engine, images)):
        yield Violation("determinism", "two runs over the same images give different logits")
    for batch in ODD_BATCHES:
        part = images[: min(len(images), max(2 * batch + 1, 19))]
        if not np.array_equal(run_batched(engine, part, batch), whole[: len(part)]):
            yield Violation("determinism", f"batches of {batch} give other logits than batches of {BATCH}")


def _radius_violations(engine: Engine, evaluator: ReferenceEngine, images: Images) -> Iterator[Violation]:
    """Yields a violation when the graph's own label or radius is not what its logits give."""
    answers = engine.answer(images[:BATCH])
    if "radius" not in answers:
        return
    expected = evaluator.label_and_radius(answers["logits"].astype(np.float32))
    for name in ("label", "radius"):
        if not np.array_equal(answers[name], expected[name]):
            yield Violation(name, f"the graph's output '{name}' is not what its logits give")
