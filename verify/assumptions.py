# SPDX-License-Identifier: Apache-2.0
"""What each certificate takes for granted, in the words of the report."""

from __future__ import annotations

from collections.abc import Mapping

from linfdeploy.verify.threat import Threat

__all__ = ["assumptions_of"]


def assumptions_of(threat: Threat, rounding: str | None) -> Mapping[str, str]:
    """Returns, for the attacker and for each certificate, what is assumed.

    Args:
        threat: The threat that was audited.
        rounding: Name of the rounding the engine was found to follow, or None.
    """
    by = f"by at most {threat.levels} of 255 levels"
    attacker = {
        "pixels": f"Puts in the place of an image another uint8 image that differs {by} in every pixel.",
        "real": "Perturbs the scene by at most eps in every pixel; the camera then rounds to uint8 in any "
        f"faithful way, so that the image differs {by}.",
    }
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
