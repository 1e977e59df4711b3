# SPDX-License-Identifier: Apache-2.0
"""An audit's samples, cut into chunks: shared out over processes, kept as they finish, put together in order.

Chunks depend on the number of samples alone, and what is found for a chunk on nothing but its samples and what was
found for all of them before. So one process and several, an interrupted audit and a whole one find the same bits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from linfdeploy.ranks import ALONE, Ranks
from linfdeploy.verify.kept import Arrays, Kept

__all__ = ["MOST_ROWS", "DiscardedError", "Progress", "Rows", "Shards", "Step", "chunks_of", "digest_of"]

Rows: TypeAlias = npt.NDArray[np.int64]
Result = TypeVar("Result")

MOST_ROWS = 1024
"""Of a chunk, where a step does not say otherwise: memory is bounded by it."""

# Below it a chunk takes longer to hand out than to compute.
LEAST_ROWS = 64
# Divides evenly over 2, 4 and 8 processes.
MANY = 8
# Of the rows that come from a file, how many are computed again: one in so many, and at least one.
RECHECKED = 100


class Progress(Protocol):
    """What is told how far an audit is."""

    def step(self, name: str, total: int) -> None:
        """A step begins: its name, and how many samples it has for this process."""

    def advance(self, count: int) -> None:
        """So many samples more are done."""

    def note(self, text: str) -> None:
        """Something that the user should know, and that changes no figure."""


class Silence:
    """Progress that nobody looks at."""

    def step(self, name: str, total: int) -> None:
        """Says nothing."""

    def advance(self, count: int) -> None:
        """Says nothing."""

    def note(self, text: str) -> None:
        """Says nothing."""


class DiscardedError(Exception):
    """What was kept is not what this audit computes; the audit begins anew. Never leaves `run_audit`."""


@dataclass(frozen=True)
class Step:
    """A step of an audit, chunk by chunk.

    Attributes:
        name: Shown, and the name of its files.
        find: Takes the indices of samples, (M,) ascending, and returns arrays.
        most: Rows of a chunk.
        fits: Whether arrays from a file could be those of so many rows. None: every array has one entry a row, and
            some rows from a file are computed again and must be the same bits.
        unit: Chunks begin at multiples of it: what looks for faults of an engine's batches needs whole ones.
    """

    name: str
    find: Callable[[Rows], Arrays]
    most: int = MOST_ROWS
    fits: Callable[[Arrays, int], bool] | None = None
    unit: int = 1


@dataclass
class Shards:
    """This process's share of an audit.

    Attributes:
        ranks: The processes.
        kept: Where finished chunks are kept; None: nowhere.
        progress: Told how far this process is.
    """

    ranks: Ranks = ALONE
    kept: Kept | None = None
    progress: Progress = field(default_factory=Silence)
    _start: str = ""
    _key: str = ""

    def begin(self, question: Mapping[str, str]) -> None:
        """Begins an audit; what was kept of another one is dropped.

        Args:
            question: Whatever the findings depend on, by name; the same on every rank.
        """
        self._key = self._start = digest_of(question)
        if self.kept is not None:
            self.ranks.together(lambda: self._open(question))

    def _open(self, question: Mapping[str, str]) -> None:
        if self.kept is None or not self.ranks.is_first:
            return
        was_there = self.kept.folder.exists()
        if other := self.kept.open(question):
            self.progress.note(f"{self.kept.folder} is of another audit ({other} differs): it is not used")
        elif was_there:
            self.progress.note(f"going on from {self.kept.folder}, which an interrupted audit left")

    def discard(self) -> None:
        """Begins the same audit anew, without what was kept."""
        if self.kept is not None and self.ranks.is_first:
            self.progress.note(f"{self.kept.folder} does not hold what this audit computes: all is computed again")
        self.forget()
        self._key = self._start

    def forget(self) -> None:
        """Drops what was kept: the report is written, or the files cannot be trusted."""
        if self.kept is not None:
            self.ranks.together(self.kept.remove if self.ranks.is_first else lambda: None)

    def together(self, action: Callable[[], Result]) -> Result:
        """See `Ranks.together`."""
        return self.ranks.together(action)

    def from_first(self, action: Callable[[], Result], name: str = "") -> Result:
        """See `Ranks.from_first`; for what is too small to be shared out.

        Args:
            action: What to do.
            name: Of the step, where it takes long enough to be shown.
        """
        if name:
            self.progress.step(name, 0)
        return self.ranks.from_first(action)

    def map(self, step: Step, count: int) -> dict[str, npt.NDArray[Any]]:
        """Runs a step on all samples; each rank takes every world-th chunk.

        Args:
            step: What to run.
            count: Number of samples.

        Returns:
            The arrays of all chunks, each joined along its first axis in the order of the samples; on every rank.

        Raises:
            LinfDeployError: What the step raised.
            PeerError: Another process failed or is gone.
            DiscardedError: A kept chunk is not what the step computes.
        """
        chunks, parts = chunks_of(count, step.most, step.unit), list[Arrays]()
        self.progress.step(step.name, sum(map(len, chunks[self.ranks.rank :: self.ranks.world])))
        key = digest_of({"after": self._key, "step": step.name, "chunks": str(len(chunks))})
        for first in range(0, len(chunks), self.ranks.world):
            mine = chunks[first : first + self.ranks.world][self.ranks.rank :][:1]
            number = first + self.ranks.rank
            # Together, chunk by chunk: nobody computes on for an hour when another one has failed.
            part = self.ranks.together(partial(self._parts, step, key, number, mine))
            found = [found for parts_of_rank in self.ranks.gathered(part) for found in parts_of_rank]
            if None in found:
                raise DiscardedError
            parts += [arrays for arrays in found if arrays is not None]
        whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        self._key = digest_of({"key": key, **{name: _sum_of(array) for name, array in whole.items()}})
        return whole

    def _parts(self, step: Step, key: str, number: int, chunks: list[Rows]) -> list[Arrays | None]:
        """Returns this rank's chunk of a round, if there is one left for it."""
        return [self._part(step, key, number, rows) for rows in chunks]

    def _part(self, step: Step, key: str, number: int, rows: Rows) -> Arrays | None:
        """Returns a chunk from its file or computes it; None if the file is wrong."""
        arrays = None if self.kept is None else self._loaded(self.kept, step, key, number, len(rows))
        if arrays is not None:
            if step.fits is None and not _still_found(step, arrays, rows):
                return None
        else:
            arrays = step.find(rows)
            if self.kept is not None:
                self.kept.save(step.name, number, key, arrays)
        self.progress.advance(len(rows))
        return arrays

    def _loaded(self, kept: Kept, step: Step, key: str, number: int, rows: int) -> Arrays | None:
        arrays = kept.load(step.name, number, key)
        if isinstance(arrays, str):
            self.progress.note(f"{arrays}: it is computed again")
            return None
        if arrays is not None and not (step.fits or _one_entry_a_row)(arrays, rows):
            self.progress.note(
                f"{kept.path(step.name, number)} does not hold {rows} samples: it is computed again"
            )
            return None
        return arrays


