# SPDX-License-Identifier: Apache-2.0
"""The processes of one run, as torchrun starts them. Needs no torch unless there are several.

What every rank computes alike (the net, the schedules, whether training diverged) is computed by every rank; only
images, gradients and batch means are shared out, so one process and several follow the same path. An audit shares
out its samples, and every rank learns what was found for each.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from threading import Thread
from typing import TYPE_CHECKING, TypeVar, cast

from linfdeploy.errors import LinfDeployError, MissingExtraError, PeerError, RecipeError

if TYPE_CHECKING:
    import torch

__all__ = ["ALONE", "Ranks", "joined"]

# In training ranks wait for each other in every step; only what they do alone takes longer: reading, writing.
PATIENCE = timedelta(hours=1)

LEAVING_SECONDS = 10.0

# What torchrun tells its processes in the environment, for torch to read; no settings of ours.
PROTOCOL = {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}

Result = TypeVar("Result")


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run.

    Attributes:
        rank: Its number, from 0.
        world: How many there are.
        local: Its number on this machine, which is the number of its CUDA device.
    """

    rank: int = 0
    world: int = 1
    local: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes and prints."""
        return self.rank == 0

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Replaces a contiguous tensor by its sum over all ranks, the same bits on each; returns it.

        On CUDA nothing waits for the result but what follows on the stream, so a CUDA graph can hold it.

        Raises:
            PeerError: Another process is gone.
        """
        if self.world > 1:
            import torch.distributed as dist

            with _peers_needed():
                dist.all_reduce(tensor)
        return tensor

    def first_says(self, value: bool) -> bool:
        """Returns the value that the first rank has: what depends on a clock is its to decide.

        Raises:
            PeerError: Another process is gone.
        """
        return bool(self._least(int(value) if self.is_first else 1))

    def together(self, action: Callable[[], Result]) -> Result:
        """Runs an action on every rank; it has been done by all or fails on all.

        Raises:
            LinfDeployError: What the action raised, on the lowest rank on which it did.
            PeerError: On the others.
        """
        result, error = _attempt(action)
        failed = self._least(self.world if error is None else self.rank)
        if error is not None and failed == self.rank:
            raise error
        if failed < self.world:
            raise PeerError(f"process {failed} of {self.world} failed; expected all to go on", said=True)
        assert result is not None
        return result[0]

    def gathered(self, value: Result) -> list[Result]:
        """Returns what each rank has, in their order, on every rank: arrays on the CPU and what holds them.

        Raises:
            PeerError: Another process is gone.
        """
        if self.world == 1:
            return [value]
        import torch.distributed as dist

        values: list[Result | None] = [None] * self.world
        with _peers_needed():
            dist.all_gather_object(values, value)
        return cast("list[Result]", values)

    def from_first(self, action: Callable[[], Result]) -> Result:
        """Runs an action on the first rank and returns its result on every rank.

        Raises:
            LinfDeployError: What the action raised, on the first rank.
            PeerError: On the others.
        """
        if self.world == 1:
            return action()
        found = self.together(lambda: [action()] if self.is_first else [])
        import torch.distributed as dist

        values: list[Result | None] = [*found] or [None]
        with _peers_needed():
            dist.broadcast_object_list(values, 0)
        return cast("Result", values[0])

    @contextmanager
    def alike(self) -> Iterator[None]:
        """Lets the first rank alone tell a `RecipeError`, which within this block all ranks meet alike.

        Raises:
            PeerError: On the other ranks.
        """
        try:
            yield
        except RecipeError as error:
            if self.is_first:
                raise
            raise PeerError(str(error), said=True) from None

    def _least(self, value: int) -> int:
        """Returns the least value of all ranks."""
        if self.world == 1:
            return value
        import torch
        import torch.distributed as dist

        # On the CPU, where the ranks can talk before a device was looked for, and without waiting for one.
        least = torch.tensor(value)
        with _peers_needed():
            dist.all_reduce(least, dist.ReduceOp.MIN)
        return int(least)


ALONE = Ranks()
"""A run of one process."""


@contextmanager
def joined(what: str = "training", *, cuda: bool = True, patience: timedelta = PATIENCE) -> Iterator[Ranks]:
    """Joins the processes that torchrun started, and leaves them at the end; outside torchrun there is one.

    Args:
        what: They do, for the error text.
        cuda: Whether they may have tensors on CUDA devices to share.
        patience: How long one of them waits for the others; who ends is noticed at once.

    Raises:
        MissingExtraError: torchrun without torch in this environment.
        PeerError: The others cannot be reached.
    """
    if not set(os.environ) >= PROTOCOL or os.environ["WORLD_SIZE"] == "1":
        yield ALONE
        return
    try:
        import torch
        import torch.distributed as dist
    except ModuleNotFoundError:
        raise MissingExtraError(what, "train") from None
    with_cuda = cuda and torch.cuda.is_available() and dist.is_nccl_available()
    with _peers_needed():
        dist.init_process_group("cpu:gloo,cuda:nccl" if with_cuda else "gloo", timeout=patience)
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size(), int(os.environ.get("LOCAL_RANK", "0")))
    finally:
        # NCCL stays as long as there are CUDA graphs that use it.
        gc.collect()
        # The threads of the connections must end before the process does. On CUDA that may wait for ranks that
        # wait for us, and torchrun stops them only once we are gone: hence not for long, and beside us.
        leaving = Thread(target=dist.destroy_process_group, daemon=True)
        leaving.start()
        leaving.join(LEAVING_SECONDS)


def _attempt(action: Callable[[], Result]) -> tuple[tuple[Result] | None, LinfDeployError | None]:
    try:
        return (action(),), None
    except LinfDeployError as error:
        return None, error


@contextmanager
def _peers_needed() -> Iterator[None]:
    try:
        yield
    # torch's collectives raise it, and its subclasses, when a connection breaks or nobody answers.
    except RuntimeError as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise PeerError(
            f"a process of this run is gone ({reason}); expected all of them until the end: see what it said",
            said=False,
        ) from None
