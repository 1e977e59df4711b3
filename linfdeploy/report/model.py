# SPDX-License-Identifier: Apache-2.0
"""The report of an audit as plain data; `report.json` is exactly this, field by field.

Fractions of samples are floats in [0, 1]; `None` means that the figure does not apply, never zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

__all__ = [
    "SCHEMA",
    "Accuracy",
    "Attack",
    "AuditReport",
    "Certified",
    "Conformance",
    "Curve",
    "EngineFacts",
    "Eps",
    "Lipschitz",
    "Probe",
    "ReferenceFacts",
    "SampleRow",
    "Violation",
]

SCHEMA = "linfdeploy.report/1"


@dataclass(frozen=True)
class Eps:
    """The radius as it was asked for (`text`) and exactly: a fraction of the pixel range, pixels, whole levels."""

    text: str
    fraction: str
    pixels: str
    levels: int


@dataclass(frozen=True)
class EngineFacts:
    """What was audited. `variant` names the rounding order that the engine was found to follow."""

    path: str
    backend: str
    precision: Literal["exact", "fp32", "fp16"]
    sha256: str
    grid: int | None
    form: str
    variant: str | None
    versions: Mapping[str, str]


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

    `exact`, `interval` and `delta` are about the engine; `reference` (interval) and `reference_margin` about the
    checkpoint before deployment.
    """

    exact: float | None
    interval: float | None
    delta: float | None
    reference: float | None
    reference_margin: float | None


@dataclass(frozen=True)
class Attack:
    """What the attack left standing. `robust_by_step` is the engine twin's robust accuracy after each step."""

    name: str
    steps: int
    restarts: int
    robust_accuracy: float
    reference_robust_accuracy: float | None
    robust_by_step: tuple[float, ...]


@dataclass(frozen=True)
class Probe:
    """One family of conformance inputs: how many images, the share of equal outputs, the largest difference."""

    name: str
    samples: int
    bit_identical: float
    max_ulp: int


@dataclass(frozen=True)
class Conformance:
    """The engine against the bit-exact evaluator, over all probes. `ulps` counts outputs by distance in ulp."""

    samples: int
    bit_identical: float
    max_ulp: int
    deterministic: bool
    probes: tuple[Probe, ...]
    ulps: Mapping[str, int]


@dataclass(frozen=True)
class Lipschitz:
    """Pairs of images compared: the largest `|f(x) - f(x')| - |x - x'|` in pixels, and the largest ratio."""

    pairs: int
    max_excess: float
    max_ratio: float
    ratios: tuple[float, ...]


@dataclass(frozen=True)
class Curve:
    """Certified accuracy over eps in pixels; a series that does not apply is None."""

    eps_pixels: tuple[float, ...]
    exact: tuple[float, ...] | None
    interval: tuple[float, ...] | None
    delta: tuple[float, ...] | None


@dataclass(frozen=True)
class Violation:
    """A reason for the verdict to fail: its kind, in words, and the saved input that shows it."""

    kind: str
    detail: str
    sample: int | None = None
    saved: str | None = None


@dataclass(frozen=True)
class SampleRow:
    """One sample of the audit. `margin` is logit minus best other logit of the engine, in pixels."""

    index: int
    label: int
    prediction: int
    margin: float
    exact: bool | None
    interval: bool | None
    delta: bool | None
    attacked: bool | None


@dataclass(frozen=True)
class AuditReport:
    """Everything an audit found. The verdict is `pass` exactly when there are no violations."""

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
    rows: tuple[SampleRow, ...] = field(repr=False)
    schema: str = SCHEMA

    @property
    def verdict(self) -> Literal["pass", "fail"]:
        """`pass` when no step of the audit found a violation."""
        return "fail" if self.violations else "pass"
