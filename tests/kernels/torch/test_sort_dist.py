# SPDX-License-Identifier: Apache-2.0
"""torch face of the sorted distance: values, gradients, fake kernels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from linfdeploy.errors import KernelError
from linfdeploy.kernels import sort_dist, sort_dist_bounds
from linfdeploy.kernels.torch import sort_dist as op


def _case(seed: int, inputs: int = 40) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    c = 0.6 * 0.4 ** torch.arange(7)
    return torch.randn(5, inputs), torch.randn(6, inputs), c


def test_values_are_those_of_numpy() -> None:
    x, w, c = _case(0)
    expected = sort_dist(x.numpy(), w.numpy(), c.numpy())
    np.testing.assert_array_equal(sort_dist(x, w, c).numpy(), expected)
    ends = sort_dist_bounds(x - 1, x + 1, w, c)
    for found, bound in zip(
        ends, sort_dist_bounds((x - 1).numpy(), (x + 1).numpy(), w.numpy(), c.numpy()), strict=True
    ):
        np.testing.assert_array_equal(found.numpy(), bound)


@pytest.mark.parametrize("needed", [(True, True), (True, False), (False, True)])
def test_gradients_are_those_of_autograd(needed: tuple[bool, bool]) -> None:
    x, w, c = _case(1)
    grad = torch.randn(5, 6)
    ours = [t.clone().requires_grad_(flag) for t, flag in zip((x, w), needed, strict=True)]
    sort_dist(ours[0], ours[1], c).backward(grad)  # type: ignore[no-untyped-call]
    theirs = [t.double().requires_grad_(flag) for t, flag in zip((x, w), needed, strict=True)]
    top = (theirs[0][:, None] - theirs[1]).abs().topk(7).values
    (top * c.double()).sum(-1).backward(grad.double())  # type: ignore[no-untyped-call]
    for found, expected in zip(ours, theirs, strict=True):
        if expected.grad is None:
            assert found.grad is None
        else:
            # Of some forty terms of the order of 1, each rounded to float32.
            torch.testing.assert_close(found.grad, expected.grad.float(), atol=1e-5, rtol=0)


def test_the_op_has_a_faithful_fake_kernel() -> None:
    x, w, c = _case(2)
    torch.library.opcheck(torch.ops.linfdeploy.sort_dist.default, (x.requires_grad_(), w.requires_grad_(), c))


def test_tensors_of_no_device_of_ours_are_refused() -> None:
    x, w, c = _case(3)
    with pytest.raises(KernelError, match=r"^sort_dist: x is torch.float64; expected float32$"):
        op.sort_dist(x.double(), w, c)
