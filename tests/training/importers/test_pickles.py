# SPDX-License-Identifier: Apache-2.0
"""The inert reader: what Python's own pickle would make, without making anything."""

from __future__ import annotations

import io
import os
import pickle
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from linfdeploy.errors import CheckpointError
from linfdeploy.training.importers.pickles import MAX_STEPS, Inert, Name, read_pickle

PLAIN: list[Any] = [
    None,
    True,
    -(2**70),
    1.5,
    "text é",
    b"bytes",
    [1, [2, [3]]],
    (1, (2, 3), (4, 5, 6, 7)),
    {"a": {1: [None, True]}, 2.5: "x", b"k": ()},
    ["x" * 300, 255, 256, 65536, 2**40],
]
DAMAGED = "its pickle is cut off or damaged; expected what torch.save writes: copy it again"


def read(data: bytes, **calls: Any) -> Any:
    return read_pickle(io.BytesIO(data), calls, lambda identity: ("id", identity))


def refused(data: bytes) -> str:
    with pytest.raises(CheckpointError) as error:
        read(data)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("value", PLAIN, ids=repr)
def test_plain_data_is_as_python_reads_it(value: Any, protocol: int) -> None:
    if protocol == 2 and b"_codecs" in pickle.dumps(value, 2):
        pytest.skip("protocol 2 has no bytes: it calls a function to make them")
    assert read(pickle.dumps(value, protocol)) == value


def test_shared_and_circular_data() -> None:
    ring: list[Any] = [1]
    ring.append(ring)
    read_ring = read(pickle.dumps(ring, 2))
    assert read_ring[1] is read_ring
    twice = [[1]] * 2
    found = read(pickle.dumps(twice, 2))
    assert found[0] is found[1]


def test_one_pickle_after_another() -> None:
    file = io.BytesIO(pickle.dumps("first", 2) + pickle.dumps(["second"], 2) + b"rest")
    assert [read_pickle(file, {}, lambda _: None) for _ in range(2)] == ["first", ["second"]]
    assert file.read() == b"rest"


class Payload:
    """Runs something when it is unpickled by something less careful."""

    def __init__(self, call: Any, *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call, self.arguments


def hostile(marker: Path) -> dict[str, Any]:
    code = f"open({str(marker)!r}, 'w').close()"
    return {
        "system": Payload(os.system, f"touch {marker}"),
        "eval": Payload(eval, code),
        "exec": Payload(exec, code),
        "open": Payload(open, str(marker), "w"),
        "getattr": Payload(getattr, "x", "upper"),
        "import": Payload(__import__, "antigravity"),
        "nested": [Payload(eval, Payload(str, code))],
    }


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("name", hostile(Path("x")))
def test_nothing_is_executed(name: str, protocol: int, tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    data = pickle.dumps({"a": hostile(marker)[name], "b": 3}, protocol)
    before = set(sys.modules)
    found = read(data)
    assert found["b"] == 3
    inert = found["a"][0] if name == "nested" else found["a"]
    assert type(inert) is Inert
    assert not marker.exists()
    assert set(sys.modules) == before
    # The same bytes do harm elsewhere: the test can fail.
    if name in {"eval", "exec", "system"}:
        pickle.loads(data)
        assert marker.exists()


def test_objects_and_their_state_are_inert() -> None:
    # NEWOBJ with state, REDUCE with state, items and pairs on what was not made.
    data = b"\x80\x02cno.such\nClass\n)\x81}(X\x01\x00\x00\x00aK\x01ub."
    found = read(data)
    assert isinstance(found, Inert)
    assert found.name == "no.such.Class"
    data = b"\x80\x02cno.such\nmake\n)R(K\x01K\x02u(K\x03e}b."
    assert read(data).name == "no.such.make"
    assert read(b"\x80\x04\x8c\x02no\x8c\x01X\x93.") == Name("no.X")


def test_a_state_changes_nothing_that_has_a_name() -> None:
    """With the state of a function, other unpicklers let a file rewrite what everybody uses."""
    calls: list[tuple[Any, ...]] = []

    def known(*arguments: Any) -> str:
        calls.append(arguments)
        return "made"

    data = b"\x80\x02ca\nb\nN}X\x0c\x00\x00\x00__defaults__K\x01s\x86bK\x07\x85R."
    assert read(data, **{"a.b": known}) == "made"
    assert calls == [(7,)]
    assert known.__defaults__ is None


def test_known_calls_with_other_arguments() -> None:
    data = b"\x80\x02ca\nb\nK\x07\x85R."
    with pytest.raises(CheckpointError) as error:
        read(data, **{"a.b": lambda: None})
    assert str(error.value) == (
        "its pickle calls 'a.b' with other arguments than torch.save writes; expected a checkpoint"
    )


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"(cos\nsystem\nX\x02\x00\x00\x00lso.", "OBJ"),
        (b"(X\x02\x00\x00\x00lsios\nsystem\n.", "INST"),
        (b"\x82\x01.", "EXT1"),
        (b"Pname\n.", "PERSID"),
        (b"I01\n.", "INT"),
        (b"\x97.", "NEXT_BUFFER"),
        (b"\x96\x01\x00\x00\x00\x00\x00\x00\x00a.", "BYTEARRAY8"),
    ],
)
def test_instructions_that_torch_does_not_write(data: bytes, name: str) -> None:
    assert refused(b"\x80\x02" + data) == (
        f"its pickle has the instruction {name}, which torch.save does not write; expected a checkpoint"
    )


