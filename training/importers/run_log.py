# SPDX-License-Identifier: Apache-2.0
"""`log.txt`, which the papers' code writes beside a checkpoint: the arguments of the run, then the transforms."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from linfdeploy.errors import CheckpointError, brief
from linfdeploy.files import read_bytes, sha256_of

__all__ = ["NAME", "Call", "RunLog", "read_run_log"]

NAME = "log.txt"
MAX_BYTES = 2**28
# The arguments and the transforms stand in the first lines; what follows are epochs.
MAX_HEAD = 2**16
MAX_ARGUMENTS = 64
MAX_VALUE = 500

WHAT = "the log.txt of a run: lines such as 'dataset = MNIST', then the transforms"
ARGUMENT = re.compile(r"([a-z][a-z0-9_]{0,39}) = ?(.*)")
NORMALIZE = re.compile(r"\s*Normalize\(mean=\[([^][]{1,200})\], std=\[([^][]{1,200})\]\)")
NUMBER = re.compile(r"[0-9]{1,9}(\.[0-9]{0,20})?(e-?[0-9]{1,2})?")
CALL = re.compile(r"([A-Za-z]\w{0,39})(?:\(([^()]{0,400})\))?")


@dataclass(frozen=True)
class Call:
    """How a run names its model, such as `MLP(depth=5,width=5)`.

    Attributes:
        name: The class.
        arguments: As text.
    """

    name: str
    arguments: Mapping[str, str]


@dataclass(frozen=True)
class RunLog:
    """What a run says of itself.

    Attributes:
        path: Where it stands.
        sha256: Of the whole file.
        arguments: By name, as text.
        model: The argument `model`.
        mean: Per channel, of the input; None where the transforms are not there.
        std: For all channels; None likewise.
    """

    path: Path
    sha256: str
    arguments: Mapping[str, str]
    model: Call
    mean: tuple[float, ...] | None
    std: float | None


def read_run_log(path: Path) -> RunLog:
    """Reads the head of a log; nothing behind it matters.

    Raises:
        CheckpointError: It is no such log, says something twice, or has a std of its own for each channel.
        InputError: It is missing.
    """
    raw = read_bytes(path, MAX_BYTES, WHAT)
    try:
        lines = raw[:MAX_HEAD].decode(errors="replace").splitlines()
        arguments = _arguments(lines)
        model = _call(arguments["model"])
        mean, std = _normalization(lines[len(arguments) :])
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    return RunLog(path, sha256_of(raw), arguments, model, mean, std)


def _arguments(lines: list[str]) -> Mapping[str, str]:
    arguments: dict[str, str] = {}
    for line in lines[: MAX_ARGUMENTS + 1]:
        match = ARGUMENT.fullmatch(line.rstrip())
        if match is None:
            break
        name, value = match[1], match[2].strip()
        if name in arguments or len(value) > MAX_VALUE or not value.isprintable():
            raise CheckpointError(f"it says {brief(line)}; expected each argument once, in one short line")
        arguments[name] = value
    if len(arguments) > MAX_ARGUMENTS or not {"dataset", "model"} <= set(arguments):
        raise CheckpointError(f"it names {brief(sorted(arguments))}; expected {WHAT}")
    return arguments


def _call(text: str) -> Call:
    match = CALL.fullmatch(text)
    pairs = [part.partition("=") for part in re.split(r",\s*", match[2])] if match and match[2] else []
    if match is None or not all(name.isidentifier() and equals for name, equals, _ in pairs):
        raise CheckpointError(f"its model is {brief(text)}; expected for example MLPModel(depth=5,width=5120)")
    return Call(match[1], {name: value for name, _, value in pairs})


def _normalization(lines: list[str]) -> tuple[tuple[float, ...] | None, float | None]:
    found = [match for match in map(NORMALIZE.fullmatch, lines) if match]
    if not found:
        return None, None
    mean, std = (_numbers(found[0][group]) for group in (1, 2))
    if len(found) > 1 or not mean or not std or len(set(std)) > 1:
        raise CheckpointError(
            f"it says {brief(found[0][0].strip())}; expected one Normalize, with the same std for all channels: "
            "otherwise an l_inf ball of images would be no ball"
        )
    return mean, std[0]


def _numbers(text: str) -> tuple[float, ...]:
    words = [word for word in re.split(r"[,\s]+", text) if word]
    return tuple(map(float, words)) if all(map(NUMBER.fullmatch, words)) else ()
