# SPDX-License-Identifier: Apache-2.0
"""Reports as audits produce them, with figures that are counted from their rows."""

from __future__ import annotations

import random
from dataclasses import replace
from fractions import Fraction

from linfdeploy.report.model import (
    Accuracy,
    Attack,
    AttackRun,
    AuditReport,
    Certified,
    ClassResult,
    Conformance,
    Curve,
    EngineFacts,
    Eps,
    GoldenFacts,
    LayerFacts,
    Lipschitz,
    Picture,
    Probe,
    Raster,
    ReferenceFacts,
    SampleRow,
    SanityFlag,
    Violation,
)

HOSTILE = '</style><script>alert("1")</script>&amp;\'\udcff\x07\u202e'
SHA = "ab12cd34ef56" + "0" * 52
RADIUS = 25


def passing(samples: int = 449) -> AuditReport:
    """An exact engine that keeps its certificate, for images of 8 bits."""
    rows = _rows(samples)
    return AuditReport(
        created="2026-05-04T10:20:30+00:00",
        linfdeploy="0.1.0",
        data="digits",
        samples=samples,
        eps=Eps("0.1", "1/10", "51/2", RADIUS),
        threat_model="pixels",
        engine=_engine(),
        reference=ReferenceFacts("demo/ckpt.pt", "cd" * 32),
        accuracy=Accuracy(_share(rows, "label"), 0.977),
        certified=Certified(
            _share(rows, "exact"), _share(rows, "interval"), None, 0.9, 0.8863, None, _share(rows, "joint")
        ),
        attack=_attack(_share(rows, "attacked")),
        conformance=_conformance(),
        lipschitz=_lipschitz(),
        curve=_curve(rows),
        assumptions={
            "exact": "The device subtracts, compares and adds IEEE single-precision numbers correctly.",
            "interval": "The engine computes the operations that its graph names; the probes found no exception.",
        },
        violations=(),
        rows=rows,
        classes=_classes(rows),
        pictures=_pictures(rows),
    )


def failing() -> AuditReport:
    """An fp16 engine with many faults, described in strings that attack the page."""
    found = (
        Violation(
            "certificate",
            "sample 17 is certified, but changing 3 pixels by 25 levels turns 4 into 9",
            17,
            "violations/attack-17.npz",
        ),
        Violation("conformance", "constant images: 12 of 640 outputs differ, at most by 8 ulp", None, None),
        Violation("lipschitz", "a pair at distance 1 moves the outputs by 1.25", 3, "violations/lipschitz-3.npz"),
        Violation(HOSTILE, HOSTILE, 5, f"violations/{HOSTILE}.npz"),
    )
    whole = passing()
    engine = replace(
        whole.engine, precision="fp16", path=HOSTILE, grid=None, variant=HOSTILE, versions={HOSTILE: HOSTILE}
    )
    rows = tuple(replace(row, exact=None, radius_exact=None, delta=row.margin > 110) for row in whole.rows)
    probes = (*whole.conformance.probes, Probe(HOSTILE, 64, 0.98125, 8))
    counts = {"0": 31_408, "1": 512, "2": 61, "3": 9, "4-7": 2, "8+": 1}
    return replace(
        whole,
        data=HOSTILE,
        engine=engine,
        certified=Certified(None, whole.certified.interval, _share(rows, "delta"), 0.9, 0.8863),
        rows=rows,
        conformance=Conformance(3200, 0.98159, 8, False, probes, counts | {HOSTILE: 3}),
        lipschitz=replace(
            whole.lipschitz, max_excess=0.25, max_ratio=1.25, ratios=(*whole.lipschitz.ratios, 1.25)
        ),
        curve=replace(whole.curve, exact=None, delta=tuple(value / 4 for value in whole.curve.exact or ())),
        assumptions={"interval": HOSTILE, HOSTILE: HOSTILE},
        violations=found,
        threat_model="real",
    )


def failing_alike() -> AuditReport:
    """The same faults, on the images and against the threat of `passing`."""
    return replace(failing(), data="digits", threat_model="pixels")


def bare() -> AuditReport:
    """One sample, and everything that may be missing is."""
    return AuditReport(
        created="2026-05-04T10:20:30+00:00",
        linfdeploy="0.1.0",
        data="digits",
        samples=1,
        eps=Eps("0px", "0", "0", 0),
        threat_model="real",
        engine=replace(_engine(), grid=None, variant=None, versions={}),
        reference=None,
        accuracy=Accuracy(1.0, None),
        certified=Certified(None, None, None, None, None),
        attack=None,
        conformance=Conformance(0, 1.0, 0, True, (), {}),
        lipschitz=Lipschitz(0, 0.0, 0.0, ()),
        curve=Curve((), None, None, None),
        assumptions={},
        violations=(),
        rows=(SampleRow(0, 3, 3, 0.5, None, None, None, None),),
    )


def empty_curves() -> AuditReport:
    """Series and histograms that exist and have no entry."""
    whole = passing()
    return replace(
        whole,
        curve=Curve((), (), (), ()),
        attack=replace(_attack(0.9), robust_by_step=()),
        lipschitz=replace(whole.lipschitz, ratios=()),
        conformance=replace(whole.conformance, ulps={"0": 0}, probes=()),
        rows=(),
    )


