# SPDX-License-Identifier: Apache-2.0
"""Reads a pickle without executing anything: what it names stays a name, what it makes stays a stub.

No class or function is looked up, no object is made but plain containers, and every step costs a bounded amount of
time and memory, however deep the pickle nests.
"""

from __future__ import annotations

import pickletools
import struct
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeAlias

from linfdeploy.errors import CheckpointError, brief

__all__ = ["MAX_STEPS", "Built", "Calls", "Inert", "Name", "read_pickle"]

MAX_STEPS = 2**20
"""The most instructions a pickle may have; the largest file of the papers' code has a few thousand."""

Calls: TypeAlias = Mapping[str, Callable[..., object]]

VALUES = {
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}
# A set is a list here: nothing that a file chooses is hashed, but for plain keys.
CONSTANTS: Mapping[str, Callable[[], object]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
    "EMPTY_SET": list,
}
KEYS = (str, int, float, bytes, type(None))


@dataclass(frozen=True)
class Name:
    """The name of a class or a function, which was not looked up."""

    text: str


@dataclass(frozen=True, eq=False)
class Inert:
    """An object that was not made.

    Attributes:
        name: What should have made it.
    """

    name: str


class Built:
    """What one of `calls` may return to be given the state that the pickle has for it.

    Attributes:
        state: As it was read; None where the pickle has none.
    """

    state: object = None


def read_pickle(file: BinaryIO, calls: Calls, persistent: Callable[[object], object]) -> object:
    """Reads one pickle and leaves the file behind it.

    Args:
        file: A seekable file, at the pickle's start.
        calls: What stands for the functions whose results are wanted, by their full names; they must cope with
            any arguments. Everything else that the pickle calls becomes an `Inert`.
        persistent: Maps a persistent id to what it stands for.

    Returns:
        Dicts (with plain keys; other entries are dropped), lists, tuples, numbers, text, bytes, and results of
        `calls` and `persistent`; the rest is `Name` and `Inert`.

    Raises:
        CheckpointError: The pickle is damaged, endless, or has instructions that `torch.save` does not write.
    """
    machine = _Machine(calls, persistent)
    try:
        # Decoding old kinds of text can warn of how it is escaped.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _run(machine, file)
    except (ValueError, IndexError, KeyError, OverflowError, struct.error):
        raise CheckpointError(
            "its pickle is cut off or damaged; expected what torch.save writes: copy it again"
        ) from None


def _run(machine: _Machine, file: BinaryIO) -> object:
    for step, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if step == MAX_STEPS:
            raise CheckpointError(f"its pickle has more than {MAX_STEPS} instructions; expected a checkpoint")
        if opcode.name == "STOP":
            return machine.stack.pop()
        machine.step(opcode.name, argument)
    raise IndexError


class _Machine:
    """The stack of a pickle. An instruction that finds too little there raises IndexError or KeyError."""

    def __init__(self, calls: Calls, persistent: Callable[[object], object]) -> None:
        self.calls, self.persistent = calls, persistent
        self.stack: list[Any] = []
        self.below_mark: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        if name in VALUES:
            self.push(argument)
        elif name in CONSTANTS:
            self.push(CONSTANTS[name]())
        elif name in STEPS:
            STEPS[name](self, argument)
        else:
            raise CheckpointError(
                f"its pickle has the instruction {name}, which torch.save does not write; expected a checkpoint"
            )

    def push(self, value: object) -> None:
        self.stack.append(value)

    def mark(self, _: object) -> None:
        self.below_mark.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.below_mark.pop()
        return items

    def last(self, count: int) -> tuple[Any, ...]:
        items = [self.stack.pop() for _ in range(count)]
        return tuple(reversed(items))

    def put(self, index: int | None) -> None:
        self.memo[len(self.memo) if index is None else index] = self.stack[-1]

    def get(self, index: int) -> None:
        self.push(self.memo[index])

    def push_name(self, argument: str) -> None:
        self.push(Name(argument.replace(" ", ".", 1)))

    def push_stack_name(self, _: object) -> None:
        module, name = self.last(2)
        self.push(Name(f"{module}.{name}" if isinstance(module, str) and isinstance(name, str) else "?"))

    def call(self, _: object) -> None:
        function, arguments = self.last(2)
        name = function.text if isinstance(function, Name) else "?"
        known = self.calls.get(name)
        if known is None or not isinstance(arguments, tuple):
            self.push(Inert(name))
            return
        try:
            self.push(known(*arguments))
        except TypeError:
            raise CheckpointError(
                f"its pickle calls {brief(name)} with other arguments than torch.save writes; expected a "
                "checkpoint"
            ) from None

    def make(self, parts: int) -> None:
        made = self.last(parts)[0]
        self.push(Inert(made.text if isinstance(made, Name) else "?"))

    def build(self, _: object) -> None:
        state = self.stack.pop()
        # An object that was not made has no use for its state.
        if self.stack and isinstance(target := self.stack[-1], Built):
            target.state = state

    def store(self, pairs: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, dict):
            target.update(
                (key, value) for key, value in zip(pairs[::2], pairs[1::2], strict=True) if isinstance(key, KEYS)
            )

    def extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(items)


STEPS: Mapping[str, Callable[[_Machine, Any], object]] = {
    "PROTO": lambda machine, _: None,
    "FRAME": lambda machine, _: None,
    "MARK": _Machine.mark,
    "POP": lambda machine, _: machine.stack.pop(),
    "POP_MARK": lambda machine, _: machine.since_mark(),
    "DUP": lambda machine, _: machine.push(machine.stack[-1]),
    "PUT": _Machine.put,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": _Machine.put,
    "GET": _Machine.get,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "TUPLE": lambda machine, _: machine.push(tuple(machine.since_mark())),
    "TUPLE1": lambda machine, _: machine.push(machine.last(1)),
    "TUPLE2": lambda machine, _: machine.push(machine.last(2)),
    "TUPLE3": lambda machine, _: machine.push(machine.last(3)),
    "LIST": lambda machine, _: machine.push(machine.since_mark()),
    "FROZENSET": lambda machine, _: machine.push(machine.since_mark()),
    "SETITEM": lambda machine, _: machine.store(list(machine.last(2))),
    "SETITEMS": lambda machine, _: machine.store(machine.since_mark()),
    "APPEND": lambda machine, _: machine.extend(list(machine.last(1))),
    "APPENDS": lambda machine, _: machine.extend(machine.since_mark()),
    "ADDITEMS": lambda machine, _: machine.extend(machine.since_mark()),
    "GLOBAL": _Machine.push_name,
    "STACK_GLOBAL": _Machine.push_stack_name,
    "REDUCE": _Machine.call,
    "NEWOBJ": lambda machine, _: machine.make(2),
    "NEWOBJ_EX": lambda machine, _: machine.make(3),
    "BUILD": _Machine.build,
    "BINPERSID": lambda machine, _: machine.push(machine.persistent(machine.stack.pop())),
}
