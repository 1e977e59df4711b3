# SPDX-License-Identifier: Apache-2.0
"""TensorRT's log, kept so that its own words can go into our errors."""

from __future__ import annotations

from types import ModuleType
from typing import Any, Protocol

__all__ = ["Log", "forget", "new_log", "why"]

KEPT_LINES = 1000


class Log(Protocol):
    """TensorRT's `ILogger` with what was logged.

    Attributes:
        errors: The lines of severity error and worse, the oldest first.
        lines: Every line but the verbose ones, the oldest first.
    """

    errors: list[str]
    lines: list[str]


def new_log(trt: ModuleType) -> Log:
    """Returns a logger for a module `tensorrt`, `tensorrt_rtx` or like them; it prints nothing."""
    logger: Any = trt.ILogger

    class Kept(logger):  # type: ignore[misc]  # TensorRT has no type information
        def __init__(self) -> None:
            # Not through super(): the bindings insist on their own.
            logger.__init__(self)
            self.errors: list[str] = []
            self.lines: list[str] = []

        def log(self, severity: object, message: str) -> None:
            line = " ".join(str(message).split())
            if severity in {logger.INTERNAL_ERROR, logger.ERROR}:
                _keep(self.errors, line)
            if severity != logger.VERBOSE:
                _keep(self.lines, line)

    kept: Log = Kept()
    return kept


def why(log: Log, otherwise: str = "it does not say why") -> str:
    """Returns TensorRT's first error since the last `forget`: what follows it are mostly its consequences."""
    return log.errors[0] if log.errors else otherwise


def forget(log: Log) -> None:
    """Forgets what was logged, before a call whose errors are to be told."""
    log.errors.clear()
    log.lines.clear()


def _keep(lines: list[str], line: str) -> None:
    lines.append(line)
    del lines[:-KEPT_LINES]
