# SPDX-License-Identifier: Apache-2.0
"""What attacks achieve on the engine itself, and which certificates they contradict.

Every adversarial image is run on the engine. A certified sample whose label changes is a violation, so is a logit
outside the interval that certificate I proved for the sample's box, and so is one that differs from the evaluator
which matched the engine on every probe: each query is a free soundness test.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from linfdeploy.engines.base import Engine, Images, Logits
from linfdeploy.report.model import Violation
from linfdeploy.verify.certificates import CertifiedFlags, Certifier, Flags
from linfdeploy.verify.determinism import run_batched
from linfdeploy.verify.threat import box_of

if TYPE_CHECKING:
    from linfdeploy.verify.attacks import Attempt

__all__ = ["Falls"]

Evidence = Mapping[str, Mapping[str, npt.NDArray[Any]]]

# More would fill the report without telling more; the count is always given.
MAX_LISTED = 20


class Falls:
    """Which samples' labels the attacks changed, as the engine sees them."""

    def __init__(
        self, engine: Engine, images: Images, certifier: Certifier, flags: CertifiedFlags, levels: int
    ) -> None:
        self._engine = engine
        self._images = images
        self._labels = certifier.labels
        self._flags = flags
        self._evaluator = certifier.evaluator
        self._bounds = self._evaluator.bounds(*box_of(images, levels)) if self._evaluator else None
        self.fallen: Flags = np.zeros(len(images), bool)
        self._adversarial = images.copy()
        self._strays = images.copy()
        self._differs: Flags = np.zeros(len(images), bool)
        self._outside: Flags = np.zeros(len(images), bool)
        self._not_finite: Flags = np.zeros(len(images), bool)

    def add(self, attempt: Attempt) -> Logits:
        """Runs an attempt's images on the engine, notes what fell, and returns the logits."""
        logits = run_batched(self._engine, attempt.images)
        changed = logits.argmax(1) != self._labels
        first = changed & ~self.fallen
        self._adversarial[first] = attempt.images[first]
        self.fallen |= changed
        broken = ~np.isfinite(logits).all(1)
        self._strays[broken] = attempt.images[broken]
        self._not_finite |= broken
        if self._evaluator is not None and self._bounds is not None:
            differs = ~self._evaluator.explains(attempt.images, logits) & ~self._outside
            self._strays[differs] = attempt.images[differs]
            self._differs |= differs
            lower, upper = self._bounds
            # Written so that NaN is outside.
            outside = ~((logits >= lower) & (logits <= upper)).all(1)
            self._strays[outside] = attempt.images[outside]
            self._outside |= outside
        return logits

    def violations(self) -> list[Violation]:
        """Returns the contradictions, each with the file that shows it."""
        found = []
        for name in ("exact", "interval", "joint", "delta"):
            flags: Flags | None = getattr(self._flags, name)
            if flags is not None:
                detail = f"certified by '{name}', yet its label changes"
                found += _listed("certificate", flags & self.fallen, detail, "fall")
        detail = "an adversarial image's logits are not the bits of the rounding that matched all probes"
        found += _listed("conformance", self._differs, detail, "stray")
        found += _listed("containment", self._outside, "a logit leaves its proven interval", "stray")
        return [*found, *_listed("not finite", self._not_finite, "a logit is infinite or NaN", "stray")]

    def evidence(self) -> Evidence:
        """Returns the arrays to save: the adversarial images, and one file for each listed violation's sample."""
        fallen = np.flatnonzero(self.fallen)
        files: dict[str, Mapping[str, npt.NDArray[Any]]] = {
            "adversarial.npz": {"index": fallen, "images": self._adversarial[fallen]}
        }
        for violation in self.violations():
            assert violation.sample is not None
            assert violation.saved is not None
            shown = self._adversarial if violation.kind == "certificate" else self._strays
            files[violation.saved] = {
                "image": self._images[violation.sample],
                "adversarial": shown[violation.sample],
            }
        return files


def _listed(kind: str, samples: Flags, detail: str, file: str) -> list[Violation]:
    indices = np.flatnonzero(samples)
    text = f"{detail} ({len(indices)} samples in all)" if len(indices) > 1 else detail
    return [Violation(kind, text, sample, f"{file}-{sample}.npz") for sample in indices[:MAX_LISTED].tolist()]
