# SPDX-License-Identifier: Apache-2.0
"""Memory for the gradients of x and w, of which autograd may need one alone.

A custom op returns tensors, never None: a gradient that is not needed is empty.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch

__all__ = ["Both", "Needed", "Three", "fake_gradients", "gradients", "of_needed", "returned"]

Both: TypeAlias = tuple[torch.Tensor, torch.Tensor]
Three: TypeAlias = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
Needed: TypeAlias = tuple[torch.Tensor | None, torch.Tensor | None]


def gradients(x: torch.Tensor, w: torch.Tensor, needed: Sequence[bool]) -> Needed:
    """Returns memory for those that are needed, for contiguous operands, to hand to a kernel."""
    return torch.empty_like(x) if needed[0] else None, torch.empty_like(w) if needed[1] else None


def returned(x: torch.Tensor, found: Needed) -> Both:
    """Returns what a kernel wrote, as an op returns it."""
    first, second = found
    return x.new_empty(0) if first is None else first, x.new_empty(0) if second is None else second


def fake_gradients(x: torch.Tensor, w: torch.Tensor, needed: Sequence[bool]) -> Both:
    """Returns what an op returns, without values: contiguous, whatever the layout of x and w."""
    return x.new_empty(x.shape if needed[0] else 0), w.new_empty(w.shape if needed[1] else 0)


def of_needed(found: Both, needed: Sequence[bool]) -> Needed:
    """Returns an op's gradients as autograd takes them."""
    return found[0] if needed[0] else None, found[1] if needed[1] else None
