# SPDX-License-Identifier: Apache-2.0
"""The CPU kernels for tensors, on torch's threads."""

from __future__ import annotations

import torch

from linfdeploy.kernels import _cpu
from linfdeploy.kernels.checks import Pair
from linfdeploy.kernels.forward import forward
from linfdeploy.kernels.torch.gradients import Both, Needed, Three

__all__ = ["CpuBackend"]


class CpuBackend:
    """See `backends`; `linfdeploy.kernels` says what each kernel computes."""

    def linf_dist(self, x: torch.Tensor, w: torch.Tensor, y: torch.Tensor) -> None:
        """Writes distances of any dtype."""
        forward(x, w, y, torch.uint16, torch.get_num_threads())

    def linf_dist_argmax(self, x: torch.Tensor, w: torch.Tensor, y: torch.Tensor, index: torch.Tensor) -> None:
        """Writes distances, and the lowest index that attains each."""
        _cpu.linf_dist_argmax(x, w, y, index, torch.get_num_threads())

    def linf_dist_backward(self, rows: Both, index: torch.Tensor, grad_y: torch.Tensor, grads: Needed) -> None:
        """Writes gradients of x and w."""
        grad_x, grad_w = (
            torch.empty_like(row) if grad is None else grad for row, grad in zip(rows, grads, strict=True)
        )
        _cpu.linf_dist_backward(*rows, index, grad_y, grad_x, grad_w, torch.get_num_threads())

    def linf_dist_bounds(
        self,
        lower: torch.Tensor,
        upper: torch.Tensor,
        w: torch.Tensor,
        y_lower: torch.Tensor,
        y_upper: torch.Tensor,
    ) -> None:
        """Writes both ends of the distances' intervals."""
        _cpu.linf_dist_bounds(lower, upper, w, y_lower, y_upper, torch.get_num_threads())

    def linf_dist_conv(
        self, x: torch.Tensor, w: torch.Tensor, stride: Pair, padding: Pair, dilation: Pair, y: torch.Tensor
    ) -> None:
        """Writes the distances of windows and filters."""
        _cpu.linf_dist_conv(x, w, y, stride, padding, dilation, torch.get_num_threads())

    def lp_dist(self, rows: Both, p: float, p_now: torch.Tensor | None, kept_bits: float, results: Three) -> None:
        """Writes distances, their scales (the largest terms) and the sums of powers of ratios to these."""
        _cpu.lp_dist(*rows, p, *results, torch.get_num_threads(), kept_bits)

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
        _cpu.lp_dist_backward(*rows, p, *saved, *grads, torch.get_num_threads(), kept_bits)
