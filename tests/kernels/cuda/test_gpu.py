# SPDX-License-Identifier: Apache-2.0
"""What only a card can show: `pytest -m gpu` on a machine that has one.

Kernels against the CPU's bits, streams, threads, graphs, torch.compile, and a second card where there is one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import oracles
import pytest
import torch
from operands import pair_on_grid, rows_of_dtype

from linfdeploy.errors import KernelError
from linfdeploy.kernels import linf_dist, linf_dist_argmax, linf_dist_bounds, linf_dist_conv, lp_dist
from linfdeploy.kernels.checks import KEPT_BITS
from linfdeploy.kernels.torch import linf_dist as linf_ops
from linfdeploy.kernels.torch import lp_dist as lp_ops
from linfdeploy.kernels.torch.cuda import prepare

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available(), reason="there is no CUDA device, or torch is built without CUDA"
    ),
]

# Few rows, every tile, and rows of which no address is a multiple of 16 or, for small numbers, of 4.
SIZES = [
    (1, 1, 1),
    (1, 1000, 784),
    (3, 70, 33),
    (8, 129, 1021),
    (9, 70, 17),
    (33, 40, 132),
    (257, 300, 129),
    (1024, 1500, 64),
]
SMALL = [(1, 1, 1), (5, 6, 21), (33, 40, 132), (70, 90, 200)]
DTYPES = ["float32", "float16", "int16", "int8", "uint8"]
POWERS = [1.0, 2.0, 7.3, 8.0, 30.5, 60.0, 100.3, 1000.7]
# Cycles that a stream is kept busy for: tenths of a second.
BUSY = 200_000_000


@pytest.fixture(scope="module", autouse=True)
def kernels() -> None:
    """All kernels, compiled and loaded before a stream is captured."""
    prepare()


def _cuda(*tensors: torch.Tensor) -> Any:
    return tuple(tensor.detach().cuda() for tensor in tensors)


def _pair(seed: int, batch: int = 33, outputs: int = 40, inputs: int = 132) -> tuple[torch.Tensor, torch.Tensor]:
    return pair_on_grid(seed, batch, outputs, inputs)


def _same_bits(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert found.is_cuda
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    assert found.cpu().numpy().tobytes() == expected.numpy().tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("batch", "outputs", "inputs"), SIZES)
def test_distances(dtype: str, batch: int, outputs: int, inputs: int) -> None:
    x, w = rows_of_dtype(dtype, 1, batch, inputs), rows_of_dtype(dtype, 2, outputs, inputs)
    _same_bits(linf_dist(*_cuda(x, w)), linf_dist(x, w))


@pytest.mark.parametrize(("batch", "outputs", "inputs"), SIZES)
def test_argmax_and_bounds(batch: int, outputs: int, inputs: int) -> None:
    x, w = _pair(3, batch, outputs, inputs)
    for found, expected in zip(linf_dist_argmax(*_cuda(x, w)), linf_dist_argmax(x, w), strict=True):
        _same_bits(found, expected)
    boxes = x - 0.5, x + 0.25
    for found, expected in zip(linf_dist_bounds(*_cuda(*boxes, w)), linf_dist_bounds(*boxes, w), strict=True):
        _same_bits(found, expected)


@pytest.mark.parametrize("scale", [1e-45, 1e-39, 1e-30, 1e30])
def test_denormals_and_large_numbers(scale: float) -> None:
    rng = np.random.default_rng(4)
    x, w = (torch.from_numpy((rng.integers(-9, 10, (rows, 37)) * scale).astype(np.float32)) for rows in (17, 9))
    _same_bits(linf_dist(*_cuda(x, w)), linf_dist(x, w))
    _same_bits(linf_dist(*_cuda(x[:3], w)), linf_dist(x[:3], w))
    for found, expected in zip(linf_dist_argmax(*_cuda(x, w)), linf_dist_argmax(x, w), strict=True):
        _same_bits(found, expected)


def test_denormal_halves() -> None:
    rng = np.random.default_rng(5)
    # Halves below 2^-14 are denormal.
    x, w = (
        torch.from_numpy((rng.integers(-99, 100, (rows, 37)) * 2.0**-24).astype(np.float16)) for rows in (17, 9)
    )
    _same_bits(linf_dist(*_cuda(x, w)), linf_dist(x, w))


@pytest.mark.parametrize(
    ("stride", "padding", "dilation"), [(1, 0, 1), (2, 1, 1), ((1, 2), (2, 0), (1, 3)), (3, (0, 2), 2)]
)
def test_convolutions(stride: Any, padding: Any, dilation: Any) -> None:
    generator = torch.Generator().manual_seed(6)
    x, w = torch.randn(9, 3, 30, 31, generator=generator), torch.randn(70, 3, 3, 5, generator=generator)
    x_card, w_card = _cuda(x, w)
    found = linf_dist_conv(x_card, w_card, stride, padding, dilation)
    _same_bits(found, linf_dist_conv(x, w, stride, padding, dilation))


@pytest.mark.parametrize("face", ["linf_dist", "linf_dist_argmax"])
@pytest.mark.parametrize(("batch", "outputs", "inputs"), SMALL)
def test_gradients(face: str, batch: int, outputs: int, inputs: int) -> None:
    x, w = _pair(7, batch, outputs, inputs)
    grad_y = torch.randn(batch, outputs, generator=torch.Generator().manual_seed(8))
    on_card = [tensor.requires_grad_() for tensor in _cuda(x, w)]
    runs = []
    for _ in range(2):
        y = linf_dist(*on_card) if face == "linf_dist" else linf_dist_argmax(*on_card)[0]
        runs.append(torch.autograd.grad(y, on_card, grad_y.cuda()))
    for first, second, wanted in zip(
        *runs, oracles.linf_dist_grads(x.numpy(), w.numpy(), grad_y.numpy()), strict=True
    ):
        assert torch.equal(first, second), "the order of sums is fixed"
        # Sums of up to 90 terms of about 1, in float32.
        np.testing.assert_allclose(first.cpu().numpy(), wanted, 1e-4, 1e-4)
    leaves = [tensor.requires_grad_() for tensor in (x, w)]
    for found, expected in zip(
        runs[0], torch.autograd.grad(linf_dist_argmax(x, w)[0], leaves, grad_y), strict=True
    ):
        _same_bits(found, expected)


@pytest.mark.parametrize("p", POWERS)
@pytest.mark.parametrize(("batch", "outputs", "inputs"), SMALL)
def test_lp_distances_and_gradients(p: float, batch: int, outputs: int, inputs: int) -> None:
    x, w = _pair(9, batch, outputs, inputs)
    x_card, w_card = on_card = [tensor.requires_grad_() for tensor in _cuda(x, w)]
    y = lp_dist(x_card, w_card, p)
    np.testing.assert_allclose(y.detach().cpu().numpy(), oracles.lp_dist_float64(x.numpy(), w.numpy(), p), 4e-6, 0)
    grad_y = torch.linspace(-1, 2, batch * outputs).reshape(batch, outputs)
    both = torch.autograd.grad(y, on_card, grad_y.cuda())
    for found, wanted in zip(both, oracles.lp_dist_grads(x.numpy(), w.numpy(), p, grad_y.numpy()), strict=True):
        allowed = 2e-5 * np.abs(wanted).max(1, keepdims=True)
        assert (np.abs(found.cpu().numpy() - wanted) <= allowed).all()
    again = torch.autograd.grad(lp_dist(x_card, w_card, p), on_card, grad_y.cuda())
    assert all(torch.equal(one, other) for one, other in zip(both, again, strict=True))


def test_only_what_needs_a_gradient_gets_one() -> None:
    x, w = _cuda(*_pair(10))
    for op in (linf_dist, lambda x, w: lp_dist(x, w, 8.0)):
        both = torch.autograd.grad(op(x.requires_grad_(), w.requires_grad_()).sum(), (x, w))
        assert torch.equal(torch.autograd.grad(op(x, w.detach()).sum(), x)[0], both[0])
        assert torch.equal(torch.autograd.grad(op(x.detach(), w).sum(), w)[0], both[1])


def test_reads_any_layout() -> None:
    x, w = _cuda(*_pair(11, 9, 7, 24))
    wide = torch.zeros(18, 25, device="cuda")
    wide[::2, 1:] = x
    shifted = torch.cat([torch.zeros(1, device="cuda"), x.flatten()])[1:].view(9, 24)
    for view in (wide[::2, 1:], x.t().contiguous().t(), shifted):
        assert torch.equal(linf_dist(view, w), linf_dist(x, w))
        assert torch.equal(lp_dist(view, w, 7.3), lp_dist(x, w, 7.3))


@pytest.mark.parametrize(("batch", "outputs"), [(0, 3), (4, 0)])
def test_empty(batch: int, outputs: int) -> None:
    x = torch.zeros(batch, 4, device="cuda", requires_grad=True)
    w = torch.zeros(outputs, 4, device="cuda", requires_grad=True)
    for y in (linf_dist(x, w), lp_dist(x, w, 3.0)):
        assert y.shape == (batch, outputs)
        for grad, of in zip(torch.autograd.grad(y.sum(), (x, w)), (x, w), strict=True):
            assert grad.shape == of.shape
            assert not grad.any()


def test_devices_are_not_mixed() -> None:
    x, w = _pair(12)
    with pytest.raises(KernelError, match=r"^linf_dist: x is on cuda:\d and w is on cpu; expected one device$"):
        linf_dist(x.cuda(), w)


def test_custom_op_rules() -> None:
    x, w = _cuda(*_pair(13, 5, 6, 21))
    index = linf_dist_argmax(x, w)[1]
    _, scale, total = lp_ops._lp_dist(x, w, 7.3)
    now, ones = torch.full((1,), 7.3, device="cuda"), torch.ones(5, 6, device="cuda")
    needed = [True, False]
    cases: list[tuple[Any, tuple[Any, ...]]] = [
        (linf_ops._linf_dist, (x, w)),
        (linf_ops._linf_dist_argmax, (x, w)),
        (linf_ops._linf_dist_backward, (x, w, index, ones, needed)),
        (linf_ops._linf_dist_bounds, (x, x + 1, w)),
        (lp_ops._lp_dist, (x, w, 7.3)),
        (lp_ops._lp_dist, (x.t().contiguous().t(), w, 7.3, now)),
        (lp_ops._lp_dist_backward, (x, w, 7.3, now, KEPT_BITS, [scale, total, ones], needed)),
    ]
    for op, arguments in cases:
        torch.library.opcheck(op, arguments)
    torch.library.opcheck(linf_ops._linf_dist_argmax, (x.requires_grad_(), w.requires_grad_()))
    torch.library.opcheck(lp_ops._lp_dist, (x, w, 7.3))


# What inductor has to say about this card is not about these kernels.
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiles_in_one_graph(backend: str) -> None:
    if backend == "inductor":
        pytest.importorskip("triton", reason="there is no triton, which inductor needs")
    x, w = (tensor.requires_grad_() for tensor in _cuda(*_pair(14)))

    def loss(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return (linf_dist(2 * x, w) + lp_dist(x, w, 8.0)).square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend=backend)
    found = torch.autograd.grad(compiled(x, w), (x, w))
    for gradient, expected in zip(found, torch.autograd.grad(loss(x, w), (x, w)), strict=True):
        torch.testing.assert_close(gradient, expected)


def _captured(run: Callable[[], Any]) -> tuple[torch.cuda.CUDAGraph, Any]:
    """A graph of what a function does, and where its results will be."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = run()
    return graph, results


