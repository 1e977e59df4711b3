# SPDX-License-Identifier: Apache-2.0
"""The flags of trtexec that matter to us, read off its own source at the tags 10.0 to 11.1.

Every flag is written `--name=value`, or `--name` if it has no value: trtexec splits at the equals sign, and takes
a value after a space for an argument that it does not know.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

__all__ = ["FLAGS", "faults"]

Release: TypeAlias = tuple[int, int]
Kind: TypeAlias = Literal["path", "library", "shapes", "switch"]

FIRST, LAST_10, NEWEST = (10, 0), (10, 16), (11, 1)


@dataclass(frozen=True)
class Flag:
    """In which releases there is a flag, and what its value is."""

    kind: Kind
    first: Release = FIRST
    last: Release = NEWEST


FLAGS: Mapping[str, Flag] = {
    "--onnx": Flag("path"),
    "--saveEngine": Flag("path"),
    "--loadEngine": Flag("path"),
    "--dynamicPlugins": Flag("library"),
    "--setPluginsToSerialize": Flag("library"),
    "--timingCacheFile": Flag("path"),
    "--minShapes": Flag("shapes"),
    "--optShapes": Flag("shapes"),
    "--maxShapes": Flag("shapes"),
    "--stronglyTyped": Flag("switch"),
    "--skipInference": Flag("switch"),
    "--enablePluginOverride": Flag("switch", first=(10, 15)),
    "--fp16": Flag("switch", last=LAST_10),
    "--best": Flag("switch", last=LAST_10),
}

# The name, a colon, and the sizes; the last colon counts.
SHAPE = re.compile(r"[A-Za-z]\w*:\d+(x\d+)*")


def faults(command: str, release: Release) -> list[str]:
    """What trtexec of a release would not take of a command."""
    program, *words = shlex.split(command)
    found = [] if program.rsplit("/", 1)[-1] == "trtexec" else [f"{program} is not trtexec"]
    given = [word.partition("=") for word in words]
    names = [name for name, _, _ in given]
    found += [f"{name} is given twice" for name in set(names) if names.count(name) > 1]
    for name, equals, value in given:
        flag = FLAGS.get(name)
        if flag is None:
            found.append(f"{name} is no flag that we know")
        elif not flag.first <= min(release, NEWEST) <= flag.last:
            found.append(f"{name} is not in {release}")
        elif fault := _value_fault(flag.kind, equals, value):
            found.append(f"{name}: {fault}")
    shapes = {"--minShapes", "--optShapes", "--maxShapes"}
    if shapes & set(names) not in (set(), shapes):
        found.append("some shapes are given and others are not")
    if release < (11, 0) and "--stronglyTyped" not in names:
        found.append("the types of the file are not kept")
    return found


def _value_fault(kind: Kind, equals: str, value: str) -> str | None:
    if kind == "switch":
        return "takes no value" if equals else None
    if not value:
        return "lacks its value"
    if kind == "library" and "/" not in value:
        return "the loader looks for a bare name in its own folders"
    if kind == "shapes" and not all(SHAPE.fullmatch(part) for part in value.split(",")):
        return f"{value} is no shape"
    return None
