# SPDX-License-Identifier: Apache-2.0
"""A bar with the time that is left on a terminal; elsewhere notes alone."""

from __future__ import annotations

import io
import sys

import pytest

from linfdeploy.cli.progress import Notes, progress_bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def told(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(sys, "stderr", stream)
    with progress_bar() as progress:
        progress.step("certificates", 300)
        progress.advance(75)
        progress.step("attacks", 300)
        progress.advance(75)
        progress.advance(75)
        progress.note("of [another] audit\x1b[2J")
    return stream.getvalue()


def test_a_terminal_shows_step_samples_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = told(Terminal(), monkeypatch)
    assert "attacks" in shown
    assert "150/300" in shown
    assert "0:00:00" in shown
    # A file's name is text: neither markup nor what moves the cursor.
    assert "note: of [another] audit\\x1b[2J" in shown


def test_elsewhere_only_notes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(io.StringIO(), monkeypatch) == "note: of [another] audit\\x1b[2J\n"


def test_processes_beside_the_first_are_silent(capsys: pytest.CaptureFixture[str]) -> None:
    Notes(silent=True).note("x")
    assert capsys.readouterr() == ("", "")
