# SPDX-License-Identifier: Apache-2.0
"""The l_p distance `y = (sum_i |x_i - w_i|^p)^(1/p)`, the smooth relaxation that training uses."""

from __future__ import annotations

from typing import TYPE_CHECKING, overload

import numpy as np

from linfdeploy.kernels import _cpu
from linfdeploy.kernels.checks import (
    KEPT_BITS,
    FloatArray,
    check_kept_bits,
    check_pair,
    check_power,
    tensors,
    threads_for_numpy,
)

if TYPE_CHECKING:
    import torch

__all__ = ["lp_dist"]


@overload
def lp_dist(x: FloatArray, w: FloatArray, p: float, *, kept_bits: float = KEPT_BITS) -> FloatArray: ...
@overload
def lp_dist(
    x: torch.Tensor, w: torch.Tensor, p: float, p_now: torch.Tensor | None = None, *, kept_bits: float = KEPT_BITS
) -> torch.Tensor: ...
def lp_dist(
    x: FloatArray | torch.Tensor,
    w: FloatArray | torch.Tensor,
    p: float,
    p_now: torch.Tensor | None = None,
    *,
    kept_bits: float = KEPT_BITS,
) -> FloatArray | torch.Tensor:
    """Returns the l_p distance of every row of `x` to every row of `w`.

    Powers are taken of ratios to the largest term, so no p overflows. The relative error of the distance is
    below 2e-6; a gradient's is below 1e-5, on CUDA below 2e-5 of the sum of its terms' magnitudes, given the
    differences `x - w` as float32 has them. The order of every sum is fixed: the bits do not depend on the number
    of threads, on the instruction set or on the card; those of CPU and CUDA differ. From p = 40 on, terms below
    2^-36 of the largest are left out of sums: see `kept_bits`. Where the largest term is below 1e-29 or above
    1e38 it is returned as it is, and has no gradient.

    Args:
        x: (N, I) float32, inputs.
        w: (O, I) float32, weights. Differentiable, like `x`, for tensors.
        p: At least 1 and finite.
        p_now: (1,) float32 on the card of `x`, for CUDA tensors alone: p is read from here when the kernels run,
            as a captured graph that is replayed while p grows needs it. `p` then only chooses the kernels; both
            must be of one kind (`linfdeploy.kernels.torch.lp_dist.lp_dist_kind`). Where they are not, or where it
            holds no p >= 1, the result is undefined.
        kept_bits: Terms below 2^-kept_bits of the largest may be left out, of distances and gradients, as a CPU
            does from p = kept_bits on or so, but for whole p up to 48 where it is less than the default; 0: none
            may. The distance falls short by at most
            I 2^-kept_bits / p of itself. Less than the default saves time, and is for training.

    Returns:
        (N, O) float32, of the kind of `x`.

    Raises:
        KernelError: A shape, dtype, device or p that does not fit.
    """
    if isinstance(x, np.ndarray) and isinstance(w, np.ndarray) and p_now is None:
        check_pair("lp_dist", x, w)
        check_power("lp_dist", p)
        check_kept_bits("lp_dist", kept_bits)
        y, largest, powers = (np.empty((x.shape[0], w.shape[0]), np.float32) for _ in range(3))
        rows = np.ascontiguousarray(x), np.ascontiguousarray(w)
        _cpu.lp_dist(*rows, p, y, largest, powers, threads_for_numpy(), kept_bits)
        return y
    from linfdeploy.kernels.torch import lp_dist as op

    x, w, *now = tensors("lp_dist", x, w, *([] if p_now is None else [p_now]))
    return op.lp_dist(x, w, p, now[0] if now else None, kept_bits)
