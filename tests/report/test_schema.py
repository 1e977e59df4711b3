# SPDX-License-Identifier: Apache-2.0
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints

import jsonschema

from linfdeploy.report import histogram, model, schema, shown


def test_is_a_valid_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(schema.load_schema())


def test_every_object_is_closed() -> None:
    for node in _nodes(schema.load_schema()):
        if "object" in node.get("type", ()):
            assert "additionalProperties" in node
            assert set(node.get("required", ())) == set(node.get("properties", ()))


def test_every_keyword_is_understood() -> None:
    for node in _nodes(schema.load_schema()):
        assert set(node) <= set(schema._CHECKS) | schema._ANNOTATIONS | schema._COMPANIONS


def test_has_exactly_the_fields_of_the_model() -> None:
    properties = schema.load_schema()["properties"]
    for name, hint in get_type_hints(model.AuditReport).items():
        part = next((kind for kind in [hint, *getattr(hint, "__args__", ())] if is_dataclass(kind)), None)
        if part and "properties" in properties.get(name, {}):
            assert set(properties[name]["properties"]) == _written(part)
    assert set(properties["shown"]["properties"]) == _written(shown.Shown)
    definitions = schema.load_schema()["$defs"]
    parts = {
        "class": model.ClassResult,
        "class_radii": shown.ClassRadii,
        "histogram": histogram.Histogram,
        "layer": model.LayerFacts,
        "picture": model.Picture,
        "probe": model.Probe,
        "violation": model.Violation,
    }
    for name, part in parts.items():
        assert set(definitions[name]["properties"]) == _written(part)


def _written(part: Any) -> set[str]:
    return {item.name for item in fields(part) if item.metadata.get("written", True)}


def test_says_what_was_found_and_what_was_expected() -> None:
    assert schema.first_fault([1] * 100) == f"the report is {str([1] * 100)[:57]}...; expected object"


def _nodes(node: Any) -> Iterator[dict[str, Any]]:
    """Yields the schemas inside a schema; the keys of `properties` and `$defs` are names, not keywords."""
    yield node
    children = [node[key] for key in ("items", "if", "then", "else", "additionalProperties") if key in node]
    for named in ("properties", "$defs"):
        children += node.get(named, {}).values()
    for child in children:
        if isinstance(child, dict):
            yield from _nodes(child)
