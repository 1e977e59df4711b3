# SPDX-License-Identifier: Apache-2.0
"""What each certificate takes for granted, in the words of the report."""

from __future__ import annotations

from collections.abc import Mapping

from linfdeploy.verify.threat import Threat

__all__ = ["assumptions_of"]


def assumptions_of(threat: Threat, rounding: str | None) -> Mapping[str, str]:
    """Returns, for each certificate and for the threat model, what it claims and what it rests on.

    Args:
        threat: The threat that was audited.
        rounding: Name of the rounding the engine was found to follow, or None.
    """
    reach = {
        "pixels": f"uint8 images that differ by at most {threat.levels} of 255 levels in every pixel.",
        "real": f"real perturbations of at most eps, rounded to uint8 by the camera in any faithful way: at most "
        f"{threat.levels} of 255 levels in every pixel.",
    }
    return {
        "threat": reach[threat.model],
        "exact": "Proved for the weights in the file: no operation of the net rounds, so the engine is the real "
        "1-Lipschitz net whatever is fused or reordered. Rests on correctly rounded IEEE-754 operations and on "
        "the engine running the graph, which the conformance probes test.",
        "interval": "Proved for an engine that performs the operations in the tested order and roundings "
        f"({rounding or 'none matched'}). That the engine does so for every image is tested, not proved.",
        "delta": "Proved for an engine that rounds at most once after each subtraction and each sum, in the net's "
        "format, in any order. That it does so is tested, not proved.",
        "reference": "Proved for the real-number net of the checkpoint, before deployment.",
        "attack": "Tested: the attacks found no more than is reported; stronger ones may exist.",
    }
