# SPDX-License-Identifier: Apache-2.0
"""The command around the audit; audits themselves are tested where they are written."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from command_line import Outcome, assert_refused, call
from report.samples import passing
from small_nets import SHAPE

from linfdeploy.cli.verify import print_report
from linfdeploy.report.model import SanityFlag


def verify(files: Any, *options: str) -> Outcome:
    common = ("--data", str(files.data), "--attack", "none", "--report", str(files.folder / "report"))
    return call("verify", files.engine, *common, *options)


def test_pass(files: Any) -> None:
    outcome = verify(files, "--reference", str(files.checkpoint), "--eps", "2px", "--samples", "7")
    assert outcome.code == 0, outcome
    assert "verdict: pass" in outcome.out
    assert f"report: {files.folder / 'report' / 'report.html'}" in outcome.out.replace("\n", " ")
    names = {path.name for path in (files.folder / "report").iterdir()}
    assert {"report.json", "report.html", "samples.csv"} <= names
    assert not [name for name in names if name.endswith(".part")]
    report = json.loads((files.folder / "report" / "report.json").read_text())
    assert (report["verdict"], report["samples"]) == ("pass", 7)
    assert report["conformance"]["bit_identical"] == 1


def test_compare(files: Any) -> None:
    folder = files.folder
    for name, eps in (("a", "2px"), ("b", "1px")):
        options = ("--data", files.data, "--attack", "none", "--eps", eps, "--report", folder / name)
        assert call("verify", files.engine, *options).code == 0
    outcome = call("verify", "--compare", folder / "a", folder / "b" / "report.json", "--report", folder / "c")
    assert outcome.code == 0, outcome
    assert outcome.err == ""
    assert f"A: pass, {folder / 'a' / 'report.json'}" in outcome.out
    assert "A is against pixels within 2 levels, B against pixels within 1 levels" in outcome.out
    assert "no sample changed, of 40 in both" in outcome.out
    assert {path.name for path in (folder / "c").iterdir()} == {"compare.json", "compare.html"}


def test_compare_takes_a_failed_report(files: Any) -> None:
    """Whoever compares wants to see what failed: the exit code says that both could be read."""
    assert verify(files).code == 0
    model = onnx.load(files.engine)
    model.graph.node[-1].doc_string = "not as it was built"
    files.engine.write_bytes(model.SerializeToString())
    failed = ("--data", files.data, "--attack", "none", "--report", files.folder / "failed")
    assert call("verify", files.engine, *failed).code == 1
    compared = ("--report", files.folder / "c")
    outcome = call("verify", "--compare", files.folder / "report", files.folder / "failed", *compared)
    assert outcome.code == 0, outcome
    assert "Verdict: pass | fail" in outcome.out


def test_compare_refuses_what_it_cannot_read(files: Any) -> None:
    one, none = files.folder / "report", files.folder / "none"
    assert verify(files).code == 0
    assert_refused(call("verify", "--compare", one, none), "none: no such file; expected a report.json")
    (one / "samples.csv").write_text("index\n")
    assert_refused(
        call("verify", "--compare", one, one), "samples.csv: its header is 'index'; expected index,label"
    )
    assert not (files.folder / "compare").exists()


@pytest.mark.parametrize(("extra", "found"), [(("--eps", "2px"), "--eps"), (("engine.onnx",), "engine.onnx")])
def test_compare_audits_nothing(extra: tuple[str, ...], found: str) -> None:
    words = f"--compare takes two reports and --report; found {found} as well: leave it out"
    assert_refused(call("verify", "--compare", "a", "b", *extra), words)


def test_without_an_engine() -> None:
    words = "no engine is named; expected linfdeploy verify ENGINE, or verify --compare A B"
    assert_refused(call("verify", "--eps", "2px"), words)


def test_fail(files: Any) -> None:
    model = onnx.load(files.engine)
    model.graph.node[-1].doc_string = "not as it was built"
    files.engine.write_bytes(model.SerializeToString())
    outcome = verify(files)
    assert outcome.code == 1
    assert outcome.err == ""
    assert "verdict: fail" in outcome.out
    assert "violation, engine file: its SHA-256 is" in outcome.out
    assert "node 'negate' (Neg) is not what is written" in outcome.out


@pytest.mark.parametrize(
    ("eps", "text"),
    [
        ("0", "eps is '0'; expected more than 0"),
        ("abc", "eps is 'abc'; expected a fraction of the pixel range such as 8/255"),
        ("-1", "eps is '-1'; expected"),
        ("1/0", "eps is '1/0'; expected"),
        ("1.5", "eps is '1.5'; expected more than 0 and at most"),
        ("0.001", "eps 0.001 is 0.255 of 255 levels; expected at least 1 level"),
        ("nan", "eps is 'nan'; expected"),
        ("9" * 100, "expected a fraction"),
    ],
)
def test_eps(eps: str, text: str, files: Any) -> None:
    assert_refused(verify(files, "--eps", eps), text)
    assert not (files.folder / "report").exists()


@pytest.mark.parametrize("samples", ["0", "-3"])
def test_samples(samples: str, files: Any) -> None:
    assert_refused(verify(files, "--samples", samples), f"--samples is {samples}; expected at least 1")


def test_more_classes_than_the_engine(files: Any) -> None:
    np.savez(
        files.data,
        images=np.zeros((5, *SHAPE), np.uint8) + np.arange(5, dtype=np.uint8)[:, None, None, None],
        labels=np.arange(5),
    )
    assert_refused(verify(files), "has at least 5 classes; the engine has 3: choose the data set")


def test_other_image_shape(files: Any) -> None:
    np.savez(files.data, images=np.arange(64, dtype=np.uint8).reshape(4, 4, 4), labels=np.arange(4) % 3)
    assert_refused(verify(files), "has images of (1, 4, 4); the engine expects (1, 3, 3): choose the data set")


def test_reference_that_is_no_checkpoint(files: Any) -> None:
    assert_refused(
        verify(files, "--reference", str(files.model)), "model.onnx", "expected a linfdeploy checkpoint"
    )
    assert_refused(verify(files, "--reference", "missing.pt"), "missing.pt: no such file; expected")


def test_checks_of_the_attacks_are_one_line_each_when_they_fail_and_one_for_all_when_they_pass(
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = passing()
    assert whole.attack is not None
    good, bad = whole.attack.sanity[0], SanityFlag("more eps breaks more", False, "3, 4, 5 stand", "never more")
    for flags, expected in (
        ((good, good), ["sanity of the attacks: all 2 checks passed"]),
        ((good, bad), ["sanity of the attacks: more eps breaks more: found 3, 4, 5 stand; expected never more"]),
        ((), []),
    ):
        print_report(replace(whole, attack=replace(whole.attack, sanity=flags)))
        printed = capsys.readouterr().out.splitlines()
        assert [line for line in printed if line.startswith("sanity")] == expected
