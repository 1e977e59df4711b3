# SPDX-License-Identifier: Apache-2.0
"""Files of `torch.save` from strangers: read right, or refused with one line; nothing is executed."""

from __future__ import annotations

import io
import os
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import papers_files as papers
import pytest
import torch

from linfdeploy.errors import CheckpointError
from linfdeploy.training.importers.archive import Source, read_source

WHAT = "a checkpoint of L_inf-dist-net, L_inf-dist-net-v2 or SortNet"
STATE = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([-0.0, 1e-45])}
OLD = {"_use_new_zipfile_serialization": False}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.pth"


def refused(path: Path) -> str:
    with pytest.raises(CheckpointError) as error:
        read_source(path)
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 2000
    assert text.startswith(f"{path}: ")
    return text.removeprefix(f"{path}: ")


def assert_state(source: Source, expected: dict[str, torch.Tensor]) -> None:
    assert list(source.state) == list(expected)
    for name, tensor in expected.items():
        assert source.state[name].numpy().tobytes() == tensor.numpy().tobytes()
        assert source.state[name].shape == tensor.shape


def rewritten(raw: bytes, change: Callable[[str, bytes], bytes | None], **options: Any) -> bytes:
    """The zip file with each record changed or, where None, left out."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(raw)) as old, zipfile.ZipFile(out, "w", **options) as new:
        for name in old.namelist():
            data = change(name.partition("/")[2], old.read(name))
            if data is not None:
                new.writestr(name, data)
    return out.getvalue()


def with_objects(path: Path) -> bytes:
    papers.save_with_modules(path, STATE)
    return path.read_bytes()


def replace(old: bytes, new: bytes) -> Callable[[str, bytes], bytes]:
    def change(name: str, data: bytes) -> bytes:
        if name == "data.pkl":
            assert old in data
            return data.replace(old, new, 1)
        return data

    return change


# --- files that are read


@pytest.mark.parametrize(
    ("options", "layout"),
    [({}, "plain data"), (OLD, "before torch 1.6"), ({"pickle_protocol": 4}, "more than plain data")],
    ids=["zip", "old", "protocol 4"],
)
def test_plain_files(options: dict[str, Any], layout: str, path: Path) -> None:
    torch.save({"state_dict": STATE, "optimizer": {"x": [1]}, "epoch": 3}, path, **options)
    source = read_source(path)
    assert_state(source, STATE)
    assert source.layout == layout
    assert source.fields == {"state_dict", "optimizer", "epoch"}


@pytest.mark.parametrize("options", [{}, OLD, {"pickle_protocol": 4}], ids=["zip", "old", "protocol 4"])
def test_files_with_objects(options: dict[str, Any], path: Path) -> None:
    papers.save_with_modules(path, STATE, **options)
    with pytest.raises(Exception, match=r"Weights only load failed|protocol 4"):
        torch.load(path, weights_only=True)
    source = read_source(path)
    assert_state(source, STATE)
    assert source.fields == {"state_dict", "optimizer"}


@pytest.mark.parametrize("options", [{}, OLD], ids=["zip", "old"])
def test_parameters_views_and_shared_storages(options: dict[str, Any], path: Path) -> None:
    base = torch.arange(20.0)
    state = {"whole": base, "part": base[5:11].view(2, 3), "p": torch.nn.Parameter(base[1:3].clone())}
    papers.save_with_modules(path, state, **options)
    assert_state(read_source(path), {name: tensor.detach() for name, tensor in state.items()})


def test_the_prefix_of_ddp_is_taken_off_only_if_all_have_it(path: Path) -> None:
    torch.save({"state_dict": {"module.a": STATE["a"], "module.module.b": STATE["b"]}}, path)
    assert list(read_source(path).state) == ["a", "module.b"]
    torch.save({"state_dict": {"module.a": STATE["a"], "b": STATE["b"]}}, path)
    assert list(read_source(path).state) == ["module.a", "b"]


# --- hostile pickles


class Payload:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("options", [{}, OLD], ids=["zip", "old"])
@pytest.mark.parametrize("place", ["root", "state_dict", "tensor", "optimizer"])
def test_nothing_is_executed(place: str, options: dict[str, Any], path: Path, tmp_path: Path) -> None:
    payload = Payload(tmp_path / "executed")
    data: dict[str, Any] = {"state_dict": dict(STATE), "optimizer": {}}
    if place == "root":
        torch.save(payload, path, **options)
        assert (
            refused(path)
            == f"it is an object of 'posix.system', which was not made; expected the field 'state_dict' of {WHAT}"
        )
    elif place == "state_dict":
        torch.save({**data, "state_dict": payload}, path, **options)
        assert refused(path).startswith("it holds the fields ['state_dict', 'optimizer']; expected the field")
    elif place == "tensor":
        data["state_dict"]["a"] = payload
        torch.save(data, path, **options)
        assert refused(path) == "'a' is an object of 'posix.system', which was not made; expected a tensor"
    else:
        torch.save({**data, "optimizer": payload}, path, **options)
        assert_state(read_source(path), STATE)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("options", [{}, OLD], ids=["zip", "old"])
def test_nesting_beyond_the_recursion_limit(options: dict[str, Any], path: Path) -> None:
    torch.save({"state_dict": STATE, "x": "here"}, path, **options)
    nested = b"]" * 100_000 + b"a" * 99_999
    text = b"X\x04\x00\x00\x00here"
    raw = path.read_bytes()
    old = raw.replace(text, nested, 1)
    path.write_bytes(old if options else rewritten(raw, replace(text, nested)))
    assert_state(read_source(path), STATE)


# --- tensors that claim what is not there

SHAPE = b"K\x02K\x03\x86"


@pytest.mark.parametrize(
    ("new", "text"),
    [
        (
            b"K\x02K\x64\x86",
            "'a' has shape (2, 100) and strides (3, 1); expected positive sizes, plainly stored",
        ),
        (b"K\x03K\x03\x86", "'a' has shape (3, 3) from element 0 on, but its storage has 6 elements; expected"),
        (b"K\x00K\x03\x86", "'a' has shape (0, 3) and strides (3, 1); expected positive sizes"),
        (b"J\xff\xff\xff\xffK\x03\x86", "'a' has shape (-1, 3) and strides"),
        (b"\x8a\x09" + b"\xff" * 8 + b"\x00K\x03\x86", "'a' has shape (18446744073709551615, 3) and strides"),
        (b"K\x02X\x01\x00\x00\x00b\x86", "'a' has shape (2, 'b') and strides"),
        (b"N", "'a' has shape None and strides (3, 1)"),
    ],
)
def test_shapes_that_lie(new: bytes, text: str, path: Path) -> None:
    path.write_bytes(rewritten(with_objects(path), replace(SHAPE, new)))
    assert refused(path).startswith(text)


def test_a_tensor_of_zero_strides_is_not_blown_up(path: Path) -> None:
    big = torch.zeros(1).expand(2**20, 2**20)
    papers.save_with_modules(path, {"a": big})
    assert refused(path) == (
        "'a' has shape (1048576, 1048576) and strides (0, 0); expected positive sizes, plainly stored"
    )
    torch.save({"state_dict": {"a": big}}, path)
    assert refused(path) == "'a' is not plainly stored torch.float32; expected torch.float32"


@pytest.mark.parametrize("objects", [False, True])
@pytest.mark.parametrize("size", [0, 23, 25, 2400])
def test_storages_of_another_size(size: int, objects: bool, path: Path) -> None:
    torch.save({"state_dict": STATE}, path)
    raw = with_objects(path) if objects else path.read_bytes()
    path.write_bytes(rewritten(raw, lambda name, data: b"\0" * size if name == "data/0" else data))
    text = refused(path)
    assert text == (
        f"the storage '0' has {size} bytes but claims 6 elements, so 24 bytes; expected the same: copy it again"
    )


def test_a_storage_that_is_not_there(path: Path) -> None:
    path.write_bytes(rewritten(with_objects(path), lambda name, data: None if name == "data/0" else data))
    assert refused(path).startswith("the storage '0' has 0 bytes but claims 6 elements")


@pytest.mark.parametrize("key", ["../../../etc/passwd", "/etc/passwd", "0/../1", "0\0"])
def test_storage_names_reach_no_file(key: str, path: Path) -> None:
    name = b"X\x01\x00\x00\x000"
    hostile = b"X" + struct.pack("<I", len(key)) + key.encode()
    path.write_bytes(rewritten(with_objects(path), replace(name, hostile)))
    assert "bytes but claims 6 elements" in refused(path)


@pytest.mark.parametrize(
    ("identity", "shown"),
    [
        (("storage", torch.FloatStorage, "0", "cpu", -1), "('storage', Name(text='torch.FloatStorage'), '0'"),
        (("storage", torch.FloatStorage, "0", "cpu", 2**60), "('storage', Name(text='torch.FloatStorage'), '0'"),
        (("storage", torch.FloatStorage, 0, "cpu", 4), "('storage', Name"),
        (("storage", os.system, "0", "cpu", 4), "('storage', Name"),
        ((), "()"),
        ("text", "'text'"),
    ],
)
def test_strange_persistent_ids(identity: object, shown: str, path: Path) -> None:
    import pickle

    class Strange(pickle.Pickler):
        def persistent_id(self, obj: object) -> object:
            return identity if isinstance(obj, float) else None

    class Unknown:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.getcwd, ()

    buffer = io.BytesIO()
    Strange(buffer, 2).dump({"x": Unknown(), "state_dict": {"a": 1.5}})
    new = buffer.getvalue()
    path.write_bytes(rewritten(with_objects(path), lambda name, data: new if name == "data.pkl" else data))
    text = refused(path)
    assert text.startswith(f"it refers to {shown}")
    assert text.endswith("expected the numbers of a tensor, as torch.save writes them")


@pytest.mark.parametrize("objects", [False, True])
@pytest.mark.parametrize(
    ("tensor", "plain", "inert"),
    [
        (torch.zeros(2).double(), "torch.float64", "DoubleStorage"),
        (torch.zeros(2).half(), "torch.float16", "HalfStorage"),
        (torch.zeros(2, dtype=torch.int64), "torch.int64", "LongStorage"),
    ],
)
def test_other_types(tensor: torch.Tensor, plain: str, inert: str, objects: bool, path: Path) -> None:
    if objects:
        papers.save_with_modules(path, {"a": tensor})
        assert refused(path) == f"'a' has the type {inert}; expected FloatStorage (float32)"
    else:
        torch.save({"state_dict": {"a": tensor}}, path)
        assert refused(path) == f"'a' is {plain}; expected torch.float32"


@pytest.mark.parametrize("objects", [False, True])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none(value: float, objects: bool, path: Path) -> None:
    state = {"a": torch.tensor([1.0, value])}
    if objects:
        papers.save_with_modules(path, state)
    else:
        torch.save({"state_dict": state}, path)
    assert refused(path) == "'a' holds infinite or NaN values; expected finite numbers"


# --- files that are none


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        ([1], "is of type list"),
        ({"model": STATE}, "holds the fields ['model']"),
        ({"state_dict": [1]}, "holds the fields ['state_dict']"),
        (STATE["a"], "is of type Tensor"),
    ],
)
def test_something_else(data: Any, shown: str, path: Path) -> None:
    torch.save(data, path)
    assert refused(path) == f"it {shown}; expected the field 'state_dict' of {WHAT}"


def test_values_that_are_no_tensors(path: Path) -> None:
    torch.save({"state_dict": {"a": 3}}, path)
    assert refused(path) == "'a' is of type int; expected a tensor"
    torch.save({"state_dict": {3: STATE["a"]}}, path)
    assert refused(path) == "its state_dict has 1 entries; expected 1 to 4096 named tensors"
    torch.save({"state_dict": {str(index): 0 for index in range(5000)}}, path)
    assert refused(path) == "its state_dict has 5000 entries; expected 1 to 4096 named tensors"


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"not a checkpoint at all", b"\x80\x02}q\0.", b"PK\3\4"])
def test_no_checkpoint(content: bytes, path: Path) -> None:
    path.write_bytes(content)
    assert refused(path) == f"it is no file of torch.save, or cut off; expected {WHAT}"


def test_missing(path: Path) -> None:
    with pytest.raises(Exception, match=re.escape(f"{path}: no such file; expected {WHAT}")):
        read_source(path)


@pytest.mark.parametrize("options", [{}, OLD], ids=["zip", "old"])
def test_every_cut_and_many_flips(options: dict[str, Any], path: Path) -> None:
    """A damaged file is refused; what the old layout cannot know, having no checksums, are other numbers."""
    papers.save_with_modules(path, STATE, **options)
    raw = path.read_bytes()
    for size in [*range(0, len(raw), 41), *range(len(raw) - 30, len(raw))]:
        path.write_bytes(raw[:size])
        refused(path)
    for bit in range(0, 8 * len(raw), 331):
        damaged = bytearray(raw)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            source = read_source(path)
        except CheckpointError:
            refused(path)
            continue
        if not options:
            assert_state(source, STATE)


def test_bytes_of_chance(path: Path) -> None:
    rng = np.random.default_rng(0)
    for size in (1, 10, 100, 5000):
        for head in (b"", b"PK\3\4", b"\x80\x02"):
            path.write_bytes(head + rng.bytes(size))
            refused(path)


# --- bombs


def test_compressed_records(path: Path) -> None:
    torch.save({"state_dict": {"a": torch.zeros(10**6)}}, path)
    bomb = rewritten(path.read_bytes(), lambda _, data: data, compression=zipfile.ZIP_DEFLATED)
    assert len(bomb) < 10**5
    path.write_bytes(bomb)
    assert refused(path) == f"it is damaged (it has compressed or very many records); expected {WHAT}"


def test_many_records(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for index in range(2**16 + 1):
            archive.writestr(str(index), b"")
    assert refused(path) == f"it is damaged (it has compressed or very many records); expected {WHAT}"


def test_records_that_share_their_bytes(path: Path) -> None:
    """Each entry of the directory is repeated with another name, so that the file seems twice as large."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", b"0" * 1000)
        entry = archive.infolist()[0]
        for index in range(50):
            other = zipfile.ZipInfo(f"x/{index}")
            for field in ("header_offset", "file_size", "compress_size", "CRC"):
                setattr(other, field, getattr(entry, field))
            archive.filelist.append(other)
            archive.NameToInfo[other.filename] = other
        archive._didModify = True  # type: ignore[attr-defined]
    assert refused(path) == f"it is damaged (its records overlap); expected {WHAT}"


