# SPDX-License-Identifier: Apache-2.0
"""Where a run trains: on which device, among which processes."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch

from linfdeploy.errors import KernelError
from linfdeploy.ranks import ALONE, Ranks

__all__ = ["CPU", "Place", "place_from"]

# Longer numbers are no device's, and would only make a long error text.
DEVICE = re.compile(r"cpu|cuda(?::(\d{1,4}))?")


@dataclass(frozen=True)
class Place:
    """Where a run trains.

    Attributes:
        device: `cpu`, or a CUDA device with its number.
        ranks: This process among those of the run, which have a device each.
        graphs: Whether steps are captured in CUDA graphs, which saves the time of launching kernels one by one;
            the bits are the same.
    """

    device: torch.device
    ranks: Ranks = ALONE
    graphs: bool = False


CPU = Place(torch.device("cpu"))
"""One process on the CPU."""


def place_from(device: str, ranks: Ranks = ALONE, *, graphs: bool | None = None) -> Place:
    """Finds the device of this process, makes it torch's current one and loads the kernels onto it.

    Args:
        device: `cpu`, `cuda` or `cuda:N`; of several processes each takes the CUDA device of its local number.
        ranks: This process among those of the run.
        graphs: Whether to capture steps in CUDA graphs: on CUDA unless it is False.

    Raises:
        KernelError: There is no such device, or it cannot do what is asked for.
        MissingExtraError: The compiler of CUDA kernels is not installed.
    """
    found = DEVICE.fullmatch(device)
    if found is None:
        raise KernelError(
            f"the device is {device[:50]!r}; expected 'cpu', 'cuda' or 'cuda:N', where the kernels of training run"
        )
    if device == "cpu":
        if graphs:
            raise KernelError(
                "CUDA graphs were asked for on the device 'cpu'; expected --device cuda: omit --graphs on the CPU"
            )
        return Place(torch.device("cpu"), ranks)
    index = _cuda_index(device, found[1], ranks)
    torch.cuda.set_device(index)
    from linfdeploy.kernels.torch.cuda import prepare

    # Now, where a machine that cannot compile them is told in one line, and no epoch's time has it.
    prepare(torch.device("cuda", index))
    return Place(torch.device("cuda", index), ranks, graphs is not False)


def _cuda_index(device: str, number: str | None, ranks: Ranks) -> int:
    if ranks.world > 1 and number is not None:
        raise KernelError(
            f"the device is {device!r} for each of {ranks.world} processes; expected 'cuda': each takes its own"
        )
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        raise KernelError(
            f"the device is {device!r} and torch {torch.__version__} finds no CUDA device; expected one: install "
            "torch for CUDA and NVIDIA's driver, or train with --device cpu"
        )
    index = ranks.local if number is None else int(number)
    if index < count:
        return index
    if ranks.world > 1:
        raise KernelError(
            f"process {index + 1} of this machine finds {count} CUDA devices; expected one for each: "
            f"start {count} with --nproc_per_node"
        )
    raise KernelError(f"the device is {device!r}; expected 'cuda:0' to 'cuda:{count - 1}', which this machine has")
