# SPDX-License-Identifier: Apache-2.0
"""The engine against the bit-exact evaluator, on images chosen to show differences.

In exact mode one differing bit is a violation. In fp32 and fp16 every order and rounding that an engine may follow
is tried, and all that explain every bit are named; beyond `2 delta` none explains a difference, and it is a
violation as well. So is a logit that is not finite, and an answer that depends on more than the image.

The sums of a head come in an order that is the engine's own, and may change with the batch. Behind a head a
rounding explains logits that lie within the proven enclosure of what the head may compute from its features; no
bits are asked for, and a logit outside is a violation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from typing import Any

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
from linfdeploy.verify.headed import HeadedEvaluator, explainer_of
from linfdeploy.verify.kept import Arrays
from linfdeploy.verify.probes import Family, ProbeSet
from linfdeploy.verify.shards import Rows, Shards, Step

__all__ = ["ConformanceResult", "check_conformance", "matching_roundings", "ulp_distance"]

MATCHING_IMAGES = 64
DIAGNOSED_IMAGES = 4096
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
    engine: Engine,
    net: PixelNet,
    probes: ProbeSet,
    rebuild: Callable[[], Engine] | None = None,
    shards: Shards | None = None,
) -> ConformanceResult:
    """Runs every probe on the engine and on the evaluator and compares bits.

    Args:
        engine: The engine.
        net: Read from the engine's own graph.
        probes: As `make_probes` makes them.
        rebuild: Builds the engine again from its graph; None: it is too dear, or cannot be done here.
        shards: Shares out the images.

    Raises:
        EngineError: The evaluator itself differs from plain numpy, or the engine fails.
    """
    shards, families = shards or Shards(), probes.families
    found = _answers("conformance", engine, families, shards)
    roundings = matching_roundings(net, families, found, shards)
    closest = roundings[0] if roundings else shards.from_first(lambda: _closest(net, families, found))
    evaluator, judge = ReferenceEngine(net, closest), _judge(net, roundings or (closest,))
    bits = ReferenceEngine(net.distances, closest)
    shards.together(lambda: _check_evaluator(bits, families))
    # Those of a matching rounding are the engine's own, bit by bit.
    expected = found if roundings and judge is None else _answers("evaluator", evaluator, families, shards)
    comparison = _Comparison(net, judge)
    for name, images in families.items():
        comparison.add(name, images, found[name], expected[name])
    data, whole = families["data"][:], found["data"]
    unstable = instabilities(engine, data, whole, shards, judge)
    rebuilt, wrong = shards.from_first(
        lambda: (
            rebuild_violation(rebuild, data, whole, judge) if rebuild else None,
            list(_radius_violations(engine, evaluator, data)),
        )
    )
    conformance = Conformance(
        samples=comparison.rows,
        bit_identical=comparison.ulps["0"] / max(comparison.ulps.total(), 1),
        max_ulp=max(probe.max_ulp for probe in comparison.probes),
        deterministic=not unstable,
        probes=tuple(comparison.probes),
        ulps=dict(comparison.ulps),
        orders=tuple(rounding.name + ("; head: within enclosure" if judge else "") for rounding in roundings),
        repeats=REPEATS,
        rebuilt=rebuilt is None if rebuild else None,
        coverage=probes.coverage,
    )
    violations = (*comparison.violations, *unstable, *([rebuilt] if rebuilt else []), *wrong)
    return ConformanceResult(conformance, roundings, violations, found)


def _answers(what: str, engine: Engine, families: Mapping[str, Family], shards: Shards) -> dict[str, Logits]:
    """Returns an engine's logits of each family; those of one length share their chunks."""

    def find(alike: Mapping[str, Family], rows: Rows) -> Arrays:
        return {name: run_batched(engine, images[rows]) for name, images in alike.items()}

    found = _of_each_length(what, find, families, shards)
    return {name: found[name] for name in families}


def _of_each_length(
    what: str, find: Callable[[Mapping[str, Family], Rows], Arrays], families: Mapping[str, Family], shards: Shards
) -> dict[str, npt.NDArray[Any]]:
    """Runs a step on the rows of all families of one length at a time; the first is that of the data."""
    found: dict[str, npt.NDArray[Any]] = {}
    for place, count in enumerate(dict.fromkeys(len(images) for images in families.values())):
        alike = {name: images for name, images in families.items() if len(images) == count}
        name = f"{what} of {count} probes" if place else what
        found |= shards.map(Step(name, partial(find, alike), unit=BATCH), count)
    return found


def matching_roundings(
    net: PixelNet, families: Mapping[str, Family], found: Mapping[str, Logits], shards: Shards | None = None
) -> tuple[Rounding, ...]:
    """Returns the members of the net's family whose bits are the engine's on every image.

    Args:
        net: The net.
        families: Images, each (N, C, H, W) uint8.
        found: The engine's logits of each, (N, K).
        shards: Shares out the images.
    """
    shards = shards or Shards()
    left = shards.from_first(lambda: _matching_few(net, families, found))
    if not left:
        return ()
    evaluators = [explainer_of(net, rounding) for rounding in left]

    def find(alike: Mapping[str, Family], rows: Rows) -> Arrays:
        explained = np.ones((len(rows), len(left)), bool)
        for name, images in alike.items():
            explained &= _explained(evaluators, images[rows], found[name][rows])
        return {str(len(next(iter(alike.values())))): explained}

    flags = _of_each_length("roundings", find, families, shards)
    return _held(left, np.concatenate(list(flags.values())))


