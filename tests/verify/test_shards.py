# SPDX-License-Identifier: Apache-2.0
"""Several processes give the report of one, byte for byte; what one of them cannot do ends all."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import Outcome, assert_refused, call
from hypothesis import given
from hypothesis import strategies as st
from rank_processes import start_ranks
from verify_runs import IMAGES, figures, made_in, verify_command

from linfdeploy.errors import InputError
from linfdeploy.onnx.pixel_net import Precision
from linfdeploy.verify.kept import Arrays
from linfdeploy.verify.shards import MOST_ROWS, Rows, Shards, Step, chunks_of


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_in(tmp_path_factory.mktemp("made"))


@given(st.integers(1, 60_000), st.sampled_from([(7, 1), (256, 1), (256, 256), (MOST_ROWS, 1), (MOST_ROWS, 256)]))
def test_chunks_cover_every_sample_once_and_are_bounded(count: int, bounds: tuple[int, int]) -> None:
    most, unit = bounds
    chunks = chunks_of(count, most, unit)
    assert np.array_equal(np.concatenate(chunks), np.arange(count))
    assert all(chunk[0] % unit == 0 for chunk in chunks)
    sizes = {-(-len(chunk) // unit) for chunk in chunks}
    assert min(sizes) >= 1
    assert max(sizes) * unit <= most
    assert max(sizes) - min(sizes) <= 1


def test_chunks_divide_evenly_over_processes() -> None:
    assert [len(chunks_of(count)) for count in (1, 80, 449, 1000, 8192, 8193, 10_000)] == [1, 1, 4, 8, 8, 16, 16]


def test_whole_batches_stay_together() -> None:
    sizes = [[len(chunk) for chunk in chunks_of(count, unit=256)] for count in (256, 300, 1100, 2000)]
    assert sizes == [[256], [256, 44], [512, 256, 256, 76], [256] * 7 + [208]]


def test_arrays_are_joined_in_the_order_of_the_samples() -> None:
    def find(rows: Rows) -> Arrays:
        return {"square": rows**2, "odd": rows[rows % 2 == 1]}

    found = Shards().map(Step("squares", find, 10, lambda arrays, rows: True), 105)
    assert found["square"].tolist() == [row**2 for row in range(105)]
    assert found["odd"].tolist() == list(range(1, 105, 2))


@pytest.mark.parametrize("world", [2, 3])
def test_several_processes_give_the_report_of_one(world: int, made: Path, tmp_path: Path) -> None:
    processes = start_ranks(tmp_path, *[verify_command(made, tmp_path / "several")] * world)
    alone = call(*verify_command(made, tmp_path / "alone"))
    first, *others = processes.outcomes()
    assert alone.code == 0, alone
    assert (first.code, first.err) == (0, ""), first
    assert first.out == alone.out.replace("alone", "several")
    assert others == [Outcome(0, "", "")] * (world - 1)
    assert figures(tmp_path / "several") == figures(tmp_path / "alone")
    report = json.loads((tmp_path / "alone" / "report.json").read_text())
    # The comparison would be empty if there were nothing to compare.
    assert report["samples"] == IMAGES
    assert 0 < report["certified"]["interval"] <= report["attack"]["robust_accuracy"] < report["accuracy"]["clean"]
    assert len(report["attack"]["robust_by_step"]) == 20
    assert {"adversarial.npz", "adversarial.png"} < set(figures(tmp_path / "alone"))
    assert not (tmp_path / "several" / ".progress").exists()


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_several_processes_find_the_roundings_that_one_finds(precision: Precision, tmp_path: Path) -> None:
    made = made_in(tmp_path, precision)
    command = verify_command(made, tmp_path / "several")
    first, second = start_ranks(tmp_path, command, command).outcomes()
    assert call(*verify_command(made, tmp_path / "alone")).code == first.code == second.code == 0
    assert figures(tmp_path / "several") == figures(tmp_path / "alone")
    report = json.loads((tmp_path / "alone" / "report.json").read_text())
    assert report["conformance"]["orders"]
    assert 0 < report["certified"]["interval"] <= report["attack"]["robust_accuracy"]


def test_a_failed_verdict_is_told_once(made: Path, tmp_path: Path) -> None:
    files = made_in(tmp_path)
    model = onnx.load(files / "model.engine")
    model.graph.node[-1].doc_string = "not as it was built"
    (files / "model.engine").write_bytes(model.SerializeToString())
    command = verify_command(files, tmp_path / "report", "--attack", "none")
    first, second = start_ranks(tmp_path, command, command).outcomes()
    # torchrun ends the others as soon as one ends with another code than 0: the first must have printed.
    assert (first.code, second) == (1, Outcome(0, "", ""))
    assert "verdict: fail" in first.out


def test_what_one_cannot_read_ends_all(made: Path, tmp_path: Path) -> None:
    command = verify_command(made, tmp_path / "report", "--attack", "none")
    elsewhere = [*command, "--data", "/nowhere.npz"]
    first, second = start_ranks(tmp_path, command, elsewhere).outcomes()
    assert first == Outcome(2, "", "")
    assert_refused(second, "/nowhere.npz")
    assert not (tmp_path / "report").exists()


def test_what_one_cannot_do_in_the_middle_of_a_step_ends_all(made: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    command = verify_command(made, tmp_path / "report", "--attack", "none")
    elsewhere = verify_command(made, tmp_path / "file" / "report", "--attack", "none")
    first, second = start_ranks(tmp_path, command, elsewhere).outcomes()
    assert first == Outcome(2, "", "")
    assert_refused(second, "cannot write", ".progress")
    assert not (tmp_path / "report" / "report.json").exists()


def test_an_error_of_a_step_passes() -> None:
    def fail(_: Rows) -> Arrays:
        raise InputError("why")

    with pytest.raises(InputError, match="why"):
        Shards().map(Step("failing", fail), 10)
