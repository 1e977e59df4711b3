# SPDX-License-Identifier: Apache-2.0
"""The tree of errors: drawn and real, exit codes, texts."""

from __future__ import annotations

import re

import pytest

from linfdeploy import errors
from linfdeploy.errors import InputError, KernelError, LinfDeployError, MissingExtraError, brief

CLASSES = [
    value for value in vars(errors).values() if isinstance(value, type) and value.__module__ == errors.__name__
]


def _drawn() -> dict[str, str | None]:
    """The parent of each class in the docstring's drawing."""
    assert errors.__doc__ is not None
    parents: dict[str, str | None] = {}
    path: list[str] = []
    for line in errors.__doc__.splitlines():
        if match := re.match(r"([│├└─ ]*)([A-Z]\w*Error)\b", line):
            depth = len(match[1]) // 4
            parents[match[2]] = path[depth - 1] if depth else None
            path = [*path[:depth], match[2]]
    return parents


def test_the_drawing_is_the_tree() -> None:
    real = {cls.__name__: cls.__bases__[0].__name__ for cls in CLASSES}
    assert {name: parent or "Exception" for name, parent in _drawn().items()} == real


def test_all_classes_are_public() -> None:
    assert sorted([cls.__name__ for cls in CLASSES] + ["brief"]) == errors.__all__


@pytest.mark.parametrize("cls", CLASSES)
def test_exit_code(cls: type[LinfDeployError]) -> None:
    assert issubclass(cls, LinfDeployError)
    assert cls.exit_code == 2
    assert cls.__doc__


def test_builtin_bases() -> None:
    assert issubclass(KernelError, ValueError)
    assert issubclass(MissingExtraError, ImportError)
    assert not issubclass(InputError, OSError)


def test_missing_extra_says_what_to_install() -> None:
    assert str(MissingExtraError("training", "train")) == (
        "training needs packages that are not installed: pip install 'linfdeploy[train]'"
    )


def test_brief_is_one_bounded_line() -> None:
    assert brief("a\nb") == r"'a\nb'"
    assert brief([1, 2]) == "[1, 2]"
    assert brief("x" * 1000) == "'" + "x" * 196 + "..."
    assert brief(10**5000) == "a int too large to show"
    nested: list[object] = []
    for _ in range(100_000):
        nested = [nested]
    assert brief(nested) == "a list too large to show"
