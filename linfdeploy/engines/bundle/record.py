# SPDX-License-Identifier: Apache-2.0
"""`bundle.json`: what a bundle is for and holds, with the hash of every other file."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from linfdeploy.engines.bundle.targets import TARGETS
from linfdeploy.errors import InputError, brief
from linfdeploy.files import sha256_of
from linfdeploy.onnx.pixel_net import MAX_GRID, PRECISIONS, Precision

__all__ = [
    "AGAIN",
    "BUILT",
    "ENGINE",
    "FORMAT",
    "GOLDEN",
    "MAX_TEXT",
    "MODEL",
    "NAME",
    "README",
    "BundleRecord",
    "FileRecord",
    "record_bytes",
    "record_from_bytes",
    "record_of",
]

FORMAT = "linfdeploy.bundle/1"
NAME, MODEL, README, GOLDEN = "bundle.json", "model.onnx", "README.md", "golden"
ENGINE = "model.engine"
BUILT = frozenset({ENGINE, f"{ENGINE}.json", f"{ENGINE}.onnx", "model.plan", "build", "report"})
"""What building and verifying may leave in the folder; nothing of it is the bundle's."""

MAX_FILES = 1000
MAX_SIZE = 2**40
MAX_LENGTH = 2**31
MAX_TEXT = 200
# No dot first: neither `..` nor anything hidden.
PLACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}(/[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}){0,7}")
SHA256 = re.compile(r"[0-9a-f]{64}")
EPS = re.compile(r"[0-9./px]{1,40}")
AGAIN = "make the bundle again"


@dataclass(frozen=True)
class FileRecord:
    """A file's SHA-256, in lower-case hexadecimal digits, and its size in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True)
class BundleRecord:
    """What `bundle.json` says.

    Attributes:
        target: One of TARGETS.
        form: Of the graph: `function`, `op` or `standard`.
        precision: Of the graph: `exact`, `fp32` or `fp16`.
        grid: k of the exact grid; None for the others.
        input_shape: (C, H, W) of an image.
        classes: Number of logits.
        radius: Whether the graph has the outputs `label` and `radius`.
        eps: The radius to verify with, as it is written on the command line.
        data: Name of the data set of the labelled images.
        images: How many golden images there are.
        labelled: How many of them, the first, have a label.
        probes: How many images the families of the others have.
        seed: Of everything random in them.
        golden_bits: `required`: no operation of an exact graph rounds, so every engine must answer these bits;
            `definition`: those of the operators' definition, and an engine that rounds elsewhere may differ.
        versions: Of the packages that made the bundle.
        files: Every file of the bundle but `bundle.json`, by its place.
        format: Version of this layout.
    """

    target: str
    form: str
    precision: Precision
    grid: int | None
    input_shape: tuple[int, int, int]
    classes: int
    radius: bool
    eps: str
    data: str
    images: int
    labelled: int
    probes: Mapping[str, int]
    seed: int
    golden_bits: Literal["required", "definition"]
    versions: Mapping[str, str]
    files: Mapping[str, FileRecord]
    format: str = FORMAT


def record_of(data: bytes) -> FileRecord:
    """Returns a file's record."""
    return FileRecord(sha256_of(data), len(data))


def record_bytes(record: BundleRecord) -> bytes:
    """Returns the text of `bundle.json`."""
    return (json.dumps(asdict(record), indent=2) + "\n").encode("ascii")


