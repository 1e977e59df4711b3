# SPDX-License-Identifier: Apache-2.0
"""What each certificate takes for granted, in the words of the report."""

from __future__ import annotations

from collections.abc import Mapping

from linfdeploy.verify.threat import Threat

__all__ = ["assumptions_of"]


def assumptions_of(threat: Threat, rounding: str | None, arithmetic: str | None = None) -> Mapping[str, str]:
    """Returns, for the attacker and for each certificate, what is assumed.

    Args:
        threat: The threat that was audited.
        rounding: Name of the rounding the engine was found to follow, or None.
        arithmetic: Name of that of the net's head; None: it has none.
    """
    by = f"by at most {threat.levels} of 255 levels"
    attacker = {
        "pixels": f"Puts in the place of an image another uint8 image that differs {by} in every pixel.",
        "real": "Perturbs the scene by at most eps in every pixel; the camera then rounds to uint8 in any "
        f"faithful way, so that the image differs {by}.",
    }
    if arithmetic is not None:
        return {"Attacker": attacker[threat.model], **_behind_a_head(rounding, arithmetic)}
    return {
        "Attacker": attacker[threat.model],
        "exact": "The device's additions and subtractions are exact where the result is representable, as "
        "IEEE-754 demands, and it runs the graph in the file.",
        "interval": "For every image the engine performs the operations in the order and with the roundings that "
        f"the probes found ({rounding or 'none matched'}).",
        "joint": "As interval; in the last layer the engine rounds at most once for each distance and each sum, "
        "in the net's format.",
        "delta": "The engine rounds at most once for each subtraction and each sum, in the net's format, in "
        "whatever association.",
    }


def _behind_a_head(rounding: str | None, arithmetic: str) -> Mapping[str, str]:
    """Returns what is assumed of a net with a head, and what an audit of one leaves out."""
    sums = f"The head's sums and tanh lose at most what {arithmetic} allows, in whatever order and batch."
    return {
        "Head": "Features cannot be seen from outside and sums have no one order, so no bits were compared: "
        f"every logit was held against the proven enclosure of what the head may compute. {sums}",
        "Lipschitz": "Not tried: behind a head only the features are 1-Lipschitz, and they cannot be seen "
        "from outside.",
        "exact": "Not given: no sum of a head is exact.",
        "interval": "For every image the engine computes the features in the order and with the roundings that "
        f"the probes leave possible ({rounding or 'none matched'}). {sums}",
        "joint": "The same certificate as interval, which takes the last layer by differences of its rows.",
        "delta": "The engine rounds at most once for each subtraction and each sum of the distance layers, in the "
        f"net's format, in whatever association. {sums}",
    }
