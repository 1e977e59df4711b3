# SPDX-License-Identifier: Apache-2.0
"""What attacks achieve on the engine itself, and which certificates they contradict.

Every adversarial image is run on the engine. A certified sample whose label changes is a violation, so is a logit
outside the interval that certificate I proved for the sample's box, and so is one that differs from the evaluator
which matched the engine on every probe: each query is a free soundness test.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from linfdeploy.engines.base import Engine, Images, Logits
from linfdeploy.report.model import Violation
from linfdeploy.verify.certificates import CertifiedFlags, Certifier, Flags
from linfdeploy.verify.determinism import run_batched
from linfdeploy.verify.kept import Arrays
from linfdeploy.verify.radii import Levels
from linfdeploy.verify.threat import box_of

if TYPE_CHECKING:
    from linfdeploy.verify.attacks.attempt import Attempt

__all__ = ["Fallen", "Falls"]

Evidence = Mapping[str, Mapping[str, npt.NDArray[Any]]]

# More would fill the report without telling more; the count is always given.
MAX_LISTED = 20


@dataclass(frozen=True)
class Fallen:
    """What attacks achieved on some samples, N of them.

    Attributes:
        fallen: (N,) whose label changed.
        differs: (N,) whose logits were not the evaluator's on some image.
        outside: (N,) that had a logit outside its proven interval.
        not_finite: (N,) that had a logit that is infinite or NaN.
        adversarial: (F, C, H, W) uint8, the image that first changed each label of `fallen`, in their order.
        strays: (S, C, H, W) uint8, the last image that shows it, for each sample of the three.
    """

    fallen: Flags
    differs: Flags
    outside: Flags
    not_finite: Flags
    adversarial: Images
    strays: Images

    def arrays(self) -> Arrays:
        """Returns the fields by name."""
        return dict(vars(self))

    @classmethod
    def fits(cls, arrays: Arrays, samples: int, shape: tuple[int, ...]) -> bool:
        """Whether arrays of the fields' names could be those of so many samples with images of a shape."""
        flags = [arrays.get(name) for name in ("fallen", "differs", "outside", "not_finite")]
        images = [arrays.get(name) for name in ("adversarial", "strays")]
        if any(array is None or array.dtype != bool or array.shape != (samples,) for array in flags):
            return False
        fallen, *strays = (array for array in flags if array is not None)
        counts = int(fallen.sum()), int(np.logical_or.reduce(strays).sum())
        return all(
            array is not None and array.dtype == np.uint8 and array.shape == (count, *shape)
            for array, count in zip(images, counts, strict=True)
        )

    def shown(self, images: Images) -> tuple[Images, Images]:
        """Returns, of all N images, those that fell, and what they became, each (F, C, H, W) uint8."""
        return images[self.fallen], self.adversarial

    def violations(self, certified: CertifiedFlags) -> list[Violation]:
        """Returns the contradictions to what was certified, each with the file that shows it."""
        found = []
        for name in ("exact", "interval", "joint", "delta"):
            flags: Flags | None = getattr(certified, name)
            if flags is not None:
                detail = f"certified by '{name}', yet its label changes"
                found += _listed("certificate", flags & self.fallen, detail, "fall")
        detail = "an adversarial image's logits are not those of the rounding that matched all probes"
        found += _listed("conformance", self.differs, detail, "stray")
        found += _listed("containment", self.outside, "a logit leaves its proven interval", "stray")
        return [*found, *_listed("not finite", self.not_finite, "a logit is infinite or NaN", "stray")]

    def evidence(self, images: Images, certified: CertifiedFlags) -> Evidence:
        """Returns the arrays to save: the adversarial images, and one file for each listed violation's sample."""
        fallen = np.flatnonzero(self.fallen)
        files: dict[str, Mapping[str, npt.NDArray[Any]]] = {
            "adversarial.npz": {"index": fallen, "images": self.adversarial}
        }
        stray = np.flatnonzero(self.differs | self.outside | self.not_finite)
        for violation in self.violations(certified):
            assert violation.sample is not None
            assert violation.saved is not None
            of, shown = (fallen, self.adversarial) if violation.kind == "certificate" else (stray, self.strays)
            files[violation.saved] = {
                "image": images[violation.sample],
                "adversarial": shown[np.searchsorted(of, violation.sample)],
            }
        return files


