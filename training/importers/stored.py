# SPDX-License-Identifier: Apache-2.0
"""Tensors of a file that was not loaded: what the pickle claims of them, held against the bytes that are there."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from linfdeploy.errors import CheckpointError, brief
from linfdeploy.training.importers.pickles import Calls, Inert, Name

__all__ = ["CALLS", "ITEM_BYTES", "Storage", "StoredTensor", "storage_from", "tensor_from"]

ITEM_BYTES: Mapping[str, int] = {
    "ByteStorage": 1,
    "CharStorage": 1,
    "BoolStorage": 1,
    "ShortStorage": 2,
    "HalfStorage": 2,
    "BFloat16Storage": 2,
    "IntStorage": 4,
    "FloatStorage": 4,
    "LongStorage": 8,
    "DoubleStorage": 8,
}
MAX_DIMENSIONS = 8
MAX_ELEMENTS = 2**48


@dataclass(frozen=True)
class Storage:
    """The numbers of some tensors.

    Attributes:
        kind: A key of `ITEM_BYTES`.
        key: Its name in the file.
        elements: How many it claims to hold.
    """

    kind: str
    key: str
    elements: int

    @property
    def bytes(self) -> int:
        """How many bytes it must have."""
        return self.elements * ITEM_BYTES[self.kind]


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """What a pickle says of a tensor; nothing of it is checked before `tensor_from`."""

    storage: object
    offset: Any
    shape: Any
    stride: Any


def storage_from(identity: object) -> object:
    """Reads a persistent id of `torch.save`; what is no storage becomes inert.

    Raises:
        CheckpointError: It is a storage of a kind or size that there cannot be.
    """
    match identity:
        case ("storage", Name(text=text), str(key), _, int(elements), *_):
            kind = text.removeprefix("torch.")
            if kind in ITEM_BYTES and 0 <= elements < MAX_ELEMENTS:
                return Storage(kind, key, elements)
        case ("module", *_):
            return Inert("module")
    raise CheckpointError(
        f"it refers to {brief(identity)}; expected the numbers of a tensor, as torch.save writes them"
    )


def tensor_from(name: str, stored: StoredTensor, data: bytes | memoryview) -> torch.Tensor:
    """Makes a tensor of a storage's bytes.

    Args:
        name: For the error text.
        stored: What the file says of it; its storage is a `Storage`.
        data: The storage's bytes, little-endian, as many as it claims.

    Returns:
        float32, with a memory of its own.

    Raises:
        CheckpointError: The tensor is no plain float32, or reaches beyond its storage.
    """
    storage, shape = stored.storage, stored.shape
    assert isinstance(storage, Storage)
    if storage.kind != "FloatStorage":
        raise CheckpointError(f"{name} has the type {storage.kind}; expected FloatStorage (float32)")
    if not (_are_sizes(shape) and stored.stride == _contiguous(shape)):
        raise CheckpointError(
            f"{name} has shape {brief(shape)} and strides {brief(stored.stride)}; expected positive sizes, "
            "plainly stored"
        )
    end = stored.offset + math.prod(shape) if type(stored.offset) is int and stored.offset >= 0 else math.inf
    if end > storage.elements:
        raise CheckpointError(
            f"{name} has shape {brief(shape)} from element {brief(stored.offset)} on, but its storage has "
            f"{storage.elements} elements; expected it inside"
        )
    values = np.frombuffer(data, "<f4")[stored.offset : end].astype(np.float32)
    return torch.from_numpy(values.reshape(shape))


def _are_sizes(shape: object) -> bool:
    return (
        isinstance(shape, tuple)
        and len(shape) <= MAX_DIMENSIONS
        and all(type(size) is int and 0 < size < MAX_ELEMENTS for size in shape)
    )


def _contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def _stored_tensor(
    storage: object, offset: object, shape: object, stride: object, *more: object
) -> StoredTensor | Inert:
    # After the gradient and the hooks stand bits that change what the numbers mean.
    return Inert("a tensor with metadata") if any(more[2:]) else StoredTensor(storage, offset, shape, stride)


def _ordered_dict() -> dict[object, object]:
    return {}


def _parameter(data: object, *_: object) -> object:
    return data


CALLS: Calls = {
    "collections.OrderedDict": _ordered_dict,
    "torch._utils._rebuild_tensor_v2": _stored_tensor,
    "torch._utils._rebuild_parameter": _parameter,
}
"""The functions of a torch checkpoint whose results are wanted."""
