# SPDX-License-Identifier: Apache-2.0
"""The engine against the bit-exact evaluator, on images chosen to show differences.

In exact mode one differing bit is a violation. In fp32 and fp16 every order and rounding that an engine may follow
is tried, and all that explain every bit are named; beyond `2 delta` none explains a difference, and it is a
violation as well. So is a logit that is not finite, and an answer that depends on more than the image.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from linfdeploy.engines.base import Engine, Images, Logits
from linfdeploy.engines.plain import check_evaluator
from linfdeploy.engines.reference import ReferenceEngine, Rounding, roundings_of
from linfdeploy.onnx.passes.ranges import rounding_error, value_ranges
from linfdeploy.onnx.pixel_net import PixelNet
from linfdeploy.report.model import Conformance, Probe, Violation
from linfdeploy.verify.determinism import BATCH, REPEATS, instabilities, rebuild_violation, run_batched
from linfdeploy.verify.diagnosis import diagnose
from linfdeploy.verify.probes import ProbeSet

__all__ = ["ConformanceResult", "check_conformance", "matching_roundings", "ulp_distance"]

MATCHING_IMAGES = 64
# Of each family, for the evaluator against plain numpy.
PLAIN_IMAGES = 2


@dataclass(frozen=True)
class ConformanceResult:
    """What conformance testing found.

    Attributes:
        conformance: For the report.
        roundings: Those that explain every bit, per-op first; empty if none does.
        violations: Differences that no rounding explains, logits that are not finite, non-determinism, and wrong
            labels or radii.
        logits: The engine's, (N, K), of each family of probes.
    """

    conformance: Conformance
    roundings: tuple[Rounding, ...]
    violations: tuple[Violation, ...]
    logits: Mapping[str, Logits] = field(default_factory=dict)


def check_conformance(
    engine: Engine, net: PixelNet, probes: ProbeSet, rebuild: Callable[[], Engine] | None = None
) -> ConformanceResult:
    """Runs every probe on the engine and on the evaluator and compares bits.

    Args:
        engine: The engine.
        net: Read from the engine's own graph.
        probes: As `make_probes` makes them.
        rebuild: Builds the engine again from its graph; None: it is too dear, or cannot be done here.

    Raises:
        EngineError: The evaluator itself differs from plain numpy, or the engine fails.
    """
    found = {name: run_batched(engine, images) for name, images in probes.families.items()}
    roundings = matching_roundings(net, probes.families, found)
    evaluator = ReferenceEngine(net, roundings[0] if roundings else _closest(net, probes.families, found))
    _check_evaluator(evaluator, probes.families)
    comparison = _Comparison(net)
    for name, images in probes.families.items():
        # Those of a matching rounding are the engine's own, bit by bit.
        comparison.add(name, images, found[name], found[name] if roundings else run_batched(evaluator, images))
    (data, whole), *_ = zip(probes.families.values(), found.values(), strict=True)
    unstable = list(instabilities(engine, data, whole))
    rebuilt = rebuild_violation(rebuild, data, whole) if rebuild else None
    conformance = Conformance(
        samples=comparison.rows,
        bit_identical=comparison.ulps["0"] / max(comparison.ulps.total(), 1),
        max_ulp=max(probe.max_ulp for probe in comparison.probes),
        deterministic=not unstable,
        probes=tuple(comparison.probes),
        ulps=dict(comparison.ulps),
        orders=tuple(rounding.name for rounding in roundings),
        repeats=REPEATS,
        rebuilt=rebuilt is None if rebuild else None,
        coverage=probes.coverage,
    )
    violations = [*comparison.violations, *unstable, *([rebuilt] if rebuilt else [])]
    violations += _radius_violations(engine, evaluator, data)
    return ConformanceResult(conformance, roundings, tuple(violations), found)


def matching_roundings(
    net: PixelNet, families: Mapping[str, Images], found: Mapping[str, Logits]
) -> tuple[Rounding, ...]:
    """Returns the members of the net's family whose bits are the engine's on every image.

    Args:
        net: The net.
        families: Images, each (N, C, H, W) uint8.
        found: The engine's logits of each, (N, K).
    """
    left = list(roundings_of(net))
    for some in (_few, lambda _: slice(None)):
        for name, images in families.items():
            part = some(len(images))
            left = [r for r in left if _same(ReferenceEngine(net, r), images[part], found[name][part])]
    return tuple(left)


def _same(evaluator: ReferenceEngine, images: Images, logits: Logits) -> bool:
    parts = (slice(i, i + BATCH) for i in range(0, len(images), BATCH))
    return all(evaluator.explains(images[part], logits[part]).all() for part in parts)


def _few(count: int) -> slice:
    """Returns some of `count` rows, which rule most orders out at little cost."""
    return slice(None, None, -(-count // MATCHING_IMAGES))


def _closest(net: PixelNet, families: Mapping[str, Images], found: Mapping[str, Logits]) -> Rounding:
    """Returns the rounding that comes nearest on some images of each family, where none explains all."""
    images = np.concatenate([family[_few(len(family))] for family in families.values()])
    logits = np.concatenate([found[name][_few(len(found[name]))] for name in families])
    return min(
        roundings_of(net), key=lambda r: int(ulp_distance(ReferenceEngine(net, r).run(images), logits).sum())
    )


def _check_evaluator(evaluator: ReferenceEngine, families: Mapping[str, Images]) -> None:
    check_evaluator(
        evaluator,
        np.concatenate([images[:PLAIN_IMAGES] for images in families.values()]),
        *(families[name][:PLAIN_IMAGES] for name in ("box lower end", "box upper end")),
    )


class _Comparison:
    """The engine's logits beside the evaluator's, family by family."""

    def __init__(self, net: PixelNet) -> None:
        self._net = net
        self._limit = 2 * rounding_error(net, value_ranges(net))
        self.probes: list[Probe] = []
        self.violations: list[Violation] = []
        self.ulps = Counter[str]()
        self.rows = 0

    def add(self, name: str, images: Images, logits: Logits, expected: Logits) -> None:
        distance = ulp_distance(logits, expected)
        self.probes.append(Probe(name, len(distance), float((distance == 0).mean()), int(distance.max())))
        self.ulps.update(_binned(distance))
        self.rows += len(images)
        self.violations += _not_finite(name, logits)
        self.violations += _difference(self._net, name, images, logits, expected, self._limit)


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


def _not_finite(name: str, logits: Logits) -> Iterator[Violation]:
    """Yields a violation when a logit is infinite or NaN: every image is finite, and no value may overflow."""
    broken = ~np.isfinite(logits)
    if not broken.any():
        return
    image, label = (int(index) for index in np.argwhere(broken)[0])
    yield Violation(
        "not finite",
        f"{broken.sum()} of the logits of probe '{name}' are infinite or NaN, the first of class {label} at image "
        f"{image}",
        sample=image if name == "data" else None,
    )


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


def _radius_violations(engine: Engine, evaluator: ReferenceEngine, images: Images) -> Iterator[Violation]:
    """Yields a violation when the graph's own label or radius is not what its logits give."""
    answers = engine.answer(images[:BATCH])
    if "radius" not in answers:
        return
    expected = evaluator.label_and_radius(answers["logits"].astype(np.float32))
    for name in ("label", "radius"):
        if not np.array_equal(answers[name], expected[name]):
            yield Violation(name, f"the graph's output '{name}' is not what its logits give")
