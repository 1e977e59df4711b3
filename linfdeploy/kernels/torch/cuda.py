# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels for tensors, on torch's current stream: nothing here waits for the card or reads from it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch

from linfdeploy.kernels import _cuda
from linfdeploy.kernels.checks import Pair, dtype_name
from linfdeploy.kernels.cuda.card import Card
from linfdeploy.kernels.cuda.driver import CudaDriver
from linfdeploy.kernels.torch.gradients import Both, Needed, Three

__all__ = ["CudaBackend", "prepare"]


def prepare(device: torch.device | int | str | None = None) -> None:
    """Compiles and loads all kernels for a card, which otherwise happens at the first use of each.

    Call it before a CUDA graph is captured or a time is measured.

    Args:
        device: A CUDA device; the current one if None.

    Raises:
        KernelError: The card or its driver is too old, or a kernel does not compile or load.
        MissingExtraError: The compiler is not installed.
    """
    from linfdeploy.kernels.torch.backends import backend_of

    backend = backend_of(torch.empty(0, device="cuda" if device is None else torch.device(device)))
    assert isinstance(backend, CudaBackend), "a CUDA device"
    backend.prepare()


class CudaBackend:
    """See `backends`; `linfdeploy.kernels` says what each kernel computes.

    Terms that `kept_bits` allows to leave out are left out from 37 bits on, never earlier.

    Args:
        card: Runs the kernels.
        number: Of the card, as torch counts.
    """

    def __init__(self, card: Card, number: int) -> None:
        self._card = card
        self._number = number

    @classmethod
    def of_card(cls, number: int) -> CudaBackend:
        """Returns the backend of a card of this machine.

        Raises:
            KernelError: The card or its driver is too old.
            MissingExtraError: The compiler is not installed.
        """
        found = torch.cuda.get_device_properties(number)
        driver = CudaDriver(number, 10 * found.major + found.minor)
        return cls(Card(driver, found.multi_processor_count), number)

    def prepare(self) -> None:
        """See `prepare` above."""
        with self._as_current():
            self._card.prepare()

    def linf_dist(self, x: torch.Tensor, w: torch.Tensor, y: torch.Tensor) -> None:
        """Writes distances of any dtype."""
        self._run("linf_dist", _sizes(x, w), dtype_name(x), x, w, None, y)

    def linf_dist_argmax(self, x: torch.Tensor, w: torch.Tensor, y: torch.Tensor, index: torch.Tensor) -> None:
        """Writes distances, and the lowest index that attains each."""
        self._run("linf_dist_argmax", _sizes(x, w), x, w, y, index)

    def linf_dist_backward(self, rows: Both, index: torch.Tensor, grad_y: torch.Tensor, grads: Needed) -> None:
        """Writes gradients of x and w."""
        self._run("linf_dist_backward", _sizes(*rows), *rows, index, grad_y, *grads)

    def linf_dist_bounds(
        self,
        lower: torch.Tensor,
        upper: torch.Tensor,
        w: torch.Tensor,
        y_lower: torch.Tensor,
        y_upper: torch.Tensor,
    ) -> None:
        """Writes both ends of the distances' intervals."""
        self._run("linf_dist_bounds", _sizes(lower, w), lower, upper, w, y_lower, y_upper)

    def linf_dist_conv(
        self, x: torch.Tensor, w: torch.Tensor, stride: Pair, padding: Pair, dilation: Pair, y: torch.Tensor
    ) -> None:
        """Writes the distances of windows and filters."""
        places = tuple(x.shape[2:]), tuple(w.shape[2:]), stride, dilation, padding, tuple(y.shape[2:])
        self._run("linf_dist_conv", _sizes(x, w), *places, x, w, None, y)

    def lp_dist(self, rows: Both, p: float, p_now: torch.Tensor | None, kept_bits: float, results: Three) -> None:
        """Writes distances, their scales and the sums of powers of ratios to these."""
        self._run("lp_dist", _sizes(*rows), *rows, p, p_now, *results)

    def lp_dist_backward(
        self,
        rows: Both,
        p: float,
        p_now: torch.Tensor | None,
        kept_bits: float,
        saved: Three,
        grads: Needed,
    ) -> None:
        """Writes gradients, from scales, sums and the distances' gradients."""
        sizes = _sizes(*rows)
        scratch = rows[0].new_empty(_cuda.lp_dist_backward_scratch(sizes), dtype=torch.uint8)
        self._run("lp_dist_backward", sizes, *rows, p, p_now, *saved, *grads, scratch)

    def _run(self, op: str, sizes: tuple[int, int, int], *arguments: Any) -> None:
        with self._as_current():
            self._card.run(op, self._stream(), sizes, *map(_native, arguments))

    def _as_current(self) -> AbstractContextManager[Any]:
        """Makes the card the current one."""
        return torch.cuda.device(self._number)

    def _stream(self) -> int:
        """The handle of the card's current stream."""
        return torch.cuda.current_stream(self._number).cuda_stream


def _sizes(x: torch.Tensor, w: torch.Tensor) -> tuple[int, int, int]:
    """Rows, inputs or channels, and outputs or filters."""
    return x.shape[0], x.shape[1], w.shape[0]


def _native(argument: Any) -> Any:
    """A tensor as the address of its memory."""
    if isinstance(argument, torch.Tensor):
        return argument.data_ptr()
    return 0 if argument is None else argument