DAMAGES = {
    "empty": b"",
    "no end": b"\x80\x02N",
    "nothing left": b"\x80\x02.",
    "too little": b"\x80\x02K\x01\x86.",
    "no mark": b"\x80\x02K\x01t.",
    "no memo": b"\x80\x02h\x07.",
    "odd pairs": b"\x80\x02}(K\x01u.",
    "unknown": b"\x80\x02\xff.",
    "cut text": b"\x80\x02X\xff\x00\x00\x00abc",
    "4 GiB of text": b"\x80\x02X\xff\xff\xff\xffabc.",
    "2^63 bytes": b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7fabc.",
    "2 GiB number": b"\x80\x02\x8b\xff\xff\xff\x7f\x01.",
    "no UTF-8": b"\x80\x02X\x01\x00\x00\x00\xff.",
    "no line end": b"\x80\x02cos",
}


@pytest.mark.parametrize("data", DAMAGES.values(), ids=DAMAGES)
def test_damage(data: bytes) -> None:
    assert refused(data) == DAMAGED


def test_every_cut_is_found() -> None:
    data = pickle.dumps({"a": [1, 2, (3, 4)], "b": Payload(eval, "1")}, 2)
    for size in range(len(data)):
        refused(data[:size])


def test_deep_nesting() -> None:
    depth = 300_000
    found = read(b"\x80\x02" + b"]" * depth + b"a" * (depth - 1) + b".")
    for _ in range(depth - 1):
        (found,) = found
    assert found == []


def test_endless_pickles() -> None:
    text = f"its pickle has more than {MAX_STEPS} instructions; expected a checkpoint"
    assert refused(b"\x80\x02" + b"N0" * MAX_STEPS + b".") == text


def test_a_memo_index_costs_nothing() -> None:
    assert read(b"\x80\x02Nr\xff\xff\xff\xff.") is None


@pytest.mark.parametrize("as_key", [False, True])
def test_doubling_costs_nothing(as_key: bool) -> None:
    """A tuple of two of itself, 10,000 times: hashing, comparing or printing it would never end."""
    doubled = b")" + b"q\x00h\x00\x86" * 10_000
    start = time.perf_counter()
    found = read(b"\x80\x02}" + doubled + b"Ns." if as_key else b"\x80\x02" + doubled + b".")
    assert time.perf_counter() - start < 30
    assert (found == {}) if as_key else (len(found) == 2)


def test_sets_are_lists_and_strange_keys_are_dropped() -> None:
    assert sorted(read(pickle.dumps({1, 2}, 4))) == [1, 2]
    assert sorted(read(pickle.dumps(frozenset({1, 2}), 4))) == [1, 2]
    assert read(pickle.dumps({(1, 2): 3, "a": 4}, 2)) == {"a": 4}


def test_persistent_ids() -> None:
    assert read(b"\x80\x02K\x05Q.") == ("id", 5)
