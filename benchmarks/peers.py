# SPDX-License-Identifier: Apache-2.0
"""What the kernels are measured against, each with the arguments already in the form that suits it best.

Importing this imports torch. A contender is a function of no argument that returns its result; what cannot run
here is left out, with a line that says why.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from linfdeploy.kernels import linf_dist, linf_dist_bounds, lp_dist

__all__ = [
    "OURS",
    "UNSKIPPED",
    "Contenders",
    "bounds",
    "fresh_compiler",
    "linf_forward",
    "lp_exact",
    "lp_gradients",
]

Array = npt.NDArray[Any]
Contenders = dict[str, Callable[[], Any]]
OURS = "linfdeploy"
UNSKIPPED = "linfdeploy, no skip"
# Beyond this a broadcast over (N, O, I) is measuring the swap file.
LARGEST_BROADCAST = 2 << 30


def linf_forward(x: Array, w: Array) -> Contenders:
    """Returns the l_inf forwards.

    Args:
        x: (N, I) float32.
        w: (O, I) float32.
    """
    tx, tw = torch.from_numpy(x), torch.from_numpy(w)
    compiled = torch.compile(_naive_linf, dynamic=False)
    found: Contenders = {
        OURS: partial(linf_dist, x, w),
        "torch.compile": partial(compiled, tx, tw),
        "torch.cdist": partial(torch.cdist, tx, tw, p=torch.inf),
    }
    if importlib.util.find_spec("scipy"):
        distance = importlib.import_module("scipy.spatial.distance")
        found["scipy (float64)"] = partial(distance.cdist, x.astype(np.float64), w.astype(np.float64), "chebyshev")
    else:
        print("scipy is left out: it is not installed")
    if 4 * len(x) * w.size <= LARGEST_BROADCAST:
        found["numpy"] = partial(_numpy_linf, x, w)
    else:
        print(f"numpy is left out at {len(x)} x {w.shape}: it would need {4 * len(x) * w.size / 2**30:.1f} GiB")
    return found


def lp_gradients(x: Array, w: Array, p: float) -> Contenders:
    """Returns functions that give y and the gradients of sum(y) by x and w.

    Args:
        x: (N, I) float32.
        w: (O, I) float32.
        p: The power.
    """
    leaves = [torch.from_numpy(value).requires_grad_() for value in (x, w)]
    compiled = torch.compile(partial(_naive_lp, p=p), dynamic=False)
    found: Contenders = {OURS: partial(_with_gradients, partial(lp_dist, p=p), leaves)}
    found[UNSKIPPED] = partial(_with_gradients, partial(lp_dist, p=p, kept_bits=0), leaves)
    found["torch.compile"] = partial(_with_gradients, compiled, leaves)
    found["torch.cdist"] = partial(_with_gradients, partial(torch.cdist, p=p), leaves)
    return found


def lp_exact(x: Array, w: Array, p: float) -> tuple[Array, Array, Array]:
    """Returns y and the gradients of sum(y) by x and w in float64, from ratios to the largest term."""
    y = np.empty((len(x), len(w)))
    grad_x, grad_w = np.empty(x.shape), np.zeros(w.shape)
    w = w.astype(np.float64)
    for row, value in enumerate(x.astype(np.float64)):
        difference = value - w
        size = np.abs(difference)
        largest = size.max(1, keepdims=True)
        y[row] = largest[:, 0] * ((size / largest) ** p).sum(1) ** (1 / p)
        term = np.sign(difference) * (size / y[row][:, None]) ** (p - 1)
        grad_x[row] = term.sum(0)
        grad_w -= term
    return y, grad_x, grad_w


def bounds(lower: Array, upper: Array, weights: list[Array]) -> Contenders:
    """Returns interval bounds of a net of l_inf layers without biases, as functions that give (lower, upper).

    Args:
        lower: (N, I) float32.
        upper: (N, I) float32.
        weights: Each layer's (O, I) float32. auto_LiRPA, which knows no such layer, gets it as a broadcast.
    """
    found: Contenders = {OURS: partial(_own_bounds, lower, upper, weights)}
    if not importlib.util.find_spec("auto_LiRPA"):
        print("auto_LiRPA is left out: it is not installed")
        return found
    lirpa = importlib.import_module("auto_LiRPA")
    net = torch.nn.Sequential(*(_Layer(torch.from_numpy(w)) for w in weights))
    low, high = torch.from_numpy(lower), torch.from_numpy(upper)
    centre = (low + high) / 2
    bounded = lirpa.BoundedModule(net, centre, device="cpu")
    box = lirpa.PerturbationLpNorm(norm=float("inf"), x_L=low, x_U=high)
    image = lirpa.BoundedTensor(centre, box)
    found["auto_LiRPA, IBP"] = partial(_lirpa_bounds, bounded, image)
    return found


def fresh_compiler() -> None:
    """Forgets what torch has compiled, so that no shape counts as one recompilation too many."""
    torch.compiler.reset()


class _Layer(torch.nn.Module):
    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(weight, requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _naive_linf(x, self.weight)


def _naive_linf(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return (x.unsqueeze(1) - w).abs().amax(-1)


def _naive_lp(x: torch.Tensor, w: torch.Tensor, p: float) -> torch.Tensor:
    return ((x.unsqueeze(1) - w).abs() ** p).sum(-1) ** (1 / p)


def _numpy_linf(x: Array, w: Array) -> Array:
    difference = x[:, None] - w
    np.abs(difference, out=difference)
    result: Array = difference.max(-1)
    return result


def _with_gradients(
    distance: Callable[..., Any], leaves: list[torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    y = distance(*leaves)
    grad_x, grad_w = torch.autograd.grad(y, leaves, torch.ones_like(y))
    return y, grad_x, grad_w


def _own_bounds(lower: Array, upper: Array, weights: list[Array]) -> tuple[Array, Array]:
    for w in weights:
        lower, upper = linf_dist_bounds(lower, upper, w)
    return lower, upper


def _lirpa_bounds(bounded: Any, image: Any) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.no_grad():
        low, high = bounded.compute_bounds(x=(image,), method="IBP")
    return low, high
