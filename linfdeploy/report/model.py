# SPDX-License-Identifier: Apache-2.0
"""The report of an audit as plain data.

`report.json` is exactly this, field by field, with the verdict and what is `shown`; `rows` are `samples.csv`.
Fractions are floats in [0, 1], of all samples unless said otherwise; `None` means that the figure does not apply,
never zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

__all__ = [
    "SCHEMA",
    "Accuracy",
    "Attack",
    "AttackRun",
    "AuditReport",
    "Certified",
    "ClassResult",
    "Conformance",
    "Curve",
    "EngineFacts",
    "Eps",
    "GoldenFacts",
    "LayerCoverage",
    "LayerFacts",
    "Lipschitz",
    "Picture",
    "Probe",
    "Raster",
    "ReferenceFacts",
    "SampleRow",
    "SanityFlag",
    "Violation",
]

SCHEMA = "linfdeploy.report/1"

UNWRITTEN: Mapping[str, bool] = {"written": False}
"""Metadata of a field that `report.json` leaves out."""


@dataclass(frozen=True)
class Eps:
    """The radius as it was asked for and exactly.

    Attributes:
        text: What the user wrote, such as "0.1" or "8/255".
        fraction: Of the pixel range [0, 1], as `str(Fraction)`: "1/10".
        pixels: In levels of 255, as `str(Fraction)`: "51/2".
        levels: Whole levels of 255: rounded down for the threat model `pixels`, up for `real`.
    """

    text: str
    fraction: str
    pixels: str
    levels: int


@dataclass(frozen=True)
class LayerFacts:
    """One layer: how many values it takes and how many it gives."""

    inputs: int
    outputs: int


@dataclass(frozen=True)
class EngineFacts:
    """What was audited.

    Attributes:
        path: The engine's file.
        backend: What ran it.
        precision: Of the arithmetic; `exact` means that no operation rounds.
        sha256: Of the engine's file, lower-case hexadecimal.
        grid: Weights are multiples of `2**-grid` pixels; None without a grid.
        form: How the graph spells the layers.
        variant: The rounding order that the engine was found to follow; None where none matched.
        versions: Of the packages that ran it, by name.
        layers: The net's layers, the first one first.
        model_sha256: Of the ONNX file that the engine was built from, where its manifest says so.
    """

    path: str
    backend: str
    precision: Literal["exact", "fp32", "fp16"]
    sha256: str
    grid: int | None
    form: str
    variant: str | None
    versions: Mapping[str, str]
    layers: tuple[LayerFacts, ...] = ()
    model_sha256: str | None = None


@dataclass(frozen=True)
class ReferenceFacts:
    """The checkpoint that the engine is held against."""

    path: str
    sha256: str


@dataclass(frozen=True)
class Accuracy:
    """Fractions of samples classified correctly, after and before deployment."""

    clean: float
    reference_clean: float | None


@dataclass(frozen=True)
class Certified:
    """Fractions of samples that are correct and certified.

    `exact`, `interval`, `delta` and `joint` are about the engine; `reference` (interval) and `reference_margin`
    about the checkpoint before deployment; `same_set`: do intervals certify the very same samples before and
    after?
    """

    exact: float | None
    interval: float | None
    delta: float | None
    reference: float | None
    reference_margin: float | None
    same_set: bool | None = None
    joint: float | None = None


@dataclass(frozen=True)
class ClassResult:
    """The figures of one class: fractions of the samples that have its label.

    Attributes:
        label: The class.
        samples: How many have it, at least 1.
        clean: Classified correctly.
        exact: Correct and certified; None where the certificate does not apply. Likewise the others.
        interval: By certificate I.
        delta: By certificate D.
        joint: By certificate J.
    """

    label: int
    samples: int
    clean: float
    exact: float | None
    interval: float | None
    delta: float | None
    joint: float | None = None


@dataclass(frozen=True)
class AttackRun:
    """What one attack achieved on the engine.

    Attributes:
        name: Of the attack.
        samples: How many it was run on.
        images: How many images of it were run on the engine.
        robust_accuracy: Fraction of all samples that are classified correctly and that this attack left so; those
            it was not run on count as left.
    """

    name: str
    samples: int
    images: int
    robust_accuracy: float


@dataclass(frozen=True)
class SanityFlag:
    """One check of whether the attacks are worth their name, on a few samples.

    Attributes:
        name: What ought to hold.
        passed: Whether it does.
        found: In words.
        expected: In words.
    """

    name: str
    passed: bool
    found: str
    expected: str


@dataclass(frozen=True)
class Attack:
    """What the attacks left standing.

    Attributes:
        name: Of the attacks together.
        steps: Of the papers' PGD.
        restarts: Gradient searches of a sample, each from another starting point or at another class.
        robust_accuracy: Fraction that the engine still classified correctly under all attacks: an upper bound of
            the truth.
        reference_robust_accuracy: The same for the checkpoint, under the images that the attacks arrived at.
        robust_by_step: The engine twin's robust accuracy after each step of the papers' PGD, the first step
            first.
        runs: One for each attack.
        sanity: Whether the attacks are worth their name.
    """

    name: str
    steps: int
    restarts: int
    robust_accuracy: float
    reference_robust_accuracy: float | None
    robust_by_step: tuple[float, ...]
    runs: tuple[AttackRun, ...] = ()
    sanity: tuple[SanityFlag, ...] = ()


@dataclass(frozen=True)
class Probe:
    """One family of conformance inputs: how many images, the share of equal outputs, the largest difference."""

    name: str
    samples: int
    bit_identical: float
    max_ulp: int


@dataclass(frozen=True)
class GoldenFacts:
    """The golden images of an edge bundle: how many were run, and the share of their logits that are equal."""

    images: int
    bit_identical: float


@dataclass(frozen=True)
class LayerCoverage:
    """How many of a layer's weights the probes look at.

    Attributes:
        weights: That the layer has.
        attaining: That attain their output's distance on some probe.
        reaching: On whose distance some logit rests on some probe: the smallest change of one that is not rounded
            away shows in the output.
    """

    weights: int
    attaining: int
    reaching: int


@dataclass(frozen=True)
class Conformance:
    """The engine against the bit-exact evaluator, over all probes.

    Attributes:
        samples: Images compared.
        bit_identical: Fraction of the outputs that are equal bit for bit.
        max_ulp: The largest distance of two outputs in units in the last place.
        deterministic: Whether equal images got the same bits: again, in other batches, orders and places.
        probes: The families of images.
        ulps: Outputs counted by distance, "0", "1", ...; a range such as "4-7" or "8+" may be one entry.
        orders: Names of the operation orders and roundings that explain every bit; more than one where no probe
            tells them apart.
        repeats: How often one batch was run again.
        rebuilt: Whether the engine, built again from its graph, gave the same bits; None: it was not built again.
        coverage: Of each layer's weights by the probes.
        golden: The golden images of the edge bundle; None without one.
    """

    samples: int
    bit_identical: float
    max_ulp: int
    deterministic: bool
    probes: tuple[Probe, ...]
    ulps: Mapping[str, int]
    orders: tuple[str, ...] = ()
    repeats: int = 0
    rebuilt: bool | None = None
    coverage: tuple[LayerCoverage, ...] = ()
    golden: GoldenFacts | None = None


@dataclass(frozen=True)
class Lipschitz:
    """Pairs of images compared: how far the outputs move when the images do.

    A figure that is not finite (the engine answered with one) is written as null.

    Attributes:
        pairs: Compared.
        max_excess: The largest `|f(x) - f(x')| - |x - x'|` in pixels; above 0 the net is not 1-Lipschitz.
        max_ratio: The largest `|f(x) - f(x')| / |x - x'|`.
        ratios: Of all pairs or of a fair choice of them, for the histogram.
        max_excess_ulp: The largest excess in units in the last place of the larger of the two logits in float32.
    """

    pairs: int
    max_excess: float
    max_ratio: float
    ratios: tuple[float, ...]
    max_excess_ulp: float = 0.0


@dataclass(frozen=True)
class Curve:
    """Certified accuracy over ascending eps in pixels, one value an eps; a series that does not apply is None."""

    eps_pixels: tuple[float, ...]
    exact: tuple[float, ...] | None
    interval: tuple[float, ...] | None
    delta: tuple[float, ...] | None
    joint: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Violation:
    """A reason for the verdict to fail.

    Attributes:
        kind: One word; `linfdeploy.report.words.KINDS` explains those that are known.
        detail: What was found, in words.
        sample: Index of the sample that shows it.
        saved: File with the input that shows it, as a path inside the report's folder.
    """

    kind: str
    detail: str
    sample: int | None = None
    saved: str | None = None


@dataclass(frozen=True)
class SampleRow:
    """One sample of the audit.

    Attributes:
        index: In the data set.
        label: The right class.
        prediction: The engine's class.
        margin: The engine's logit of the label minus its best other logit, in pixels; negative where it is wrong.
        exact: Whether certificate E holds; None where it does not apply. Likewise `interval` and `delta`.
        interval: Certificate I.
        delta: Certificate D.
        attacked: Whether an attack changed a right prediction to a wrong one; None where none was tried.
        radius_exact: Certificate E holds for radii strictly below this, in pixels, as `str(Fraction)`: "51/2".
        radius_interval: Certificate I holds for radii up to this many levels; -1 for none.
        radius_delta: Certificate D holds for radii strictly below this, in pixels, as `str(Fraction)`.
        joint: Certificate J.
        radius_joint: Certificate J holds for radii up to this many levels; -1 for none.
    """

    index: int
    label: int
    prediction: int
    margin: float
    exact: bool | None
    interval: bool | None
    delta: bool | None
    attacked: bool | None
    radius_exact: str | None = None
    radius_interval: int | None = None
    radius_delta: str | None = None
    joint: bool | None = None
    radius_joint: int | None = None


@dataclass(frozen=True)
class Raster:
    """The pixels of an image of 8 bits: its sizes, and its values in the order (C, H, W)."""

    channels: int
    height: int
    width: int
    pixels: bytes


@dataclass(frozen=True)
class Picture:
    """A sample that the page shows.

    Attributes:
        index: In the data set.
        label: The right class.
        prediction: The engine's class.
        margin: As in `SampleRow`; null in `report.json` where it is not finite.
        radius: Certified by the certificate that covers most images, as in `SampleRow`; None without one.
        fate: `broken`: certified, yet changed; `fell`: not certified and changed; `fragile`: right and
            certified up to a small radius only.
        changed_to: The engine's class for the adversarial image; None without one.
        image: The sample; not in `report.json`.
        adversarial: What the attack made of it; not in `report.json`.
    """

    index: int
    label: int
    prediction: int
    margin: float
    radius: str | None
    fate: Literal["broken", "fell", "fragile"]
    changed_to: int | None
    image: Raster = field(repr=False, metadata=UNWRITTEN)
    adversarial: Raster | None = field(default=None, repr=False, metadata=UNWRITTEN)


@dataclass(frozen=True)
class AuditReport:
    """Everything an audit found. The verdict is `pass` exactly when there are no violations.

    Attributes:
        created: When the audit ended, ISO 8601.
        linfdeploy: The version that audited.
        data: The images that were used, such as "digits" or "mnist".
        samples: How many of them, at least 1.
        eps: The radius.
        threat_model: `pixels`: images of 8 bits within `eps.levels`; `real`: every real image within `eps.pixels`.
        engine: What was audited.
        reference: The checkpoint it was held against; None without `--reference`.
        accuracy: Without an attacker.
        certified: Against every attacker.
        attack: Against ours; None if none was run.
        conformance: The engine against the evaluator.
        lipschitz: The engine against the property that the certificates rest on.
        curve: Certified accuracy for other radii.
        classes: One for each class that has samples, by label.
        assumptions: What each certificate assumes, in words, by its field name in `certified`.
        violations: Why the verdict is `fail`; empty for `pass`.
        rows: One for each sample.
        schema: Version of this layout.
        pictures: The samples that the page shows.
    """

    created: str
    linfdeploy: str
    data: str
    samples: int
    eps: Eps
    threat_model: Literal["pixels", "real"]
    engine: EngineFacts
    reference: ReferenceFacts | None
    accuracy: Accuracy
    certified: Certified
    attack: Attack | None
    conformance: Conformance
    lipschitz: Lipschitz
    curve: Curve
    assumptions: Mapping[str, str]
    violations: tuple[Violation, ...]
    rows: tuple[SampleRow, ...] = field(repr=False, metadata=UNWRITTEN)
    classes: tuple[ClassResult, ...] = ()
    schema: str = SCHEMA
    pictures: tuple[Picture, ...] = ()

    @property
    def verdict(self) -> Literal["pass", "fail"]:
        """`pass` when no step of the audit found a violation."""
        return "fail" if self.violations else "pass"
