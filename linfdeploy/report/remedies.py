# SPDX-License-Identifier: Apache-2.0
"""What to do about each kind of violation."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["REMEDIES", "remedy"]

_REBUILD = "Build the engine again with linfdeploy build, and do not edit its file."
_EXPORT = (
    "Export that checkpoint again with linfdeploy export and build the result, or name the checkpoint that was "
    "really deployed as --reference."
)
_BACKEND = (
    "Look for a driver, library or build option that computes otherwise (TF32, fp16, another operation order), "
    "switch it off, build again; export with --precision exact, which no order of operations can change."
)
_FAULT = (
    "Do not deploy. Open the saved input on another machine: if it is right there, the device or its driver is at "
    "fault; if not, report it as a fault of linfdeploy together with report.json and the saved input."
)

REMEDIES: Mapping[str, str] = {
    "engine file": _REBUILD,
    "graph": "Export the checkpoint again with linfdeploy export, and let no other tool rewrite the graph.",
    "precision": "Build without reduced precision, or audit for the precision that was built: --precision.",
    "shape": _EXPORT,
    "classes": _EXPORT,
    "bias": _EXPORT,
    "weight bit": "A bit flipped in memory, on disk or on the way: copy the file again, check the memory.",
    "input column": _EXPORT,
    "weights": _EXPORT,
    "reference": "Export to a precision that this checkpoint allows; linfdeploy export says what does not fit.",
    "conformance": _BACKEND,
    "golden": "Build the engine in this bundle's folder from its own model, with the commands in it.",
    "not finite": _FAULT,
    "determinism": "Look for faulty memory and for kernels that are chosen anew at each start; build again.",
    "label": "Export again with linfdeploy export --radius; until then take the label from the logits.",
    "radius": "Export again with linfdeploy export --radius; until then do not use the engine's own radius.",
    "lipschitz": _BACKEND,
    "containment": _FAULT,
    "certificate": _FAULT,
}
"""What mends each known kind of violation, by its name."""


def remedy(kind: str) -> str:
    """Returns how to mend a violation of a kind, known or not."""
    return REMEDIES.get(kind, "Do not deploy before it is explained.")
