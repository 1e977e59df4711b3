# SPDX-License-Identifier: Apache-2.0
"""The engine against the bit-exact evaluator, on images chosen to show differences.

In exact mode one differing bit is a violation. In fp32 and fp16 the roundings an engine may follow are tried, and
the one that matches is named; beyond `2 delta` no rounding explains a difference, and it is a violation as well.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from linfdeploy.engines.base import Engine, Images, Logits
from linfdeploy.engines.plain import check_evaluator
from linfdeploy.engines.reference import ReferenceEngine, Rounding, roundings_of
from linfdeploy.onnx.passes.ranges import rounding_error, value_ranges
from linfdeploy.onnx.pixel_net import PIXEL_MAX, PixelNet
from linfdeploy.report.model import Conformance, Probe, Violation
from linfdeploy.verify.diagnosis import diagnose
from linfdeploy.verify.draws import Draws
from linfdeploy.verify.kept import Arrays
from linfdeploy.verify.shards import Rows, Shards, Step
from linfdeploy.verify.threat import box_of

__all__ = [
    "BATCH",
    "PAIRED_PROBES",
    "ConformanceResult",
    "Family",
    "Moved",
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
DIAGNOSED_IMAGES = 4096
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


def make_probes(images: Images, levels: int, seed: int) -> dict[str, Family]:
    """Returns named families of images: data, box corners, random and constant images.

    Args:
        images: (N, C, H, W) uint8, the data.
        levels: Half the width of the boxes.
        seed: Of the random images.
    """
    rng = np.random.default_rng(seed)
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


def check_conformance(
    engine: Engine, net: PixelNet, probes: Mapping[str, Family], shards: Shards | None = None
) -> ConformanceResult:
    """Runs every probe on the engine and on the evaluator and compares bits.

    Args:
        engine: The engine.
        net: Read from the engine's own graph.
        probes: Families of images, each (N, C, H, W) uint8, as `make_probes` makes them; the first is the data.
        shards: Shares out the images.

    Raises:
        EngineError: The evaluator itself differs from plain numpy.
    """
    shards = shards or Shards()
    # Some of each family: on dark or whole-numbered images alone, several roundings give the same bits.
    some = np.concatenate([images[:: -(-len(images) // MATCHING_IMAGES)] for images in probes.values()])
    (rounding,) = shards.from_first(lambda: [_matching_rounding(engine, net, some)])
    evaluator = ReferenceEngine(net, rounding or Rounding())
    shards.together(lambda: _check_evaluator(evaluator, probes))
    answers = _answers(engine, evaluator, probes, shards)
    comparison = _Comparison(net)
    for name, images in probes.items():
        comparison.add(name, images, *answers[name])
    whole = answers[next(iter(probes))][0]
    unstable, wrong = _beside_the_bits(engine, evaluator, next(iter(probes.values())), whole, shards)
    conformance = Conformance(
        samples=comparison.rows,
        bit_identical=comparison.ulps["0"] / max(comparison.ulps.total(), 1),
        max_ulp=max(probe.max_ulp for probe in comparison.probes),
        deterministic=not unstable,
        probes=tuple(comparison.probes),
        ulps=dict(comparison.ulps),
    )
    matched = rounding if comparison.ulps["0"] == comparison.ulps.total() else None
    violations = (*comparison.violations, *unstable, *wrong)
    return ConformanceResult(
        conformance, matched, violations, {name: found for name, (found, _) in answers.items()}
    )


def _check_evaluator(evaluator: ReferenceEngine, probes: Mapping[str, Family]) -> None:
    check_evaluator(
        evaluator,
        np.concatenate([images[:PLAIN_IMAGES] for images in probes.values()]),
        *(probes[name][:PLAIN_IMAGES] for name in ("box lower end", "box upper end")),
    )


def _answers(
    engine: Engine, evaluator: ReferenceEngine, probes: Mapping[str, Family], shards: Shards
) -> dict[str, tuple[Logits, Logits]]:
    """Returns the engine's and the evaluator's logits of each family; those of one length share their chunks."""
    answers: dict[str, tuple[Logits, Logits]] = {}
    for count in dict.fromkeys(len(images) for images in probes.values()):
        families = {name: images for name, images in probes.items() if len(images) == count}

        def find(rows: Rows, families: dict[str, Family] = families) -> Arrays:
            runs = {}
            for name, images in families.items():
                part = images[rows]
                runs[f"{name}, engine"] = run_batched(engine, part)
                runs[f"{name}, evaluator"] = run_batched(evaluator, part)
            return runs

        name = "conformance" if next(iter(probes)) in families else f"probes of {count}"
        found = shards.map(Step(name, find), count)
        answers |= {name: (found[f"{name}, engine"], found[f"{name}, evaluator"]) for name in families}
    return answers


class _Comparison:
    """The engine's logits beside the evaluator's, family by family."""

    def __init__(self, net: PixelNet) -> None:
        self._net = net
        self._limit = 2 * rounding_error(net, value_ranges(net))
        self.probes: list[Probe] = []
        self.violations: list[Violation] = []
        self.ulps = Counter[str]()
        self.rows = 0

    def add(self, name: str, images: Family, logits: Logits, expected: Logits) -> None:
        distance = ulp_distance(logits, expected)
        self.probes.append(_probe(name, distance))
        self.ulps.update(_binned(distance))
        self.rows += len(images)
        self.violations += _difference(self._net, name, images, logits, expected, self._limit)


def _beside_the_bits(
    engine: Engine, evaluator: ReferenceEngine, data: Family, whole: Logits, shards: Shards
) -> tuple[list[Violation], list[Violation]]:
    """Returns violations of determinism, and those of the graph's own label and radius."""

    def find(rows: Rows) -> Arrays:
        again = run_batched(engine, data[rows])
        return {"same": (again == whole[rows]).all(1)}

    same = shards.map(Step("determinism", find), len(data))["same"]
    unstable = (
        [] if same.all() else [Violation("determinism", "two runs over the same images give different logits")]
    )
    few, wrong = shards.from_first(
        lambda: (list(_batch_violations(engine, data, whole)), list(_radius_violations(engine, evaluator, data)))
    )
    return unstable + few, wrong


def run_batched(engine: Engine, images: Family, batch: int = BATCH) -> Logits:
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


def _batch_violations(engine: Engine, images: Family, whole: Logits) -> Iterator[Violation]:
    """Yields a violation for each size of batches that gives other logits than `whole`, of the first run."""
    for batch in ODD_BATCHES:
        part = images[: min(len(images), max(2 * batch + 1, 19))]
        if not np.array_equal(run_batched(engine, part, batch), whole[: len(part)]):
            yield Violation("determinism", f"batches of {batch} give other logits than batches of {BATCH}")


def _radius_violations(engine: Engine, evaluator: ReferenceEngine, images: Family) -> Iterator[Violation]:
    """Yields a violation when the graph's own label or radius is not what its logits give."""
    answers = engine.answer(images[:BATCH])
    if "radius" not in answers:
        return
    expected = evaluator.label_and_radius(answers["logits"].astype(np.float32))
    for name in ("label", "radius"):
        if not np.array_equal(answers[name], expected[name]):
            yield Violation(name, f"the graph's output '{name}' is not what its logits give")
