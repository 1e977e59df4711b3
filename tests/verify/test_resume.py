# SPDX-License-Identifier: Apache-2.0
"""An interrupted audit goes on where it was and ends with the same bytes; nothing else that lies there is used."""

from __future__ import annotations

import json
import pickle
import random
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import call
from rank_processes import start_ranks
from verify_runs import figures, made_in, verify_command

from linfdeploy.verify.kept import Arrays, Kept
from linfdeploy.verify.shards import DiscardedError, Rows, Shards, Step

COUNT = 300
QUESTION = {"engine": "ab", "eps": "8"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_in(tmp_path_factory.mktemp("made"))


class Notes:
    """Progress that remembers its notes and can be interrupted."""

    def __init__(self, stop_after: int = 1000) -> None:
        self.notes: list[str] = []
        self._left = stop_after

    def step(self, name: str, total: int) -> None:
        pass

    def advance(self, count: int) -> None:
        self._left -= 1
        if not self._left:
            raise KeyboardInterrupt

    def note(self, text: str) -> None:
        self.notes.append(text)


class Squares:
    """A step that remembers which rows it computed."""

    def __init__(self, salt: int = 0) -> None:
        self.computed: list[int] = []
        self._salt = salt

    def __call__(self, rows: Rows) -> Arrays:
        self.computed += rows.tolist()
        return {"square": rows**2 + self._salt, "even": rows % 2 == 0}

    def run(self, folder: Path, notes: Notes, question: dict[str, str] | None = None) -> dict[str, Any]:
        shards = Shards(kept=Kept(folder), progress=notes)
        shards.begin(question or QUESTION)
        return shards.map(Step("squares", self), COUNT)


@pytest.fixture
def interrupted(tmp_path: Path) -> Path:
    """A folder with three chunks of four."""
    with pytest.raises(KeyboardInterrupt):
        Squares().run(tmp_path / "kept", Notes(3))
    names = {path.name for path in (tmp_path / "kept").iterdir()}
    assert names == {"question.json", "squares-0.npz", "squares-1.npz", "squares-2.npz"}
    return tmp_path / "kept"


class TestChunks:
    def test_finished_chunks_are_not_computed_again(self, interrupted: Path) -> None:
        again, notes = Squares(), Notes()
        found = again.run(interrupted, notes)
        assert found["square"].tolist() == [row**2 for row in range(COUNT)]
        # One row in a hundred of what was finished, to see whether it holds.
        assert sorted(again.computed)[3:] == list(range(225, 300))
        assert [row // 75 for row in sorted(again.computed)[:3]] == [0, 1, 2]
        assert notes.notes == [f"going on from {interrupted}, which an interrupted audit left"]

    @pytest.mark.parametrize("name", list(QUESTION))
    def test_another_question_makes_them_void(self, name: str, interrupted: Path) -> None:
        again, notes = Squares(), Notes()
        again.run(interrupted, notes, {**QUESTION, name: "other"})
        assert again.computed == list(range(COUNT))
        assert notes.notes == [f"{interrupted} is of another audit ({name} differs): it is not used"]

    def test_other_findings_before_make_them_void(self, tmp_path: Path) -> None:
        def run(salt: int) -> list[int]:
            shards = Shards(kept=Kept(tmp_path / "kept"))
            shards.begin(QUESTION)
            # Ragged, and so not computed again: only the key tells.
            shards.map(Step("first", lambda rows: {"salt": np.array([salt])}, fits=lambda *_: salt == 0), COUNT)
            squares = Squares()
            shards.map(Step("squares", squares), COUNT)
            return squares.computed

        assert len(run(0)) == COUNT
        assert len(run(0)) == 4
        assert len(run(1)) == COUNT

    def test_findings_that_are_not_found_again_discard_everything(self, interrupted: Path) -> None:
        notes, squares = Notes(), Squares(salt=1)
        shards = Shards(kept=Kept(interrupted), progress=notes)
        shards.begin(QUESTION)
        with pytest.raises(DiscardedError):
            shards.map(Step("squares", squares), COUNT)
        shards.discard()
        assert not interrupted.exists()
        assert shards.map(Step("squares", squares), COUNT)["square"][0] == 1
        assert notes.notes[1:] == [f"{interrupted} does not hold what this audit computes: all is computed again"]

    def test_only_our_own_files_are_removed(self, interrupted: Path) -> None:
        (interrupted / "notes.txt").write_text("mine")
        Kept(interrupted).remove()
        assert [path.name for path in interrupted.iterdir()] == ["notes.txt"]


def archive(path: Path, **arrays: Any) -> None:
    np.savez(path, **arrays)


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        raise AssertionError("was pickled")


class TestHostileFiles:
    @pytest.mark.parametrize(
        ("spoil", "text"),
        [
            (lambda path, _: path.write_bytes(b""), "is no finished chunk"),
            (lambda path, _: path.write_bytes(path.read_bytes()[:-30]), "is no finished chunk"),
            (lambda path, _: path.write_bytes(pickle.dumps([1])), "is no finished chunk"),
            (lambda path, _: archive(path, square=np.arange(75)), "is of another audit"),
            (lambda path, _: archive(path, key=np.array("0" * 64)), "is of another audit"),
            (lambda path, key: archive(path, key=key, square=np.arange(75, dtype=object)), "is no finished chunk"),
            (lambda path, key: archive(path, key=key, square=np.arange(74)), "does not hold 75 samples"),
            (lambda path, key: archive(path, key=key, square=np.array(3)), "does not hold 75 samples"),
        ],
    )
    def test_what_is_no_chunk_is_computed_again(
        self, spoil: Callable[[Path, Any], None], text: str, interrupted: Path
    ) -> None:
        path = interrupted / "squares-1.npz"
        spoil(path, np.load(path)["key"])
        again, notes = Squares(), Notes()
        assert again.run(interrupted, notes)["square"].tolist() == [row**2 for row in range(COUNT)]
        assert set(range(75, 150)) < set(again.computed)
        assert len(notes.notes) == 2
        assert text in notes.notes[1]
        assert notes.notes[1].endswith(": it is computed again")

    @pytest.mark.parametrize(
        "arrays",
        [
            {"square": np.arange(75)},
            {"square": np.arange(75) + 1, "even": np.ones(75, bool)},
            {"square": np.arange(75.0), "even": np.arange(75) % 2 == 0},
            {},
        ],
    )
    def test_what_looks_like_one_and_is_wrong_discards_everything(self, arrays: Any, interrupted: Path) -> None:
        path = interrupted / "squares-0.npz"
        archive(path, key=np.load(path)["key"], **arrays)
        with pytest.raises(DiscardedError):
            Squares().run(interrupted, Notes())

    @pytest.mark.parametrize("text", ["", "[1]", "[" * 100_000, "{"])
    def test_a_question_that_is_none(self, text: str, interrupted: Path) -> None:
        (interrupted / "question.json").write_text(text)
        again, notes = Squares(), Notes()
        again.run(interrupted, notes)
        assert again.computed == list(range(COUNT))
        assert notes.notes == [f"{interrupted} is of another audit (question.json differs): it is not used"]


@pytest.fixture(scope="module")
def expected(made: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    whole = tmp_path_factory.mktemp("whole")
    assert call(*verify_command(made, whole)).code == 0
    return figures(whole)


class TestAudits:
    def test_killed_at_any_moment_it_goes_on_to_the_same_report(
        self, made: Path, expected: dict[str, object], tmp_path: Path
    ) -> None:
        report, chance = tmp_path / "report", random.Random(0)
        command, left = verify_command(made, report), list[int]()
        while len(left) < 4:
            process = start_ranks(tmp_path, command)
            goal, end = sum(left[-1:]) + chance.randint(1, 4), time.monotonic() + 60
            while len(list(report.glob(".progress/*.npz"))) < goal and time.monotonic() < end:
                if (report / "report.json").exists():
                    break
                time.sleep(0.002)
            time.sleep(chance.random() / 50)
            process.kill()
            assert process.outcomes()[0].code in {-signal.SIGKILL, 0}
            if (report / "report.json").exists():
                # The machine was busy with other things and let it end: once more from the beginning.
                shutil.rmtree(report)
                left.clear()
            else:
                left.append(len(list(report.glob(".progress/*.npz"))))
        assert left == sorted(left)
        assert left[-1] > 1
        done = call(*command)
        assert done.code == 0
        assert done.err == f"note: going on from {report / '.progress'}, which an interrupted audit left\n"
        assert figures(report) == expected
        assert not (report / ".progress").exists()

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_signal_leaves_what_is_finished(
        self, number: int, made: Path, expected: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        report, save = tmp_path / "report", Kept.save

        def save_and_be_stopped(kept: Kept, step: str, index: int, key: str, arrays: Arrays) -> None:
            save(kept, step, index, key, arrays)
            if (step, index) == ("attacks", 1):
                signal.raise_signal(number)

        monkeypatch.setattr(Kept, "save", save_and_be_stopped)
        stopped = call(*verify_command(made, report))
        assert stopped.code == 130
        assert [line for line in stopped.err.splitlines() if line] == [
            f"note: {report / '.progress'} keeps what is finished: the same command goes on from there",
            "interrupted: nothing half-written was left behind",
        ]
        monkeypatch.undo()
        # Several processes may go on from what one has left.
        command = verify_command(made, report)
        first, _ = start_ranks(tmp_path, command, command).outcomes()
        assert (first.code, figures(report)) == (0, expected)
        # The chunks of the attacks were used: nothing says that one was computed again.
        assert first.err == f"note: going on from {report / '.progress'}, which an interrupted audit left\n"

    def test_forged_certificates_are_not_believed(
        self, made: Path, expected: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        report, save = tmp_path / "report", Kept.save

        def forge(kept: Kept, step: str, index: int, key: str, arrays: Arrays) -> None:
            if step == "attacks":
                raise KeyboardInterrupt
            forged = {"interval": ~arrays["interval"]} if step == "certificates" else {}
            save(kept, step, index, key, {**arrays, **forged})

        monkeypatch.setattr(Kept, "save", forge)
        assert call(*verify_command(made, report)).code == 130
        monkeypatch.undo()
        done = call(*verify_command(made, report))
        text = f"note: {report / '.progress'} does not hold what this audit computes: all is computed again"
        assert done.err.splitlines()[1:] == [text]
        assert figures(report) == expected

    @pytest.mark.parametrize(
        ("options", "name"),
        [
            (("--eps", "10px"), "eps"),
            (("--seed", "1"), "seed"),
            (("--attack", "standard"), "attack"),
            (("--samples", "299"), "data, samples"),
            (("--threat-model", "real", "--eps", "9px"), "threat model"),
        ],
    )
    def test_what_was_asked_otherwise_is_not_gone_on_from(
        self, options: tuple[str, ...], name: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        report = tmp_path / "report"

        def stop(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("linfdeploy.verify.audit.Certifier.stages", stop)
        assert call(*verify_command(made, report)).code == 130
        stopped = call(*verify_command(made, report, "--attack", "fast", *options))
        found = re.fullmatch(
            r"note: .*\.progress is of another audit \((.*) differs\): it is not used", stopped.err.splitlines()[0]
        )
        assert found is not None
        assert found[1] == name
        assert json.loads((report / ".progress" / "question.json").read_text())["samples"]