def test_a_captured_forward_is_replayed_on_new_inputs() -> None:
    x, w = _cuda(*_pair(15))
    graph, y = _captured(lambda: (linf_dist(x, w), linf_dist_argmax(x, w), linf_dist_bounds(x, x, w)))
    fresh, _ = _pair(16)
    x.copy_(fresh)
    graph.replay()
    torch.cuda.synchronize()
    expected = linf_dist_argmax(fresh, w.cpu())
    for found in (y[0], y[1][0], *y[2]):
        _same_bits(found, expected[0])
    _same_bits(y[1][1], expected[1])


@pytest.mark.parametrize("kind", [(7.3, 7.4, 30.5), (60.0, 100.3, 1000.7)])
def test_a_captured_step_follows_p(kind: tuple[float, ...]) -> None:
    assert len({lp_ops.lp_dist_kind(p) for p in kind}) == 1
    x, w = (tensor.requires_grad_() for tensor in _cuda(*_pair(17)))
    p_now, grad_y = torch.full((1,), kind[0], device="cuda"), torch.randn(33, 40, device="cuda")

    def step() -> tuple[torch.Tensor, ...]:
        y = lp_dist(x, w, kind[0], p_now)
        return y, *torch.autograd.grad(y, (x, w), grad_y)

    graph, results = _captured(step)
    for p in kind:
        p_now.fill_(p)
        graph.replay()
        torch.cuda.synchronize()
        y = lp_dist(x, w, p)
        for found, expected in zip(results, (y, *torch.autograd.grad(y, (x, w), grad_y)), strict=True):
            assert torch.equal(found, expected)