def record_from_bytes(data: bytes, where: str) -> BundleRecord:
    """Reads what `record_bytes` wrote, trusting nothing.

    Args:
        data: The file.
        where: Its path, for the error text.

    Raises:
        InputError: It is no JSON, of another format, or a field is not what it must be.
    """
    try:
        found = json.loads(data)
    # The latter: brackets within brackets within brackets.
    except (ValueError, RecursionError):
        raise InputError(f"{where} is no JSON; expected the record of an edge bundle: {AGAIN}") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        claimed = brief(found.get("format")) if isinstance(found, dict) else "missing"
        raise InputError(f"{where}: format is {claimed}; expected {FORMAT!r}: {AGAIN} with this version")
    names = {item.name for item in fields(BundleRecord)}
    if different := sorted(names ^ set(found)):
        what = "missing" if different[0] in names else "unknown"
        raise InputError(
            f"{where}: the field {brief(different[0])} is {what}; expected those of {FORMAT}: {AGAIN}"
        )
    for name, (fits, expected) in RULES.items():
        if not fits(found[name]):
            raise InputError(f"{where}: {name} is {brief(found[name])}; expected {expected}: {AGAIN}")
    record = BundleRecord(
        **{
            **found,
            "input_shape": tuple(found["input_shape"]),
            "files": {name: FileRecord(**file) for name, file in found["files"].items()},
        }
    )
    if fault := _contradiction(record):
        raise InputError(f"{where}: {fault}: {AGAIN}")
    return record


def _contradiction(record: BundleRecord) -> str | None:
    """Returns what cannot be true together, if anything."""
    if (record.grid is not None) != (record.precision == "exact"):
        return f"grid is {record.grid} and precision {record.precision}; expected a grid for exact graphs alone"
    if (record.golden_bits == "required") != (record.precision == "exact"):
        return f"golden_bits is {record.golden_bits} and precision {record.precision}; expected required for exact"
    if record.labelled + sum(record.probes.values()) != record.images:
        return (
            f"{record.labelled} labelled images and {sum(record.probes.values())} probes; expected {record.images}"
        )
    if missing := [name for name in _places(record) if name not in record.files]:
        return f"{missing[0]} is not among the files; expected a whole bundle"
    return None


def _places(record: BundleRecord) -> list[str]:
    arrays = ("images", "labels", "logits", *(("label", "radius") if record.radius else ()))
    return [MODEL, README, *(f"{GOLDEN}/{name}.npy" for name in arrays)]


def _whole(least: int, most: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and least <= value <= most


def _one_of(*words: str) -> tuple[Callable[[Any], bool], str]:
    return lambda value: isinstance(value, str) and value in words, f"one of {', '.join(words)}"


def _mapping(values: Callable[[Any], bool], most: int = MAX_FILES) -> Callable[[Any], bool]:
    def fits(value: Any) -> bool:
        return (
            isinstance(value, dict)
            and len(value) <= most
            and all(_text(k) and values(v) for k, v in value.items())
        )

    return fits


def _text(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_TEXT and value.isprintable()


def _file(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and set(value) == {"sha256", "size"}
        and isinstance(value["sha256"], str)
        and SHA256.fullmatch(value["sha256"]) is not None
        and _whole(0, MAX_SIZE)(value["size"])
    )


def _files(value: Any) -> bool:
    return _mapping(_file)(value) and all(
        PLACE.fullmatch(name) is not None and name != NAME and name.split("/")[0] not in BUILT for name in value
    )


def _shape(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(map(_whole(1, MAX_LENGTH), value))


RULES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "target": _one_of(*TARGETS),
    "form": _one_of("function", "op", "standard"),
    "precision": _one_of(*PRECISIONS),
    "grid": (lambda value: value is None or _whole(0, MAX_GRID)(value), f"0 to {MAX_GRID} or null"),
    "input_shape": (_shape, "three positive numbers"),
    "classes": (_whole(2, MAX_LENGTH), "at least 2"),
    "radius": (lambda value: isinstance(value, bool), "true or false"),
    "eps": (lambda value: isinstance(value, str) and EPS.fullmatch(value) is not None, "a radius such as 0.1"),
    "data": (_text, "the name of a data set"),
    "images": (_whole(1, MAX_LENGTH), "at least 1"),
    "labelled": (_whole(1, MAX_LENGTH), "at least 1"),
    "probes": (_mapping(_whole(1, MAX_LENGTH)), "numbers of images by name"),
    "seed": (_whole(0, 2**63 - 1), "a whole number from 0 on"),
    "golden_bits": _one_of("required", "definition"),
    "versions": (_mapping(_text), "texts by name"),
    "files": (_files, "SHA-256 and size of each file, by its place inside the folder"),
}
