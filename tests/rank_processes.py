# SPDX-License-Identifier: Apache-2.0
"""`linfdeploy` in several processes, as torchrun starts it, but forked from one that has imported torch."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
from collections.abc import Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from command_line import Outcome

__all__ = ["RankProcesses", "start_ranks"]

# Importing these takes longer than what the tests do; torch imports torch._dynamo when it makes an optimizer.
PRELOADED = [
    "torch._dynamo",
    "torch.distributed",
    "linfdeploy.training.loop",
    "linfdeploy.cli.train",
    "linfdeploy.verify.attacks",
    "linfdeploy.verify.audit",
]


class RankProcesses:
    """Processes that run."""

    def __init__(self, processes: Sequence[ForkServerProcess], folder: Path) -> None:
        self._processes = processes
        self._folder = folder

    @property
    def running(self) -> bool:
        """Whether one still does."""
        return any(process.is_alive() for process in self._processes)

    def kill(self) -> None:
        """Kills all of them at once, as the kernel does when memory is short."""
        for process in self._processes:
            process.kill()

    def outcomes(self, seconds: float = 600) -> list[Outcome]:
        """Waits for all of them."""
        found = []
        for rank, process in enumerate(self._processes):
            process.join(seconds)
            if process.exitcode is None:
                process.kill()
            texts = [(self._folder / f"{name}{rank}").read_text() for name in ("out", "err")]
            found.append(Outcome(-99 if process.exitcode is None else process.exitcode, *texts))
        return found


def start_ranks(folder: Path, *commands: Sequence[str]) -> RankProcesses:
    """Starts one rank for each list of arguments of `linfdeploy`; what they print goes to files in `folder`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = {"WORLD_SIZE": str(len(commands)), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = []
    for rank, command in enumerate(commands):
        mine = {**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        processes.append(context.Process(target=_run, args=(folder, rank, mine, list(command))))
        processes[-1].start()
    return RankProcesses(processes, folder)


def _run(folder: Path, rank: int, environment: dict[str, str], arguments: list[str]) -> None:
    import torch

    from linfdeploy.cli import main

    for descriptor, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / f"{name}{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    os.environ.update(environment)
    # Several threads wait for each other at every layer, which takes long on a machine that does other things.
    torch.set_num_threads(1)
    sys.argv = ["linfdeploy", *arguments]
    main()
