# SPDX-License-Identifier: Apache-2.0
"""torch face of the l_inf distance: same bits as numpy's, gradients, and what custom ops must obey."""

from __future__ import annotations

import numpy as np
import oracles
import pytest
import torch

from linfdeploy.kernels import linf_dist, linf_dist_argmax, linf_dist_bounds
from linfdeploy.kernels.torch import linf_dist as ops


def _pair(seed: int, batch: int = 5, outputs: int = 6, inputs: int = 21) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    x, w = rng.standard_normal((batch, inputs)), rng.standard_normal((outputs, inputs))
    return torch.from_numpy(x.astype(np.float32)), torch.from_numpy(w.astype(np.float32))


def _strided(x: torch.Tensor) -> list[torch.Tensor]:
    """The same values in other layouts."""
    wide = torch.zeros(2 * x.shape[0], 3 * x.shape[1])
    wide[::2, ::3] = x
    return [x.t().contiguous().t(), wide[::2, ::3], torch.cat([x, x])[: len(x)]]


def test_bits_are_numpys(isa: str) -> None:
    for seed, inputs in enumerate((1, 15, 16, 17, 63, 70)):
        x, w = _pair(seed, inputs=inputs)
        expected = oracles.bits(oracles.linf_dist(x.numpy(), w.numpy()))
        np.testing.assert_array_equal(oracles.bits(linf_dist(x, w).numpy()), expected)
        y, index = linf_dist_argmax(x, w)
        np.testing.assert_array_equal(oracles.bits(y.numpy()), expected)
        np.testing.assert_array_equal(index.numpy(), oracles.linf_dist_argmax(x.numpy(), w.numpy()))


def test_bounds_are_numpys(isa: str) -> None:
    x, w = _pair(1)
    for found, expected in zip(
        linf_dist_bounds(x - 0.5, x + 0.25, w),
        linf_dist_bounds((x - 0.5).numpy(), (x + 0.25).numpy(), w.numpy()),
        strict=True,
    ):
        np.testing.assert_array_equal(oracles.bits(found.numpy()), oracles.bits(expected))


@pytest.mark.parametrize("layout", range(3))
def test_reads_any_layout(layout: int) -> None:
    x, w = _pair(2)
    x_view, w_view = _strided(x)[layout], _strided(w)[layout]
    assert torch.equal(linf_dist(x_view, w_view), linf_dist(x, w))
    assert torch.equal(linf_dist_argmax(x_view, w_view)[1], linf_dist_argmax(x, w)[1])
    for found, expected in zip(
        linf_dist_bounds(x_view, x_view + 1, w_view), linf_dist_bounds(x, x + 1, w), strict=True
    ):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_do_not_change_bits(threads: int) -> None:
    x, w = _pair(3, 37, 151, 257)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        y = linf_dist(x, w)
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(oracles.bits(y.numpy()), oracles.bits(oracles.linf_dist(x.numpy(), w.numpy())))


@pytest.mark.parametrize("face", ["linf_dist", "linf_dist_argmax"])
@pytest.mark.parametrize(("batch", "outputs", "inputs"), [(1, 1, 1), (5, 6, 21), (33, 7, 3), (2, 40, 65)])
def test_gradients(isa: str, face: str, batch: int, outputs: int, inputs: int) -> None:
    x, w = _pair(4, batch, outputs, inputs)
    grad_y = torch.from_numpy(np.random.default_rng(5).standard_normal((batch, outputs)).astype(np.float32))
    x.requires_grad_()
    w.requires_grad_()
    y = linf_dist(x, w) if face == "linf_dist" else linf_dist_argmax(x, w)[0]
    grads = torch.autograd.grad(y, (x, w), grad_y)
    expected = oracles.linf_dist_grads(x.detach().numpy(), w.detach().numpy(), grad_y.numpy())
    for found, wanted in zip(grads, expected, strict=True):
        np.testing.assert_allclose(found.numpy(), wanted, 1e-6, 1e-6)