def test_kernels_run_on_the_current_stream() -> None:
    x, w = _cuda(*_pair(18))
    fresh = _pair(19)[0].cuda()
    expected = linf_dist(fresh, w)
    torch.cuda.synchronize()
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with torch.cuda.stream(side):
        # On any other stream the kernel would be done long before x has its new values.
        torch.cuda._sleep(BUSY)  # type: ignore[no-untyped-call]
        x.copy_(fresh)
        y = linf_dist(x, w)
    side.synchronize()
    assert torch.equal(y, expected)


def test_nothing_waits_for_the_card() -> None:
    x, w = (tensor.requires_grad_() for tensor in _cuda(*_pair(20)))
    for op in (linf_dist, lambda x, w: lp_dist(x, w, 100.3)):
        torch.autograd.grad(op(x, w).sum(), (x, w))
        torch.cuda.synchronize()
        done: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
        torch.cuda._sleep(10 * BUSY)  # type: ignore[no-untyped-call]
        torch.autograd.grad(op(x, w).sum(), (x, w))
        done.record()
        assert not done.query(), "all was started while the card was still busy"
        torch.cuda.synchronize()


def test_any_thread_may_be_the_first() -> None:
    x, w = _cuda(*_pair(21))
    expected = linf_dist(x, w)
    found: list[torch.Tensor] = []
    threads = [threading.Thread(target=lambda: found.append(linf_dist(x, w))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    torch.cuda.synchronize()
    assert len(found) == 4
    assert all(torch.equal(y, expected) for y in found)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is one CUDA device")
def test_a_second_card() -> None:
    x, w = _pair(22)
    here, there = (
        [tensor.to("cuda:0") for tensor in (x, w)],
        [tensor.to("cuda:1").requires_grad_() for tensor in (x, w)],
    )
    with torch.cuda.device(0):
        y = linf_dist(*there)
        gradients = torch.autograd.grad(y.sum(), there)
        assert torch.cuda.current_device() == 0
    assert {tensor.device for tensor in (y, *gradients)} == {torch.device("cuda:1")}
    assert torch.equal(y.cpu(), linf_dist(*here).cpu())
    with pytest.raises(KernelError, match=r"^lp_dist: x is on cuda:0 and w is on cuda:1; expected one device$"):
        lp_dist(here[0], there[1], 2.0)
