# SPDX-License-Identifier: Apache-2.0
"""torch face of the l_p distance: against float64 autograd of the definition, and what custom ops must obey."""

from __future__ import annotations

import numpy as np
import oracles
import pytest
import torch

from linfdeploy.kernels import linf_dist, lp_dist
from linfdeploy.kernels.checks import KEPT_BITS
from linfdeploy.kernels.torch import lp_dist as ops

POWERS = [1.0, 1.5, 2.0, 3.0, 7.3, 8.0, 30.5, 100.3, 1000.7]


def _pair(seed: int, batch: int = 5, outputs: int = 6, inputs: int = 21) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    x, w = rng.standard_normal((batch, inputs)), rng.standard_normal((outputs, inputs))
    # On a grid of 2^-16 differences are exact.
    x, w = np.round(x * 2**16) / 2**16, np.round(w * 2**16) / 2**16
    return torch.from_numpy(x.astype(np.float32)), torch.from_numpy(w.astype(np.float32))


@pytest.mark.parametrize("p", POWERS)
def test_agrees_with_float64(isa: str, p: float) -> None:
    x, w = (tensor.requires_grad_() for tensor in _pair(1))
    y = lp_dist(x, w, p)
    np.testing.assert_allclose(
        y.detach().numpy(), oracles.lp_dist_float64(x.detach().numpy(), w.detach().numpy(), p), 2e-6, 0
    )
    grad_y = torch.linspace(-1, 2, 30).reshape(5, 6)
    expected = oracles.lp_dist_grads(x.detach().numpy(), w.detach().numpy(), p, grad_y.numpy())
    for found, wanted in zip(torch.autograd.grad(y, (x, w), grad_y), expected, strict=True):
        allowed = 1e-5 * np.abs(wanted).max(1, keepdims=True)
        assert (np.abs(found.numpy() - wanted) <= allowed).all()


@pytest.mark.parametrize("p", POWERS)
def test_agrees_with_plain_torch(p: float) -> None:
    x, w = (tensor.requires_grad_() for tensor in _pair(2))
    found = torch.autograd.grad(lp_dist(x, w, p).square().sum(), (x, w))
    expected = torch.autograd.grad(oracles.lp_dist(x, w, p).square().sum(), (x, w))
    for gradient, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("p", POWERS)
def test_bits_are_numpys(p: float) -> None:
    x, w = _pair(3)
    np.testing.assert_array_equal(
        oracles.bits(lp_dist(x, w, p).numpy()), oracles.bits(lp_dist(x.numpy(), w.numpy(), p))
    )


def test_approaches_the_linf_distance() -> None:
    x, w = _pair(4)
    gaps = [float((lp_dist(x, w, p) - linf_dist(x, w)).max()) for p in POWERS]
    assert gaps == sorted(gaps, reverse=True)
    assert 0 <= gaps[-1] < 1e-2


def test_only_what_needs_a_gradient_gets_one() -> None:
    x, w = _pair(5)
    lp_dist(x, w.requires_grad_(), 8.0).sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is None
    assert w.grad is not None
    x, w = x.clone().requires_grad_(), w.detach()
    (grad_x,) = torch.autograd.grad(lp_dist(x, w, 8.0).sum(), x)
    both = torch.autograd.grad(lp_dist(x, w.requires_grad_(), 8.0).sum(), (x, w))
    assert torch.equal(grad_x, both[0])


def test_reads_any_layout() -> None:
    x, w = _pair(6)
    x_view, w_view = x.t().contiguous().t().requires_grad_(), torch.cat([w, w], 1)[:, :21].requires_grad_()
    x.requires_grad_()
    w.requires_grad_()
    y, y_view = lp_dist(x, w, 7.3), lp_dist(x_view, w_view, 7.3)
    assert torch.equal(y, y_view)
    # An expanded gradient has strides of zero.
    for found, expected in zip(
        torch.autograd.grad(y_view.sum(), (x_view, w_view)), torch.autograd.grad(y.sum(), (x, w)), strict=True
    ):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("strided", [False, True])
def test_custom_op_rules(strided: bool) -> None:
    x, w = _pair(7)
    if strided:
        x, w = x.t().contiguous().t(), w.t().contiguous().t()
    _, largest, powers = ops._lp_dist(x, w, 7.3)
    for needed in ([True, True], [True, False], [False, True]):
        torch.library.opcheck(
            ops._lp_dist_backward, (x, w, 7.3, None, KEPT_BITS, [largest, powers, torch.ones(5, 6)], needed)
        )
    torch.library.opcheck(ops._lp_dist, (x.requires_grad_(), w.requires_grad_(), 7.3))


def test_meta_tensors_have_shapes() -> None:
    y = lp_dist(torch.empty(7, 4, device="meta"), torch.empty(3, 4, device="meta"), 2.0)
    assert (y.shape, y.dtype) == ((7, 3), torch.float32)


def test_empty_batch() -> None:
    x, w = torch.zeros(0, 4, requires_grad=True), torch.zeros(3, 4, requires_grad=True)
    grad_x, grad_w = torch.autograd.grad(lp_dist(x, w, 2.0).sum(), (x, w))
    assert grad_x.shape == (0, 4)
    assert not grad_w.any()


def test_kept_bits_count_in_both_passes() -> None:
    # Terms of 1/2 at p = 20.5 are 2^-20.5 and 2^-19.5 in the sum and the slopes; whole p are raised by
    # multiplication instead.
    x = torch.full((1, 40), 0.5, requires_grad=True)
    with torch.no_grad():
        x[0, 0] = 1.0
    w = torch.zeros(1, 40)
    for bits, kept in ((10.0, 1), (30.0, 40), (0.0, 40)):
        y = lp_dist(x, w, 20.5, kept_bits=bits)
        (grad,) = torch.autograd.grad(y.sum(), x)
        assert (y.item() == 1.0) == (kept == 1)
        assert int(grad.count_nonzero()) == kept


def test_compiles_in_one_graph() -> None:
    # aot_eager traces as inductor does, without its C++ compiler.
    x, w = (tensor.t().contiguous().t().requires_grad_() for tensor in _pair(8))

    def loss(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return lp_dist(2 * x, w, 8.0).square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for found, expected in zip(
        torch.autograd.grad(compiled(x, w), (x, w)), torch.autograd.grad(loss(x, w), (x, w)), strict=True
    ):
        torch.testing.assert_close(found, expected)


def test_compiles_where_one_gradient_is_needed() -> None:
    x, w = _pair(9)
    x.requires_grad_()
    compiled = torch.compile(lambda x: lp_dist(x, w, 100.3).sum(), fullgraph=True, backend="aot_eager")
    (found,) = torch.autograd.grad(compiled(x), x)
    (expected,) = torch.autograd.grad(lp_dist(x, w, 100.3).sum(), x)
    assert torch.equal(found, expected)