def test_gradients_agree_with_plain_torch() -> None:
    x, w = (tensor.requires_grad_() for tensor in _pair(6))
    plain = (x.unsqueeze(1) - w).abs().max(-1).values
    for found, expected in zip(
        torch.autograd.grad(linf_dist(x, w).square().sum(), (x, w)),
        torch.autograd.grad(plain.square().sum(), (x, w)),
        strict=True,
    ):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_a_tie_sends_the_gradient_to_the_lowest_index() -> None:
    x = torch.tensor([[1.0, -1.0, 1.0, 0.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(linf_dist(x, torch.zeros(1, 4)).sum(), x)
    assert gradient.tolist() == [[1.0, 0.0, 0.0, 0.0]]


def test_gradients_of_strided_inputs_are_right() -> None:
    x, w = _pair(7)
    x_view, w_view = (_strided(tensor)[0].requires_grad_() for tensor in (x, w))
    found = torch.autograd.grad(linf_dist(x_view, w_view).sum(), (x_view, w_view))
    expected = oracles.linf_dist_grads(x.numpy(), w.numpy(), np.ones((5, 6), np.float32))
    for gradient, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(gradient.numpy(), wanted)


def test_bounds_and_indices_have_no_gradient() -> None:
    x, w = (tensor.requires_grad_() for tensor in _pair(8))
    assert not linf_dist_argmax(x, w)[1].requires_grad
    lower, _ = linf_dist_bounds(x, x + 1, w)
    with pytest.raises(RuntimeError):
        torch.autograd.grad(lower.sum(), x)


@pytest.mark.parametrize("batch", [0, 1])
def test_empty_batch(batch: int) -> None:
    x, w = torch.zeros(batch, 4, requires_grad=True), torch.zeros(3, 4, requires_grad=True)
    y = linf_dist(x, w)
    assert y.shape == (batch, 3)
    grad_x, grad_w = torch.autograd.grad(y.sum(), (x, w))
    assert (grad_x.shape, grad_w.shape) == (x.shape, w.shape)


@pytest.mark.parametrize("strided", [False, True])
@pytest.mark.parametrize("op", ["_linf_dist", "_linf_dist_argmax", "_linf_dist_backward", "_linf_dist_bounds"])
def test_custom_op_rules(op: str, strided: bool) -> None:
    x, w = _pair(9)
    index = linf_dist_argmax(x, w)[1]
    if strided:
        x, w = _strided(x)[0], _strided(w)[0]
    arguments = {
        "_linf_dist": (x.requires_grad_(), w.requires_grad_()),
        "_linf_dist_argmax": (x, w),
        "_linf_dist_backward": (x.detach(), w.detach(), index, torch.ones(5, 6), [True, False]),
        "_linf_dist_bounds": (x.detach(), x.detach() + 1, w.detach()),
    }[op]
    torch.library.opcheck(getattr(ops, op), arguments)


def test_meta_tensors_have_shapes() -> None:
    x, w = torch.empty(7, 4, device="meta"), torch.empty(3, 4, device="meta")
    y, index = linf_dist_argmax(x, w)
    assert (y.shape, index.shape, index.dtype) == ((7, 3), (7, 3), torch.int64)
    assert linf_dist(x, w).shape == (7, 3)
    assert [end.shape for end in linf_dist_bounds(x, x, w)] == [(7, 3), (7, 3)]


def test_compiles_in_one_graph() -> None:
    # aot_eager traces as inductor does, without its C++ compiler.
    x, w = (_strided(tensor)[0].requires_grad_() for tensor in _pair(10))

    def loss(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return linf_dist(2 * x, w).square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for found, expected in zip(
        torch.autograd.grad(compiled(x, w), (x, w)), torch.autograd.grad(loss(x, w), (x, w)), strict=True
    ):
        torch.testing.assert_close(found, expected)
