# SPDX-License-Identifier: Apache-2.0
"""Which native forward computes which dtype, for numpy arrays and torch tensors alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from linfdeploy.kernels import _cpu
from linfdeploy.kernels.checks import dtype_name

__all__ = ["FORWARD_DTYPES", "RESULT_DTYPES", "forward"]

RESULT_DTYPES = {
    "float32": "float32",
    "float16": "float16",
    "int16": "uint16",
    "int8": "uint8",
    "uint8": "uint8",
}
"""The dtype of a distance: of integers, the unsigned one of their size, which holds every distance."""

FORWARD_DTYPES = tuple(RESULT_DTYPES)

_NATIVE: dict[str, Callable[[Any, Any, Any, int], None]] = {
    "float32": _cpu.linf_dist,
    "float16": _cpu.linf_dist_fp16,
    "int16": _cpu.linf_dist_int16,
    "int8": _cpu.linf_dist_int8,
    "uint8": _cpu.linf_dist_uint8,
}


def forward(x: Any, w: Any, y: Any, bits: Any, threads: int) -> None:
    """Writes the distances of the rows of `x` and `w` into `y`.

    Args:
        x: (N, I), contiguous, of one of FORWARD_DTYPES.
        w: (O, I), contiguous, of the same dtype.
        y: (N, O), contiguous, of the dtype that RESULT_DTYPES names.
        bits: The library's own uint16, as which float16 is handed over.
        threads: At most so many.
    """
    name = dtype_name(x)
    if name == "float16":
        x, w, y = x.view(bits), w.view(bits), y.view(bits)
    _NATIVE[name](x, w, y, threads)
