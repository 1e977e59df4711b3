# SPDX-License-Identifier: Apache-2.0
"""Random operands for the kernels as torch tensors."""

from __future__ import annotations

import numpy as np
import torch


def pair_on_grid(seed: int, batch: int, outputs: int, inputs: int) -> tuple[torch.Tensor, torch.Tensor]:
    """x and w on a grid of 2^-16, so that differences are exact."""
    generator = torch.Generator().manual_seed(seed)
    x, w = (torch.randn(rows, inputs, generator=generator) for rows in (batch, outputs))
    return (x * 2**16).round() / 2**16, (w * 2**16).round() / 2**16


def rows_of_dtype(dtype: str, seed: int, rows: int, inputs: int) -> torch.Tensor:
    """Normal numbers, or integers from the whole range."""
    rng = np.random.default_rng(seed)
    if dtype.startswith("float"):
        return torch.from_numpy(rng.standard_normal((rows, inputs)).astype(dtype))
    limits = np.iinfo(dtype)
    return torch.from_numpy(rng.integers(limits.min, limits.max + 1, (rows, inputs)).astype(dtype))