def test_two_records_of_one_name(path: Path) -> None:
    torch.save({"state_dict": STATE}, path)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("model/data.pkl", b"\x80\x02N.")
    assert refused(path) == f"it is damaged (its records overlap); expected {WHAT}"


# --- the layouts' own fields


def test_another_byte_order(path: Path) -> None:
    raw = with_objects(path)
    path.write_bytes(rewritten(raw, lambda name, data: b"big" if name == "byteorder" else data))
    text = "its numbers are not little-endian; expected a checkpoint of a usual machine"
    assert refused(path) == text
    papers.save_with_modules(path, STATE, **OLD)
    raw = path.read_bytes()
    order = raw.index(b"\x88", raw.index(b"little_endian"))
    path.write_bytes(raw[:order] + b"\x89" + raw[order + 1 :])
    assert refused(path) == text


def test_a_zip_file_of_something_else(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme", b"x")
    assert "expected" in refused(path)


def old_file(path: Path) -> tuple[bytes, int]:
    """An old file of one tensor, and where its list of storages starts."""
    papers.save_with_modules(path, {"a": STATE["a"]}, **OLD)
    raw = path.read_bytes()
    return raw, raw.rindex(b"\x80\x02")


def test_old_storages_that_are_left_out(path: Path) -> None:
    raw, start = old_file(path)
    path.write_bytes(raw[:start] + b"\x80\x02].")
    assert re.fullmatch(r"the storage '\d+' is missing; expected its numbers: copy it again", refused(path))


@pytest.mark.parametrize("entries", [b"]X\x01\x00\x00\x009a", b"]Na", b"]]a"])
def test_old_storages_that_no_tensor_uses(entries: bytes, path: Path) -> None:
    raw, start = old_file(path)
    path.write_bytes(raw[:start] + b"\x80\x02" + entries + b".")
    assert re.fullmatch(
        r"it lists the storage ('9'|None|\[\]); expected each one that its tensors use, once", refused(path)
    )


def test_no_list_of_old_storages(path: Path) -> None:
    raw, start = old_file(path)
    path.write_bytes(raw[:start] + b"\x80\x02N.")
    assert refused(path) == "it has no list of storages; expected what torch.save writes"


def test_old_storages_of_another_size(path: Path) -> None:
    torch.save({"state_dict": {"a": STATE["a"]}}, path, **OLD)
    raw = path.read_bytes()
    path.write_bytes(raw[:-32] + struct.pack("<q", 7) + raw[-24:])
    text = r"the storage '\d+' is cut off or of another size; expected the whole file"
    assert re.fullmatch(text, refused(path))
    path.write_bytes(raw[:-1])
    assert re.fullmatch(r"the storage '\d+' has 23 bytes but claims 6 elements, so 24 bytes; .*", refused(path))


def test_an_old_storage_that_is_listed_twice(path: Path) -> None:
    raw, start = old_file(path)
    key = re.search(rb"X(.)\x00\x00\x00(\d+)", raw[start:], re.DOTALL)
    assert key is not None
    listed = key[0] + b"a" + key[0] + b"a"
    path.write_bytes(raw[:start] + b"\x80\x02]" + listed + b"." + raw[-32:] * 2)
    assert re.fullmatch(r"it lists the storage '\d+'; expected each one that its tensors use, once", refused(path))


def test_bits_that_change_what_the_numbers_mean(path: Path) -> None:
    """A negation that was put off is written as a flag beside the numbers; torch does it, the "
    "stricter reader refuses."""
    negated = torch._neg_view(torch.ones(2))
    torch.save({"state_dict": {"a": negated}}, path)
    assert_state(read_source(path), {"a": -torch.ones(2)})
    papers.save_with_modules(path, {"a": negated})
    assert refused(path) == "'a' is an object of 'a tensor with metadata', which was not made; expected a tensor"
