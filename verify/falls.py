# SPDX-License-Identifier: Apache-2.0
"""What attacks achieve on the engine itself, and which certificates they contradict.

Every adversarial image is run on the engine. A certified sample whose label changes is a violation, and so is a
logit outside the interval that certificate I proved for the sample's box: each query is a free soundness test.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from linfdeploy.engines.base import Engine, Images, Logits
from linfdeploy.report.model import Violation
from linfdeploy.verify.certificates import CertifiedFlags, Certifier, Flags
from linfdeploy.verify.conformance import run_batched
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
        box = box_of(images, levels)
        self._bounds = certifier.evaluator.bounds(*box) if certifier.evaluator else None
        self.fallen: Flags = np.zeros(len(images), bool)
        self._adversarial = images.copy()
        self._outside: Flags = np.zeros(len(images), bool)

    def add(self, attempt: Attempt) -> Logits:
        """Runs an attempt's images on the engine, notes what fell, and returns the logits."""
        logits = run_batched(self._engine, attempt.images)
        changed = logits.argmax(1) != self._labels
        first = changed & ~self.fallen
        self._adversarial[first] = attempt.images[first]
        self.fallen |= changed
        if self._bounds is not None:
            lower, upper = self._bounds
            outside = ((logits < lower) | (logits > upper)).any(1)
            self._adversarial[outside] = attempt.images[outside]
            self._outside |= outside
        return logits

    def violations(self) -> list[Violation]:
        """Returns the contradictions, each with the file that shows it."""
        found = []
        for name in ("exact", "interval", "delta"):
            flags: Flags | None = getattr(self._flags, name)
            if flags is not None:
                found += self._listed(
                    f"certificate {name}", flags & self.fallen, "certified, yet its label changes"
                )
        return [*found, *self._listed("containment", self._outside, "a logit leaves its proven interval")]

    def evidence(self) -> Evidence:
        """Returns the arrays to save: the adversarial images, and one file for each contradicted sample."""
        fallen = np.flatnonzero(self.fallen)
        files: dict[str, Mapping[str, npt.NDArray[Any]]] = {
            "adversarial.npz": {"index": fallen, "images": self._adversarial[fallen]}
        }
        for sample in np.flatnonzero((self._flags.any & self.fallen) | self._outside)[:MAX_LISTED].tolist():
            images = {"image": self._images[sample], "adversarial": self._adversarial[sample]}
            files[_file(sample)] = images
        return files

    def _listed(self, kind: str, samples: Flags, detail: str) -> list[Violation]:
        indices = np.flatnonzero(samples)
        text = f"{detail} ({len(indices)} samples in all)" if len(indices) > 1 else detail
        return [Violation(kind, text, sample, _file(sample)) for sample in indices[:MAX_LISTED].tolist()]


def _file(sample: int) -> str:
    return f"violation-{sample}.npz"
