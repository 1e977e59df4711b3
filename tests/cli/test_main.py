# SPDX-License-Identifier: Apache-2.0
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import assert_refused, call, processor_time_of_children

import linfdeploy
from linfdeploy.cli import COMMANDS, group
from linfdeploy.cli.options import MAX_LINE, one_line
from linfdeploy.errors import InputError, LinfDeployError, MissingExtraError


def test_help_lists_every_command_in_order() -> None:
    outcome = call("--help")
    assert outcome.code == 0
    assert outcome.err == ""
    places = [outcome.out.index(f"\n  {name} ") for name in COMMANDS]
    assert places == sorted(places)
    assert call("-h").out == outcome.out


def test_no_command_shows_the_help() -> None:
    outcome = call()
    assert outcome.code == 2
    assert "Usage:" in outcome.err
    assert "verify" in outcome.err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    outcome = call(command, "--help")
    assert outcome.code == 0
    assert "Usage: linfdeploy" in outcome.out or f"{command} [OPTIONS]" in outcome.out


def test_version() -> None:
    assert call("--version").out == f"linfdeploy, version {linfdeploy.__version__}\n"


def test_unknown_command() -> None:
    assert_refused(
        call("deploy"), "there is no command 'deploy'; expected one of demo, train, import, export, build"
    )


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("export",), "Missing argument 'CHECKPOINT'"),
        (("export", "a"), "Missing argument 'MODEL'"),
        (("export", "a", "b", "--precision", "int8"), "'int8' is not one of 'exact', 'fp32', 'fp16'"),
        (("export", "a", "b", "--grid", "24"), "24 is not in the range 0<=x<=23"),
        (("export", "a", "b", "--opset", "17"), "17 is not in the range 18<=x<=22"),
        (("build", "a", "b", "--threads", "0"), "0 is not in the range 1<=x<=1024"),
        (("build", "a", "b", "--backend", "tpu"), "'tpu'"),
        (("inspect", "a", "b"), "unexpected extra argument"),
        (("verify", "a", "--nonsense"), "No such option"),
        (("train", "digits-0.1"), "Missing option"),
    ],
)
def test_wrong_use(arguments: tuple[str, ...], text: str) -> None:
    assert_refused(call(*arguments), text)


def test_help_answers_at_once() -> None:
    command = [sys.executable, "-m", "linfdeploy", "--help"]
    times = []
    for _ in range(5):
        start = processor_time_of_children()
        subprocess.run(command, check=True, capture_output=True)
        times.append(processor_time_of_children() - start)
    assert min(times) < 0.3, times


def test_help_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'onnx', 'onnxruntime', 'numpy', 'sklearn', 'rich', 'jinja2'}"
    program = (
        "import sys; from linfdeploy.cli import COMMANDS, group\n"
        "for name in COMMANDS: group.get_command(None, name)\n"
        f"print(sorted({heavy} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"


def test_installed_command_is_the_same() -> None:
    script = Path(sys.executable).with_name("linfdeploy")
    if not script.exists():
        pytest.skip("the package is not installed with its script")
    done = subprocess.run([script, "--version"], check=True, capture_output=True, text=True)
    assert done.stdout == f"linfdeploy, version {linfdeploy.__version__}\n"


class StrangeError(LinfDeployError):
    exit_code = 7


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("found x; expected y"), 2, "error: found x; expected y"),
        (StrangeError("z"), 7, "error: z"),
        (InputError("two\nlines \x1b[31m and \udcff"), 2, r"error: two\nlines \x1b[31m and \udcff"),
        (InputError("x" * 10**6), 2, "error: " + "x" * MAX_LINE + "..."),
        (KeyboardInterrupt(), 130, "interrupted: nothing half-written was left behind"),
    ],
)
def test_errors_are_one_line(error: BaseException, code: int, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(group, "main", fail)
    outcome = call("inspect")
    assert (outcome.code, outcome.err, outcome.out) == (code, f"{line}\n", "")


def test_terminating_interrupts(monkeypatch: pytest.MonkeyPatch) -> None:
    def terminate(**_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)

    monkeypatch.setattr(group, "main", terminate)
    outcome = call("inspect")
    assert (outcome.code, outcome.err) == (130, "interrupted: nothing half-written was left behind\n")


def test_a_signal_within_an_import_is_not_taken_for_a_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def terminate(**_: object) -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        except KeyboardInterrupt:
            raise MissingExtraError("export", "train") from None

    monkeypatch.setattr(group, "main", terminate)
    assert call("inspect").code == 130


def test_a_bug_shows_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(group, "main", fail)
    with pytest.raises(ZeroDivisionError):
        call("inspect")


def test_a_reader_that_stops_reading_is_no_error() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "linfdeploy", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=30) == 1
    assert errors == ""


def test_one_line() -> None:
    assert one_line("größer als 2 ≤ 3") == "größer als 2 ≤ 3"
    assert one_line("a\tb\r\n\x00") == r"a\tb\r\n\x00"