def one_sample() -> AuditReport:
    """A single image and a curve of a single point."""
    return replace(passing(1), curve=Curve((25.0,), (1.0,), (1.0,), None))


def infinite() -> AuditReport:
    """An engine that answers with numbers that are not finite."""
    whole = failing()
    rows = (
        replace(whole.rows[0], margin=float("nan")),
        replace(whole.rows[1], margin=float("-inf")),
        *whole.rows[2:],
    )
    worst = Lipschitz(40, float("inf"), float("nan"), (0.5, float("nan"), float("inf")), float("nan"))
    return replace(whole, rows=rows, lipschitz=worst)


ALL = {make.__name__: make for make in (passing, failing, bare, empty_curves, one_sample, infinite)}


def _rows(samples: int) -> tuple[SampleRow, ...]:
    dice = random.Random(7)
    return tuple(_row(index, dice) for index in range(samples))


def _certified(rows: tuple[SampleRow, ...]) -> Certified:
    interval = _share(rows, "interval")
    return Certified(_share(rows, "exact"), interval, None, 0.9, 0.8863, joint=interval)


def _classes(rows: tuple[SampleRow, ...]) -> tuple[ClassResult, ...]:
    groups = {label: tuple(row for row in rows if row.label == label) for label in range(10)}
    return tuple(
        ClassResult(label, len(of), _share(of, "label"), _share(of, "exact"), _share(of, "interval"), None)
        for label, of in groups.items()
        if of
    )


def _row(index: int, dice: random.Random) -> SampleRow:
    margin = round(dice.gauss(93, 34) * 4096) / 4096
    label, right = dice.randrange(10), margin > 0
    exact = margin > 2 * RADIUS
    interval = exact or (right and margin > 1.8 * RADIUS)
    attacked = right and not interval and dice.random() < 0.55
    radius = str(Fraction(max(margin, 0.0)) / 2)
    predicted = label if right else (label + 1) % 10
    level = max(int(margin / 1.8), -1)
    flags = exact, interval, None, attacked
    return SampleRow(index, label, predicted, margin, *flags, radius, level, None, interval, level)


def _share(rows: tuple[SampleRow, ...], what: str) -> float:
    right = [row for row in rows if row.prediction == row.label]
    held = {"label": right, "attacked": [row for row in right if not row.attacked]}
    return len(held.get(what, [row for row in right if getattr(row, what)])) / len(rows)


def _curve(rows: tuple[SampleRow, ...]) -> Curve:
    radii = tuple(float(eps) for eps in range(0, 81, 2))
    exact = tuple(sum(row.margin > 2 * eps for row in rows) / len(rows) for eps in radii)
    interval = tuple(sum(row.margin > 1.8 * eps for row in rows) / len(rows) for eps in radii)
    return Curve(radii, exact, interval, None, interval)


def _attack(robust: float) -> Attack:
    steps = tuple(min(1.0, robust + 0.08 * 0.93**step) for step in range(1, 101))
    runs = AttackRun("PGD-100", 60, 60, robust), AttackRun("Square on the engine", 20, 900, 0.95)
    flags = (SanityFlag("eps = 0 breaks nothing", True, "0 of 24 fall", "none"),)
    return Attack("PGD with margin loss", 100, 5, robust, 0.93, steps, runs, flags)


def _pictures(rows: tuple[SampleRow, ...]) -> tuple[Picture, ...]:
    """A fallen sample in grey with what the attack made of it, and a fragile one in colour."""
    grey = Raster(1, 8, 8, bytes(range(0, 256, 4)))
    changed = Raster(1, 8, 8, bytes(range(0, 256, 4))[::-1])
    coloured = Raster(3, 2, 4, bytes(range(24)))
    fell = next((row for row in rows if row.attacked), None)
    right = next(row for row in rows if row.prediction == row.label)
    single = Picture(*_shown_row(right), fate="fragile", changed_to=None, image=coloured)
    if fell is None:
        return (single,)
    other = (fell.label + 1) % 10
    pair = Picture(*_shown_row(fell), fate="fell", changed_to=other, image=grey, adversarial=changed)
    return (pair, single)


def _shown_row(row: SampleRow) -> tuple[int, int, int, float, str | None]:
    return row.index, row.label, row.prediction, row.margin, row.radius_exact


def _engine() -> EngineFacts:
    versions = {"onnxruntime": "1.31.1", "numpy": "2.3.0"}
    layers = (LayerFacts(64, 128), LayerFacts(128, 10))
    return EngineFacts(
        path="demo/model.engine",
        backend="onnxruntime",
        precision="exact",
        sha256=SHA,
        grid=12,
        form="function",
        variant="per-op",
        versions=versions,
        layers=layers,
        model_sha256="ef" * 32,
    )


def _conformance() -> Conformance:
    names = (
        "test images",
        "random images",
        "constant images",
        "box corners",
        "adversarial images",
        "odd batch sizes",
    )
    probes = tuple(Probe(name, 512, 1.0, 0) for name in names)
    return Conformance(3072, 1.0, 0, True, probes, {"0": 30_720}, golden=GoldenFacts(1280, 0.99999))


def _lipschitz() -> Lipschitz:
    dice = random.Random(9)
    ratios = tuple(min(1.0, dice.betavariate(5, 2.2)) for _ in range(3000))
    return Lipschitz(3000, 0.0, max(ratios), ratios)
