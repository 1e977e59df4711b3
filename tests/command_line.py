# SPDX-License-Identifier: Apache-2.0
"""The command line, called inside this process: importing torch once costs more than most commands."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from linfdeploy.cli import main

__all__ = ["Outcome", "assert_refused", "call", "processor_time_of_children"]


@dataclass(frozen=True)
class Outcome:
    """Exit code, and what was printed."""

    code: int
    out: str
    err: str


def call(*arguments: str | Path) -> Outcome:
    """Runs `linfdeploy ARGUMENTS`."""
    out, err = io.StringIO(), io.StringIO()
    handler = signal.getsignal(signal.SIGTERM)
    code: object = None
    try:
        with (
            patch.object(sys, "argv", ["linfdeploy", *map(str, arguments)]),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            main()
    except SystemExit as stop:
        code = stop.code
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert isinstance(code, int)
    return Outcome(code, out.getvalue(), err.getvalue())


def assert_refused(outcome: Outcome, *words: str) -> str:
    """Asserts exit code 2 and one line on stderr that holds all the words; returns the line."""
    assert outcome.code == 2, outcome
    lines = outcome.err.splitlines()
    assert len(lines) == 1, outcome.err
    assert lines[0].startswith("error: "), outcome.err
    assert "Traceback" not in outcome.err
    for word in words:
        assert word in lines[0], lines[0]
    return lines[0]


def processor_time_of_children() -> float:
    """Returns the seconds that ended children have computed: other work on the machine hardly shows in it."""
    times = os.times()
    return times.children_user + times.children_system
