# SPDX-License-Identifier: Apache-2.0
"""Which kernels compute on which device.

A backend's methods take contiguous tensors, checked, on one device, and write into those that come last; all
backends have the same methods. Of two gradients, one that is None is not needed.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import torch

from linfdeploy.kernels.torch.cpu import CpuBackend

if TYPE_CHECKING:
    from linfdeploy.kernels.torch.cuda import CudaBackend

__all__ = ["DEVICES", "backend_of"]

DEVICES = ("cpu", "cuda")
"""The kinds of devices that there are kernels for."""

_CPU = CpuBackend()
_CARDS: dict[int, CudaBackend] = {}
_LOCK = threading.Lock()


def backend_of(tensor: torch.Tensor) -> CpuBackend | CudaBackend:
    """Returns the kernels for a tensor's device.

    Raises:
        KernelError: The card or its driver is too old.
        MissingExtraError: The compiler of CUDA kernels is not installed.
    """
    if tensor.device.type == "cpu":
        return _CPU
    # A CUDA tensor's device has a number.
    return _card(tensor.device.index)


def _card(number: int) -> CudaBackend:
    if (found := _CARDS.get(number)) is None:
        from linfdeploy.kernels.torch.cuda import CudaBackend

        with _LOCK:
            found = _CARDS.get(number) or CudaBackend.of_card(number)
            _CARDS[number] = found
    return found
