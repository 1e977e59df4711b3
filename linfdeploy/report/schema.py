# SPDX-License-Identifier: Apache-2.0
"""Checks data against `report.schema.json` with no package beyond Python.

Only the keywords that the schema uses are understood; an unknown one raises, so that the schema cannot grow
past its reader unnoticed.
"""

from __future__ import annotations

import functools
import importlib.resources
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

__all__ = ["first_fault", "load_schema"]

Schema: TypeAlias = Mapping[str, Any]

_ANNOTATIONS = frozenset({"$schema", "$id", "$defs", "title", "description"})
# These are read by the check of their neighbour.
_COMPANIONS = frozenset({"then", "else"})


@functools.cache
def load_schema() -> Schema:
    """Returns the published schema of `report.json`."""
    text = importlib.resources.files("linfdeploy.report").joinpath("report.schema.json").read_text("utf-8")
    schema: Schema = json.loads(text)
    return schema


def first_fault(data: object) -> str | None:
    """Says where `data` departs from the schema: what was found and what was expected; None if it conforms."""
    return next(_faults(data, load_schema(), ""), None)


def _faults(data: Any, schema: Schema, where: str) -> Iterator[str]:
    for keyword, rule in schema.items():
        if keyword not in _ANNOTATIONS | _COMPANIONS:
            yield from _CHECKS[keyword](data, rule, schema, where)


def _ref(data: Any, rule: Any, schema: Schema, where: str) -> Iterator[str]:
    yield from _faults(data, load_schema()["$defs"][rule.removeprefix("#/$defs/")], where)


def _type(data: Any, rule: Any, schema: Schema, where: str) -> Iterator[str]:
    names = [rule] if isinstance(rule, str) else rule
    if not any(_TYPES[name](data) for name in names):
        yield f"{_name(where)} is {_short(data)}; expected {' or '.join(names)}"


def _const(data: Any, rule: Any, schema: Schema, where: str) -> Iterator[str]:
    yield from _enum(data, [rule], schema, where)


def _enum(data: Any, rule: Any, schema: Schema, where: str) -> Iterator[str]:
    if data not in rule:
        yield f"{_name(where)} is {_short(data)}; expected {' or '.join(map(repr, rule))}"


def _pattern(data: Any, rule: Any, schema: Schema, where: str) -> Iterator[str]:
    if isinstance(data, str) and not re.search(rule, data):
        yield f"{_name(where)} is {_short(data)}; expected text like {rule}"


def _minimum(data: Any, rule: Any, schema: Schema, where: str) -> Iterator[str]:
    if _is_number(data) and data < rule:
        yield f"{_name(where)} is {data}; expected at least {rule}"


def _maximum(data: Any, rule: Any, schema: Schema, where: str) -> Iterator[str]:
    if _is_number(data) and data > rule:
        yield f"{_name(where)} is {data}; expected at most {rule}"


def _min_length(data: Any, rule: Any, schema: Schema, where: str) -> Iterator[str]:
    if isinstance(data, str) and len(data) < rule:
        yield f"{_name(where)} is {_short(data)}; expected at least {rule} characters"


def _min_items(data: Any, rule: Any, schema: Schema, where: str) -> Iterator[str]:
    if isinstance(data, list) and len(data) < rule:
        yield f"{_name(where)} has {len(data)} entries; expected at least {rule}"


def _max_items(data: Any, rule: Any, schema: Schema, where: str) -> Iterator[str]:
    if isinstance(data, list) and len(data) > rule:
        yield f"{_name(where)} has {len(data)} entries; expected at most {rule}"


def _items(data: Any, rule: Any, schema: Schema, where: str) -> Iterator[str]:
    for index, item in enumerate(data if isinstance(data, list) else ()):
        yield from _faults(item, rule, f"{where}[{index}]")


def _required(data: Any, rule: Any, schema: Schema, where: str) -> Iterator[str]:
    missing = [name for name in rule if isinstance(data, dict) and name not in data]
    if missing:
        yield f"{_name(where)} lacks {', '.join(missing)}"


def _properties(data: Any, rule: Any, schema: Schema, where: str) -> Iterator[str]:
    for name, value in data.items() if isinstance(data, dict) else ():
        if name in rule:
            yield from _faults(value, rule[name], f"{where}.{name}")


def _others(data: Any, rule: Any, schema: Schema, where: str) -> Iterator[str]:
    others = set(data) - set(schema.get("properties", ())) if isinstance(data, dict) else set()
    for name in sorted(others):
        if rule is False:
            yield f"{_name(where)} has an unknown field {_short(name)}"
        else:
            # A hostile name must not break the line or grow it.
            yield from _faults(data[name], rule, f"{where}.{_short(name)[1:-1]}")


def _if(data: Any, rule: Any, schema: Schema, where: str) -> Iterator[str]:
    branch = "else" if any(_faults(data, rule, where)) else "then"
    yield from _faults(data, schema[branch], where)


def _is_number(data: object) -> bool:
    return isinstance(data, int | float) and not isinstance(data, bool)


def _is_integer(data: object) -> bool:
    # JSON Schema counts 1.0 as an integer.
    return data.is_integer() if isinstance(data, float) else _is_number(data)


def _name(where: str) -> str:
    return where.removeprefix(".") or "the report"


def _short(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


_TYPES: Mapping[str, Callable[[object], bool]] = {
    "array": lambda data: isinstance(data, list),
    "boolean": lambda data: isinstance(data, bool),
    "integer": _is_integer,
    "null": lambda data: data is None,
    "number": _is_number,
    "object": lambda data: isinstance(data, dict),
    "string": lambda data: isinstance(data, str),
}

_CHECKS: Mapping[str, Callable[[Any, Any, Schema, str], Iterator[str]]] = {
    "$ref": _ref,
    "additionalProperties": _others,
    "const": _const,
    "enum": _enum,
    "if": _if,
    "items": _items,
    "maxItems": _max_items,
    "maximum": _maximum,
    "minItems": _min_items,
    "minLength": _min_length,
    "minimum": _minimum,
    "pattern": _pattern,
    "properties": _properties,
    "required": _required,
    "type": _type,
}
