# SPDX-License-Identifier: Apache-2.0
"""torch ops through the CUDA backend and its kernels, on the emulator: the CPU's bits, and autograd around them.

What only a card can show is in test_gpu.py.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import oracles
import pytest
import torch
from emulated import Library
from operands import pair_on_grid, rows_of_dtype

from linfdeploy.kernels import linf_dist, linf_dist_argmax, linf_dist_bounds, linf_dist_conv, lp_dist
from linfdeploy.kernels.checks import KEPT_BITS
from linfdeploy.kernels.cuda.card import Card
from linfdeploy.kernels.torch import backends
from linfdeploy.kernels.torch import lp_dist as lp_ops
from linfdeploy.kernels.torch.cuda import CudaBackend

MULTIPROCESSORS = 4


class EmulatedDriver:
    """Starts kernels on the emulator, which has no streams: each is done when it was started."""

    def __init__(self, library: Library) -> None:
        self.launch = library.launch_kernel()
        self._library = library

    def load(self, file: str, names: Sequence[str]) -> list[int]:
        return [self._library.function(name) or 0 for name in names]

    def bind(self) -> None:
        pass

    def error_name(self, code: int) -> str:
        return f"EMULATOR_ERROR_{code}"


class EmulatedBackend(CudaBackend):
    """The CUDA backend, for tensors on the CPU."""

    def _as_current(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def _stream(self) -> int:
        return 0


@pytest.fixture(autouse=True)
def on_emulator(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """CPU tensors are computed by the CUDA backend and its kernels."""
    card = Card(EmulatedDriver(library), MULTIPROCESSORS)
    monkeypatch.setattr(backends, "_CPU", EmulatedBackend(card, 0))


SIZES = [(1, 1, 1), (5, 6, 21), (9, 70, 17), (33, 40, 132), (70, 3, 64)]
DTYPES = ["float32", "float16", "int16", "int8", "uint8"]


def _pair(seed: int, batch: int = 5, outputs: int = 6, inputs: int = 21) -> tuple[torch.Tensor, torch.Tensor]:
    return pair_on_grid(seed, batch, outputs, inputs)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("batch", "outputs", "inputs"), SIZES)
def test_distances(dtype: str, batch: int, outputs: int, inputs: int) -> None:
    x, w = rows_of_dtype(dtype, 1, batch, inputs), rows_of_dtype(dtype, 2, outputs, inputs)
    expected = linf_dist(x.numpy(), w.numpy())
    found = linf_dist(x, w).numpy()
    assert found.dtype == expected.dtype
    assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize(("batch", "outputs", "inputs"), SIZES)
def test_argmax(batch: int, outputs: int, inputs: int) -> None:
    x, w = _pair(3, batch, outputs, inputs)
    (y, index), (y_expected, index_expected) = linf_dist_argmax(x, w), linf_dist_argmax(x.numpy(), w.numpy())
    assert y.numpy().tobytes() == y_expected.tobytes()
    assert index.numpy().tobytes() == index_expected.tobytes()


@pytest.mark.parametrize(("batch", "outputs", "inputs"), SIZES)
def test_bounds(batch: int, outputs: int, inputs: int) -> None:
    x, w = _pair(4, batch, outputs, inputs)
    boxes = x - 0.5, x + 0.25
    expected = linf_dist_bounds(boxes[0].numpy(), boxes[1].numpy(), w.numpy())
    for found, wanted in zip(linf_dist_bounds(*boxes, w), expected, strict=True):
        assert found.numpy().tobytes() == wanted.tobytes()


@pytest.mark.parametrize(
    ("stride", "padding", "dilation"), [(1, 0, 1), (2, 1, 1), ((1, 2), (2, 0), (1, 3)), (3, (0, 2), 2)]
)
def test_convolutions(stride: Any, padding: Any, dilation: Any) -> None:
    generator = torch.Generator().manual_seed(5)
    x, w = torch.randn(2, 3, 9, 11, generator=generator), torch.randn(4, 3, 2, 3, generator=generator)
    found = linf_dist_conv(x, w, stride, padding, dilation).numpy()
    expected = linf_dist_conv(x.numpy(), w.numpy(), stride, padding, dilation)
    assert found.shape == expected.shape
    assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("face", ["linf_dist", "linf_dist_argmax"])
@pytest.mark.parametrize(("batch", "outputs", "inputs"), SIZES)
def test_gradients(face: str, batch: int, outputs: int, inputs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x, w = (tensor.requires_grad_() for tensor in _pair(6, batch, outputs, inputs))
    grad_y = torch.from_numpy(np.random.default_rng(7).standard_normal((batch, outputs)).astype(np.float32))
    y = linf_dist(x, w) if face == "linf_dist" else linf_dist_argmax(x, w)[0]
    both = torch.autograd.grad(y, (x, w), grad_y)
    expected = oracles.linf_dist_grads(x.detach().numpy(), w.detach().numpy(), grad_y.numpy())
    for found, wanted in zip(both, expected, strict=True):
        np.testing.assert_allclose(found.numpy(), wanted, 1e-5, 1e-5)
    (alone,) = torch.autograd.grad(linf_dist(x, w.detach()), x, grad_y)
    assert torch.equal(alone, both[0])
    # The order of sums is the CPU's.
    monkeypatch.undo()
    for found, same in zip(both, torch.autograd.grad(linf_dist(x, w), (x, w), grad_y), strict=True):
        assert found.numpy().tobytes() == same.numpy().tobytes()


def test_reads_any_layout() -> None:
    x, w = _pair(8, 9, 7, 24)
    wide = torch.zeros(18, 25)
    wide[::2, 1:] = x
    # Strided; and contiguous rows that begin at an odd word.
    views = [wide[::2, 1:], x.t().contiguous().t(), torch.cat([torch.zeros(1), x.flatten()])[1:].view(9, 24)]
    for view in views:
        assert torch.equal(linf_dist(view, w), linf_dist(x, w))


@pytest.mark.parametrize(("batch", "outputs"), [(0, 3), (4, 0)])
def test_empty(batch: int, outputs: int) -> None:
    x, w = torch.zeros(batch, 4, requires_grad=True), torch.zeros(outputs, 4, requires_grad=True)
    for y in (linf_dist(x, w), lp_dist(x, w, 3.0)):
        assert y.shape == (batch, outputs)
        grad_x, grad_w = torch.autograd.grad(y.sum(), (x, w))
        assert (grad_x.shape, grad_w.shape) == (x.shape, w.shape)
        assert not grad_x.any()
        assert not grad_w.any()


@pytest.mark.parametrize("p", [1.0, 2.0, 7.3, 8.0, 100.3, 1000.7])
def test_lp_distances_and_gradients(p: float) -> None:
    x, w = (tensor.requires_grad_() for tensor in _pair(9, 9, 7, 37))
    y = lp_dist(x, w, p)
    arrays = x.detach().numpy(), w.detach().numpy()
    np.testing.assert_allclose(y.detach().numpy(), oracles.lp_dist_float64(*arrays, p), 4e-6, 0)
    grad_y = torch.linspace(-1, 2, 63).reshape(9, 7)
    found = torch.autograd.grad(y, (x, w), grad_y)
    for gradient, wanted in zip(found, oracles.lp_dist_grads(*arrays, p, grad_y.numpy()), strict=True):
        allowed = 2e-5 * np.abs(wanted).max(1, keepdims=True)
        assert (np.abs(gradient.numpy() - wanted) <= allowed).all()
    (alone,) = torch.autograd.grad(lp_dist(x.detach(), w, p), w, grad_y)
    assert torch.equal(alone, found[1])


def _next_of_its_kind(p: float) -> float:
    return next(q for q in (p + 0.5, p + 0.25, p) if lp_ops.lp_dist_kind(q) == lp_ops.lp_dist_kind(p))


@pytest.mark.parametrize("p", [7.3, 60.0, 1000.7])
def test_p_is_read_when_kernels_run(p: float) -> None:
    x, w = _pair(10)
    later = _next_of_its_kind(p)
    now = torch.tensor([later])
    for found, expected in zip(lp_ops._lp_dist(x, w, p, now), lp_ops._lp_dist(x, w, later), strict=True):
        assert torch.equal(found, expected)
    _, scale, total = lp_ops._lp_dist(x, w, later)
    saved, needed = [scale, total, torch.ones(5, 6)], [True, True]
    for found, expected in zip(
        lp_ops._lp_dist_backward(x, w, p, now, KEPT_BITS, saved, needed),
        lp_ops._lp_dist_backward(x, w, later, None, KEPT_BITS, saved, needed),
        strict=True,
    ):
        assert torch.equal(found, expected)


def test_any_order_of_threads_gives_the_same_bits(library: Library) -> None:
    x, w = (tensor.requires_grad_() for tensor in _pair(11, 33, 9, 70))
    results = []
    for order in range(3):
        library.handle.emulated_schedule(ctypes.c_int(order), ctypes.c_uint32(3), ctypes.c_int(1))
        y = linf_dist(x, w)
        results.append([y, *torch.autograd.grad(y.square().sum(), (x, w))])
    library.handle.emulated_schedule(ctypes.c_int(0), ctypes.c_uint32(0), ctypes.c_int(1))
    for others in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], others, strict=True))