class Falls:
    """Which samples' labels the attacks changed, as the engine sees them."""

    def __init__(
        self, engine: Engine, images: Images, certifier: Certifier, flags: CertifiedFlags, levels: int | Levels
    ) -> None:
        self._engine = engine
        self._images = images
        self._labels = certifier.labels
        self._flags = flags
        self._levels = levels
        self._evaluator = certifier.evaluator
        self._bounds = self._evaluator.bounds(*box_of(images, levels)) if self._evaluator else None
        self.fallen: Flags = np.zeros(len(images), bool)
        self._adversarial = images.copy()
        self._strays = images.copy()
        self._differs: Flags = np.zeros(len(images), bool)
        self._outside: Flags = np.zeros(len(images), bool)
        self._not_finite: Flags = np.zeros(len(images), bool)

    def add(self, attempt: Attempt) -> Logits:
        """Runs an attempt's images on the engine, notes what fell, and returns the logits.

        An image counts as adversarial only where no pixel differs by more than the threat's levels: whole numbers,
        compared as such. One that left the ball is a fault of the attack.
        """
        rows, logits = attempt.rows, run_batched(self._engine, attempt.images)
        moved = np.abs(attempt.images.astype(np.int16) - self._images[rows]).reshape(len(rows), -1).max(1)
        inside = moved <= np.broadcast_to(self._levels, len(self._images))[rows]
        assert inside.all(), f"{attempt.name} left the threat's box"
        changed = (logits.argmax(1) != self._labels[rows]) & inside
        self._keep(self._adversarial, changed & ~self.fallen[rows], attempt)
        self.fallen[rows[changed]] = True
        broken: Flags = np.asarray(~np.isfinite(logits).all(1))
        self._keep(self._strays, broken, attempt)
        self._not_finite[rows[broken]] = True
        if self._evaluator is not None and self._bounds is not None:
            differs: Flags = ~self._evaluator.explains(attempt.images, logits) & ~self._outside[rows]
            self._keep(self._strays, differs, attempt)
            self._differs[rows[differs]] = True
            lower, upper = (end[rows] for end in self._bounds)
            # Written so that NaN is outside.
            outside: Flags = np.asarray(~((logits >= lower) & (logits <= upper)).all(1))
            self._keep(self._strays, outside, attempt)
            self._outside[rows[outside]] = True
        return logits

    @staticmethod
    def _keep(kept: Images, which: Flags, attempt: Attempt) -> None:
        kept[attempt.rows[which]] = attempt.images[which]

    def found(self) -> Fallen:
        """Returns what was noted."""
        stray = self._differs | self._outside | self._not_finite
        return Fallen(
            self.fallen,
            self._differs,
            self._outside,
            self._not_finite,
            self._adversarial[self.fallen],
            self._strays[stray],
        )

    def violations(self) -> list[Violation]:
        """Returns the contradictions to the flags it was given."""
        return self.found().violations(self._flags)

    def evidence(self) -> Evidence:
        """Returns the arrays that show them; see `Fallen.evidence`."""
        return self.found().evidence(self._images, self._flags)


def _listed(kind: str, samples: Flags, detail: str, file: str) -> list[Violation]:
    indices = np.flatnonzero(samples)
    text = f"{detail} ({len(indices)} samples in all)" if len(indices) > 1 else detail
    return [Violation(kind, text, sample, f"{file}-{sample}.npz") for sample in indices[:MAX_LISTED].tolist()]
