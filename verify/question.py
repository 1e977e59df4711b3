# SPDX-License-Identifier: Apache-2.0
"""Everything that an audit's findings depend on, so that what was kept of another audit is never used."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np

from linfdeploy import __version__
from linfdeploy.verify.summary import Subject, TestSet
from linfdeploy.verify.threat import Threat

__all__ = ["question_of"]


def question_of(subject: Subject, data: TestSet, threat: Threat, others: Mapping[str, str]) -> dict[str, str]:
    """Returns what is asked, in words or as SHA-256, by name.

    Args:
        subject: What is audited.
        data: On which images.
        threat: Against whom.
        others: What else is asked, by name.
    """
    opened = subject.opened
    return {
        "linfdeploy": __version__,
        "engine": opened.sha256,
        "graph": opened.graph.sha256,
        "manifest": str(opened.manifest),
        "backend": f"{opened.backend} {dict(sorted(opened.engine.versions.items()))}",
        "numpy": np.__version__,
        "reference": subject.reference.facts.sha256 if subject.reference else "none",
        "bundle": subject.bundle.model_sha256 if subject.bundle else "none",
        "data": _data_digest(data),
        "samples": str(len(data.images)),
        "eps": f"{threat.eps}, {threat.levels} levels",
        "threat model": threat.model,
        **others,
    }


def _data_digest(data: TestSet) -> str:
    digest = hashlib.sha256(f"{data.images.shape} ".encode())
    # In parts: images may be a view whose copy would take as much memory again.
    for first in range(0, len(data.images), 4096):
        digest.update(np.ascontiguousarray(data.images[first : first + 4096]).tobytes())
    digest.update(np.ascontiguousarray(data.labels).tobytes())
    return digest.hexdigest()
