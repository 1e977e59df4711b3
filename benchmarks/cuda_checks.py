# SPDX-License-Identifier: Apache-2.0
"""Checks every CUDA kernel before it is measured: l_inf to the bit against the CPU's, l_p against float64.

Every check draws fresh numbers, runs the kernel twice into memory that holds something else (NaN, or the largest
integer) and wants the same bits both times. Which of the shapes a kernel takes by rows, which by tiles, and which
alignment it finds is said in linfdeploy/kernels/include/linf/geometry.h; there are some of each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from cuda_ops import gradients, scatter

from linfdeploy.kernels import linf_dist, linf_dist_argmax, linf_dist_bounds, linf_dist_conv, lp_dist

__all__ = ["CheckError", "check_all"]

DTYPES = (torch.float32, torch.float16, torch.int16, torch.int8, torch.uint8)
# (N, I, O): few rows, then tiles of every size; odd numbers leave rests in each dimension.
FEW_ROWS = [(batch, 1000 + batch % 2, 131) for batch in range(1, 9)]
TILES = [(9, 1, 1), (33, 17, 65), (63, 784, 257), (128, 640, 512), (257, 1023, 130), (512, 256, 1024)]
# (N, C, H, W), (O, C, kH, kW), stride, padding, dilation
WINDOWS = [
    ((2, 3, 9, 8), (5, 3, 3, 3), 1, 1, 1),
    ((1, 1, 7, 7), (1, 1, 7, 7), 1, 0, 1),
    ((3, 16, 17, 15), (70, 16, 3, 5), (2, 1), (1, 2), (1, 2)),
    ((8, 64, 16, 16), (128, 64, 3, 3), 1, 1, 1),
]
POWERS = (1.0, 2.0, 7.3, 8.0, 20.0, 39.9, 40.0, 100.0, 1000.0)
LP_RESULTS = ("distance", "gradient of x", "gradient of w")
LP_SHAPES = [(1, 5, 3), (33, 300, 70), (64, 1025, 129)]
# Of the distance, and of the sum of absolute values of what a gradient adds up.
LP_FORWARD, LP_GRADIENT, SCATTERED = 2e-6, 2e-5, 1e-6
# A slope is at most 1; what is below this part of it may be left out.
LP_LEFT_OUT = 2.0**-36

Results = tuple[torch.Tensor, ...]


class CheckError(Exception):
    """A kernel computes something else than it should; the text says which, and for what."""


def check_all(device: torch.device, seed: int) -> list[str]:
    """Runs every check.

    Args:
        device: Where the kernels run that are checked.
        seed: Of the numbers.

    Returns:
        What was checked, a line each.

    Raises:
        CheckError: One failed.
    """
    generator = torch.Generator().manual_seed(seed)
    checks = {
        "linf_dist": _check_forward,
        "linf_dist_argmax": _check_argmax,
        "linf_dist_bounds": _check_bounds,
        "linf_dist_conv": _check_conv,
        "linf_dist_backward": _check_scatter,
        "lp_dist": _check_lp,
    }
    return [_line_of(name, partial(check, device, generator)) for name, check in checks.items()]


def _line_of(name: str, check: Callable[[], str]) -> str:
    try:
        return check()
    except CheckError:
        raise
    # A kernel that is not started, or that breaks the card's context, fails with an error of any kind.
    except Exception as error:
        raise CheckError(f"{name} does not run: {type(error).__name__}: {error}") from error


def _check_forward(device: torch.device, generator: torch.Generator) -> str:
    for dtype in DTYPES:
        for shape in FEW_ROWS + TILES:
            for offset in (0, 1):
                x, w = _pair(shape, dtype, generator, device, offset)
                name = f"linf_dist, {dtype}, (N, I, O) = {shape}, {offset} elements past an aligned address"
                _same_bits(name, partial(linf_dist, x, w), partial(linf_dist, x.cpu(), w.cpu()))
    return f"linf_dist: {len(DTYPES)} dtypes, {len(FEW_ROWS + TILES)} shapes, aligned and not: the CPU's bits"


def _check_argmax(device: torch.device, generator: torch.Generator) -> str:
    for shape in FEW_ROWS + TILES:
        for offset in (0, 1):
            x, w = _pair(shape, torch.float32, generator, device, offset)
            name = f"linf_dist_argmax, (N, I, O) = {shape}, offset {offset}"
            _same_bits(name, partial(linf_dist_argmax, x, w), partial(linf_dist_argmax, x.cpu(), w.cpu()))
    return f"linf_dist_argmax: {len(FEW_ROWS + TILES)} shapes, ties among them: the CPU's bits"


def _check_bounds(device: torch.device, generator: torch.Generator) -> str:
    for shape in FEW_ROWS + TILES:
        for offset in (0, 1):
            x, w = _pair(shape, torch.float32, generator, device, offset)
            upper = _placed(x.cpu() + torch.rand(x.shape, generator=generator), device, offset)
            boxes = (x, upper, w)
            name = f"linf_dist_bounds, (N, I, O) = {shape}, offset {offset}"
            expected = partial(linf_dist_bounds, *(one.cpu() for one in boxes))
            _same_bits(name, partial(linf_dist_bounds, *boxes), expected)
    return f"linf_dist_bounds: {len(FEW_ROWS + TILES)} shapes: the CPU's bits"


def _check_conv(device: torch.device, generator: torch.Generator) -> str:
    for images, filters, *moves in WINDOWS:
        x, w = (torch.randn(shape, generator=generator) for shape in (images, filters))
        name = f"linf_dist_conv, {images} by {filters}, stride, padding, dilation {moves}"
        found = partial(linf_dist_conv, x.to(device), w.to(device), *moves)
        _same_bits(name, found, partial(linf_dist_conv, x, w, *moves))
    return f"linf_dist_conv: {len(WINDOWS)} windows: the CPU's bits"


def _check_scatter(device: torch.device, generator: torch.Generator) -> str:
    for shape in [FEW_ROWS[2], *TILES]:
        x, w = _pair(shape, torch.float32, generator, device, 0)
        index = linf_dist_argmax(x, w)[1]
        grad_y = torch.randn(index.shape, generator=generator).to(device)
        operands = x, w, index, grad_y
        name = f"linf_dist_backward, (N, I, O) = {shape}"
        found = _same_bits(name, partial(scatter, *operands), partial(scatter, *(one.cpu() for one in operands)))
        exact = _scattered(*(one.cpu() for one in operands))
        for gradient, (value, size) in zip(found, exact, strict=True):
            _within(name, gradient, value, SCATTERED * size)
    return f"linf_dist_backward: {len(TILES) + 1} shapes: the CPU's bits, and float64 within {SCATTERED:g}"


def _check_lp(device: torch.device, generator: torch.Generator) -> str:
    worst = [0.0, 0.0]
    for p in POWERS:
        for shape in LP_SHAPES:
            x, w = (torch.randn(rows, shape[1], generator=generator) for rows in (shape[0], shape[2]))
            grad_y = torch.randn(shape[0], shape[2], generator=generator)
            name = f"lp_dist, p = {p:g}, (N, I, O) = {shape}"
            found = _twice(name, partial(gradients, x.to(device), w.to(device), grad_y.to(device), p))
            errors = [
                _within(f"{name}, {what}", one, *exact)
                for what, one, exact in zip(LP_RESULTS, found, _lp_exact(x, w, p, grad_y), strict=True)
            ]
            worst = [max(pair) for pair in zip(worst, (errors[0], max(errors[1:])), strict=True)]
            _check_power_in_memory(name, x.to(device), w.to(device), p)
    largest = f"{worst[0] * LP_FORWARD:.1e} of a distance, {worst[1] * LP_GRADIENT:.1e} of a gradient's terms"
    return f"lp_dist: {len(POWERS)} powers, {len(LP_SHAPES)} shapes: at most {largest} from float64"


def _check_power_in_memory(name: str, x: torch.Tensor, w: torch.Tensor, p: float) -> None:
    """A p that the kernels read from memory gives the same bits; only cards read it from there."""
    if x.device.type != "cuda":
        return
    now = torch.full((1,), p, device=x.device)
    _same_bits(f"{name}, p in memory", partial(lp_dist, x, w, p, now), lambda: lp_dist(x, w, p).cpu())


def _pair(
    shape: tuple[int, int, int], dtype: torch.dtype, generator: torch.Generator, device: torch.device, offset: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns fresh x (N, I) and w (O, I), with `offset` elements between an aligned address and the first."""
    batch, inputs, outputs = shape
    x, w = (_numbers((rows, inputs), dtype, generator) for rows in (batch, outputs))
    # Distances of 0, and maxima that several inputs attain.
    x[0] = w[0]
    x[:, inputs // 2] = x[:, 0]
    w[:, inputs // 2] = w[:, 0]
    return _placed(x, device, offset), _placed(w, device, offset)


def _numbers(shape: tuple[int, int], dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    """The whole range of an integer; floats of many sizes, denormals and both zeros among them."""
    if not dtype.is_floating_point:
        limits = torch.iinfo(dtype)
        return torch.randint(limits.min, limits.max + 1, shape, generator=generator, dtype=dtype)
    values = torch.randn(shape, generator=generator)
    values *= 2.0 ** torch.randint(-4, 5, (shape[0], 1), generator=generator)
    rare = torch.rand(shape, generator=generator)
    values[rare < 0.02] = 0.0
    values[rare < 0.01] = -0.0
    values[rare > 0.98] *= torch.finfo(dtype).smallest_normal / 8
    return values.to(dtype)


def _placed(values: torch.Tensor, device: torch.device, offset: int) -> torch.Tensor:
    memory = torch.empty(values.numel() + offset, dtype=values.dtype, device=device)
    return memory[offset:].view(values.shape).copy_(values)


def _same_bits(name: str, call: Callable[[], Any], expected: Callable[[], Any]) -> Results:
    found = _twice(name, call)
    for one, other in zip(found, _results(expected()), strict=True):
        if not _equal(one, other):
            raise CheckError(f"{name}: {_difference(one, other)}; expected the CPU kernel's bits")
    return found


def _twice(name: str, call: Callable[[], Any]) -> Results:
    """Returns what a call gives, on the CPU, if it gives the same a second time."""
    with _poisoned():
        found, again = _results(call()), _results(call())
    for one, other in zip(found, again, strict=True):
        if not _equal(one, other):
            raise CheckError(f"{name}: {_difference(one, other)} from the first run to the second; expected one")
    return found


def _results(found: Any) -> Results:
    return tuple(one.cpu() for one in (found if isinstance(found, tuple) else (found,)))


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    same = one.dtype == other.dtype and one.shape == other.shape
    return same and torch.equal(one.contiguous().view(torch.uint8), other.contiguous().view(torch.uint8))


def _difference(one: torch.Tensor, other: torch.Tensor) -> str:
    if one.dtype != other.dtype or one.shape != other.shape:
        return f"{one.dtype} of shape {tuple(one.shape)} against {other.dtype} of shape {tuple(other.shape)}"
    wrong = one.double() != other.double()
    places: Sequence[Any] = wrong.nonzero().tolist()
    if not places:
        return "bits differ in the sign of a zero"
    at = tuple(places[0])
    return f"{len(places)} of {one.numel()} differ, {one[at].item()!r} against {other[at].item()!r} at {at}"


def _within(name: str, found: torch.Tensor, exact: torch.Tensor, limit: torch.Tensor) -> float:
    """Returns the largest error as a part of the limit; a NaN is beyond any."""
    error = (found.double() - exact).abs()
    if not bool((error <= limit).all()):
        at = tuple((error <= limit).logical_not().nonzero()[0].tolist())
        raise CheckError(
            f"{name}: {found[at].item()!r} at {at}; expected {exact[at].item()!r} within {limit[at].item():.3g}"
        )
    return float((error / limit.clamp(min=1e-300)).max())


def _scattered(
    x: torch.Tensor, w: torch.Tensor, index: torch.Tensor, grad_y: torch.Tensor
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yields each gradient in float64, and the sum of the absolute values that make it."""
    rows = torch.arange(len(x))[:, None].expand(index.shape), torch.arange(len(w)).expand(index.shape)
    below = x[rows[0], index] < w[rows[1], index]
    values = torch.where(below, -grad_y, grad_y).double()
    for like, row, sign in ((x, rows[0], 1), (w, rows[1], -1)):
        sums = [torch.zeros(like.shape, dtype=torch.float64) for _ in range(2)]
        for total, part in zip(sums, (sign * values, values.abs()), strict=True):
            total.index_put_((row, index), part, accumulate=True)
        yield sums[0], sums[1]


def _lp_exact(
    x: torch.Tensor, w: torch.Tensor, p: float, grad_y: torch.Tensor
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yields y, and the gradients of x and w, in float64, each with the error that is allowed.

    Differences are those of float32, as the kernels have them.
    """
    difference = (x[:, None] - w).double()
    size = difference.abs()
    largest = size.amax(-1, keepdim=True)
    y = largest * ((size / largest) ** p).sum(-1, keepdim=True) ** (1 / p)
    yield y[..., 0], LP_FORWARD * y[..., 0]
    terms = grad_y.double()[..., None] * difference.sign() * (size / y) ** (p - 1)
    for dim, sign in ((1, 1), (0, -1)):
        left_out = LP_LEFT_OUT * grad_y.double().abs().sum(dim)[:, None]
        yield sign * terms.sum(dim), LP_GRADIENT * terms.abs().sum(dim) + left_out


@contextmanager
def _poisoned() -> Iterator[None]:
    """Lets torch fill new memory with NaN or the largest integer, so that what is not written shows."""
    before = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.utils.deterministic.fill_uninitialized_memory = before[1]
