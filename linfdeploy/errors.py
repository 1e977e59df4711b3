# SPDX-License-Identifier: Apache-2.0
"""Every error this package raises on purpose.

LinfDeployError              exit code 2: wrong use, or input that cannot be used
├── InputError               a file or a value from outside is unreadable, malformed or hostile
│   ├── CheckpointError      a `.pt` checkpoint
│   ├── RecipeError          a training recipe
│   ├── DatasetError         a data set
│   └── GraphError           an ONNX file or an engine's graph
├── ExportError              a net that cannot be exported with what was promised for it
├── EngineError              a backend that cannot build or run
├── KernelError              arguments a kernel cannot take, or a kernel that cannot run
├── PeerError                another process of the same run has failed
└── MissingExtraError        a part of the package that is not installed

A failed verdict is not an error: `verify` reports it and exits with 1.
"""

from __future__ import annotations

__all__ = [
    "CheckpointError",
    "DatasetError",
    "EngineError",
    "ExportError",
    "GraphError",
    "InputError",
    "KernelError",
    "LinfDeployError",
    "MissingExtraError",
    "PeerError",
    "RecipeError",
    "brief",
]


class LinfDeployError(Exception):
    """Base of all errors; its text is one line: what was found, what was expected, how to mend it."""

    exit_code = 2


class InputError(LinfDeployError):
    """A file or a value from outside that cannot be used."""


class CheckpointError(InputError):
    """A checkpoint that is unreadable, malformed or not ours."""


class RecipeError(InputError):
    """A training recipe with an unknown, missing or impossible field."""


class DatasetError(InputError):
    """A data set that is missing, malformed or empty."""


class GraphError(InputError):
    """An ONNX file that is unreadable, malformed, hostile or holds something else than our nets."""


class ExportError(LinfDeployError):
    """A net that cannot be exported with the precision that was asked for."""


class EngineError(LinfDeployError):
    """A backend that cannot build or run the model it was given."""


class KernelError(LinfDeployError, ValueError):
    """Arguments of a shape, dtype, layout or device that a kernel does not take, or a kernel that cannot run."""


class PeerError(LinfDeployError):
    """Another process of the same run has failed, so this one cannot go on.

    Attributes:
        said: Whether that process has told why, so that nothing is left to tell.
    """

    def __init__(self, text: str, *, said: bool = False) -> None:
        super().__init__(text)
        self.said = said


class MissingExtraError(LinfDeployError, ImportError):
    """A part of the package whose dependencies are not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs packages that are not installed: pip install 'linfdeploy[{extra}]'")


def brief(value: object) -> str:
    """Returns a value from outside as one line of bounded length, for an error text."""
    try:
        text = " ".join(repr(value).split())
    except (RecursionError, ValueError):
        # Python writes no number of more than 4300 digits.
        return f"a {type(value).__name__} too large to show"
    return text if len(text) <= 200 else f"{text[:197]}..."