def chunks_of(count: int, most: int = MOST_ROWS, unit: int = 1) -> list[Rows]:
    """Returns consecutive indices of samples, cut into chunks of nearly the same number of units.

    Args:
        count: Number of samples, at least 1.
        most: Rows of a chunk, at least a unit.
        unit: Chunks begin at multiples of it.
    """
    units, fit, number = -(-count // unit), most // unit, 1
    while number < MANY and units // (2 * number) * unit >= LEAST_ROWS:
        number *= 2
    if units > MANY * fit:
        number = MANY * -(-units // (MANY * fit))
    number = min(max(number, -(-units // fit)), units)
    parts = np.array_split(np.arange(units), number)
    return [np.arange(part[0] * unit, min((part[-1] + 1) * unit, count)) for part in parts]


def digest_of(facts: Mapping[str, str]) -> str:
    """Returns the SHA-256 of named texts."""
    text = "\n".join(f"{name!r}: {value!r}" for name, value in sorted(facts.items()))
    return hashlib.sha256(text.encode()).hexdigest()


def _sum_of(array: npt.NDArray[Any]) -> str:
    head = f"{array.dtype.str} {array.shape} ".encode()
    return hashlib.sha256(head + np.ascontiguousarray(array).tobytes()).hexdigest()


def _one_entry_a_row(arrays: Arrays, rows: int) -> bool:
    return all(array.ndim > 0 and len(array) == rows for array in arrays.values())


def _still_found(step: Step, arrays: Arrays, rows: Rows) -> bool:
    """Computes some rows again, which nobody could have foreseen, and compares bits."""
    chosen = np.sort(np.random.default_rng().permutation(len(rows))[: -(-len(rows) // RECHECKED)])
    again = step.find(rows[chosen])
    return again.keys() == arrays.keys() and all(
        _sum_of(again[name]) == _sum_of(arrays[name][chosen]) for name in again
    )