def _matching_few(
    net: PixelNet, families: Mapping[str, Family], found: Mapping[str, Logits]
) -> tuple[Rounding, ...]:
    left = tuple(roundings_of(net))
    for name, images in families.items():
        part = _few(len(images))
        evaluators = [explainer_of(net, rounding) for rounding in left]
        left = _held(left, _explained(evaluators, images[part], found[name][part]))
    return left


def _held(roundings: tuple[Rounding, ...], explained: npt.NDArray[np.bool_]) -> tuple[Rounding, ...]:
    """Returns the roundings, R of them, that hold in every row, (N, R)."""
    return tuple(rounding for column, rounding in enumerate(roundings) if explained[:, column].all())


def _explained(
    evaluators: Sequence[ReferenceEngine | HeadedEvaluator], images: Images, logits: Logits
) -> npt.NDArray[np.bool_]:
    """Returns, (N, R), whose bits a row's logits are."""
    parts = [slice(i, i + BATCH) for i in range(0, len(images), BATCH)]
    explained = np.empty((len(images), len(evaluators)), bool)
    for part in parts:
        for column, evaluator in enumerate(evaluators):
            explained[part, column] = evaluator.explains(images[part], logits[part])
    return explained


def _judge(net: PixelNet, roundings: Sequence[Rounding]) -> HeadedEvaluator | None:
    """Returns what says which logits of a net with a head are possible; a net that is not exact rounds anyhow."""
    if net.head is None:
        return None
    slack = 0.0 if net.precision == "exact" else float(2 * rounding_error(net, value_ranges(net)))
    return HeadedEvaluator(net, roundings, slack)


def _few(count: int) -> slice:
    """Returns some of `count` rows, which rule most orders out at little cost."""
    return slice(None, None, -(-count // MATCHING_IMAGES))


def _closest(net: PixelNet, families: Mapping[str, Family], found: Mapping[str, Logits]) -> Rounding:
    """Returns the rounding that comes nearest on some images of each family, where none explains all."""
    images = np.concatenate([family[_few(len(family))] for family in families.values()])
    logits = np.concatenate([found[name][_few(len(found[name]))] for name in families])
    return min(
        roundings_of(net), key=lambda r: int(ulp_distance(ReferenceEngine(net, r).run(images), logits).sum())
    )


def _check_evaluator(evaluator: ReferenceEngine, families: Mapping[str, Family]) -> None:
    check_evaluator(
        evaluator,
        np.concatenate([images[:PLAIN_IMAGES] for images in families.values()]),
        *(families[name][:PLAIN_IMAGES] for name in ("box lower end", "box upper end")),
    )


class _Comparison:
    """The engine's logits beside the evaluator's, family by family."""

    def __init__(self, net: PixelNet, judge: HeadedEvaluator | None) -> None:
        self._net = net
        self._judge = judge
        self._limit = 2 * rounding_error(net, value_ranges(net))
        self.probes: list[Probe] = []
        self.violations: list[Violation] = []
        self.ulps = Counter[str]()
        self.rows = 0

    def add(self, name: str, images: Family, logits: Logits, expected: Logits) -> None:
        distance = ulp_distance(logits, expected)
        self.probes.append(Probe(name, len(distance), float((distance == 0).mean()), int(distance.max())))
        self.ulps.update(_binned(distance))
        self.rows += len(images)
        self.violations += _not_finite(name, logits)
        if self._judge is None:
            self.violations += _difference(self._net, name, images, logits, expected, self._limit)
        else:
            self.violations += _outside(self._judge, name, images, logits, expected)


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
    net: PixelNet, name: str, images: Family, logits: Logits, expected: Logits, limit: Fraction
) -> Iterator[Violation]:
    """Yields a violation when a probe's logits differ by more than the net's precision allows."""
    with np.errstate(invalid="ignore"):
        change = np.abs(logits.astype(np.float64) - expected.astype(np.float64))
    allowed = 0.0 if net.precision == "exact" else float(limit)
    if not (wrong := ~(change <= allowed)).any():
        return
    # A window around the first: what explains it is looked for in a bounded number of images.
    first = int(wrong.any(1).argmax()) // DIAGNOSED_IMAGES * DIAGNOSED_IMAGES
    window = slice(first, first + DIAGNOSED_IMAGES)
    cause = diagnose(net, images[window], logits[window], expected[window])
    yield Violation(
        "conformance",
        f"{wrong.mean():.2%} of the logits of probe '{name}' differ, by up to {change.max():g} pixel where "
        f"{allowed:g} is allowed: {cause}",
    )


def _outside(
    judge: HeadedEvaluator, name: str, images: Family, logits: Logits, expected: Logits
) -> Iterator[Violation]:
    """Yields a violation when a probe's logits lie outside what the head may compute from its features."""
    parts = [slice(i, i + BATCH) for i in range(0, len(images), BATCH)]
    wrong = ~np.concatenate([judge.explains(images[part], logits[part]) for part in parts])
    if not wrong.any():
        return
    with np.errstate(invalid="ignore"):
        change = np.abs(logits.astype(np.float64) - expected.astype(np.float64))[wrong].max()
    yield Violation(
        "conformance",
        f"the logits of {int(wrong.sum())} of the {len(wrong)} images of probe '{name}' lie outside the enclosure "
        f"of the head, the first of image {int(wrong.argmax())}; they differ from the evaluator's by up to "
        f"{change:g}",
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
