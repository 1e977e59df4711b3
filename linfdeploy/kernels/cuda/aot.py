# SPDX-License-Identifier: Apache-2.0
"""The kernels that others start, from PTX: what each needs for its launch."""

from __future__ import annotations

from dataclasses import dataclass

from linfdeploy.kernels import _cuda

__all__ = ["KERNELS", "AotKernel"]


@dataclass(frozen=True)
class AotKernel:
    """A kernel of `aot_entries.h`, right for every batch.

    Its grid has one dimension and as many blocks as cover the results, at least one.

    Attributes:
        name: Of its entry.
        file: The source that it is in, without `.cu`.
        rows: Of the results that a block makes.
        columns: Of the results that a block makes.
        threads: Of a block.
        shared_bytes: The shared memory that a block is given, no more than every card gives.
    """

    name: str
    file: str
    rows: int
    columns: int
    threads: int
    shared_bytes: int


KERNELS: dict[str, AotKernel] = {kernel[0]: AotKernel(*kernel) for kernel in _cuda.aot_kernels()}
"""All of them, by name."""
