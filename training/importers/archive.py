# SPDX-License-Identifier: Apache-2.0
"""The files of `torch.save`, old and new, read without executing anything.

Plain data in a zip file is read by torch with `weights_only=True`. A file of the first paper's code holds live
modules in its optimizer's state; that, and the layout from before torch 1.6, is read by `pickles`, which makes
nothing of them.
"""

from __future__ import annotations

import io
import re
import struct
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from linfdeploy.errors import CheckpointError, brief
from linfdeploy.files import read_bytes, sha256_of
from linfdeploy.nets.checkpoint import MAX_BYTES, check_sums
from linfdeploy.training.importers.pickles import Inert, read_pickle
from linfdeploy.training.importers.stored import CALLS, Storage, StoredTensor, storage_from, tensor_from

__all__ = ["Source", "read_source"]

WHAT = "a checkpoint of L_inf-dist-net, L_inf-dist-net-v2 or SortNet"
MAX_RECORDS = 2**16
MAX_TENSORS = 2**12
# What the layout from before torch 1.6 begins with.
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
# What DistributedDataParallel puts before every name.
PARALLEL = "module."

StorageBytes = Callable[[Storage], "bytes | memoryview"]


@dataclass(frozen=True, eq=False)
class Source:
    """A checkpoint of somebody else.

    Attributes:
        path: Where it lies.
        sha256: Of the whole file.
        layout: How it is stored, in words.
        fields: The names at its top.
        state: The tensors of its `state_dict`: float32, finite, plainly stored; without the prefix of DDP.
    """

    path: Path
    sha256: str
    layout: str
    fields: frozenset[str]
    state: Mapping[str, torch.Tensor]


def read_source(path: Path) -> Source:
    """Reads a checkpoint of one of the papers' repositories, trusting nothing.

    Raises:
        CheckpointError: The file is missing, damaged, hostile, or has no `state_dict` of float32 tensors.
    """
    raw = read_bytes(path, MAX_BYTES, WHAT)
    try:
        layout, fields, state = _contents(raw)
        return Source(path, sha256_of(raw), layout, fields, _without_prefix(state))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None


def _contents(raw: bytes) -> tuple[str, frozenset[str], Mapping[str, torch.Tensor]]:
    if not zipfile.is_zipfile(io.BytesIO(raw)):
        root, bytes_of = _legacy_contents(raw)
        return "before torch 1.6", *_fields_and_state(root, bytes_of)
    try:
        _check_records(raw)
        check_sums(raw)
    # zipfile raises almost anything on a damaged file.
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"it is damaged ({reason}); expected {WHAT}") from None
    if (root := _plain_contents(raw)) is not None:
        return "plain data", *_fields_and_state(root, None)
    root, bytes_of = _zip_contents(raw)
    return "more than plain data", *_fields_and_state(root, bytes_of)


def _check_records(raw: bytes) -> None:
    """Refuses what torch does not write: compressed records, and records that share their bytes."""
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        records = archive.infolist()
    if len(records) > MAX_RECORDS or any(record.compress_type != zipfile.ZIP_STORED for record in records):
        raise ValueError("it has compressed or very many records")
    names = {record.filename for record in records}
    if len(names) < len(records) or sum(record.file_size for record in records) > len(raw):
        raise ValueError("its records overlap")


def _plain_contents(raw: bytes) -> object:
    """Returns what torch reads, or None where it refuses: then the stricter reader says why, or reads on."""
    try:
        # torch warns of what it finds strange in a file; ours to judge, in one line.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
    # torch.load raises almost anything on what it does not like.
    except Exception:
        return None


def _zip_contents(raw: bytes) -> tuple[object, StorageBytes]:
    archive = zipfile.ZipFile(io.BytesIO(raw))
    names = set(archive.namelist())
    pickles = [name for name in names if re.fullmatch(r"[^/]+/data\.pkl", name)]
    if len(pickles) != 1:
        raise CheckpointError(f"it is a zip file with {len(pickles)} data.pkl; expected {WHAT}")
    folder = pickles[0].removesuffix("data.pkl")
    order = f"{folder}byteorder"
    if order in names and archive.read(order) != b"little":
        raise CheckpointError("its numbers are not little-endian; expected a checkpoint of a usual machine")

    def bytes_of(storage: Storage) -> bytes:
        name = f"{folder}data/{storage.key}"
        data = archive.read(name) if name in names else b""
        _check_size(storage, len(data))
        return data

    return read_pickle(io.BytesIO(archive.read(pickles[0])), CALLS, storage_from), bytes_of


def _legacy_contents(raw: bytes) -> tuple[object, StorageBytes]:
    """Reads the layout from before torch 1.6; torch would fill what is left out with whatever is in memory."""
    file, storages = io.BytesIO(raw), dict[str, Storage]()

    def keep(identity: object) -> object:
        storage = storage_from(identity)
        if isinstance(storage, Storage) and storages.setdefault(storage.key, storage) != storage:
            raise CheckpointError(f"it has two storages {brief(storage.key)}; expected one")
        return storage

    heads = [_head(file) for _ in range(2)]
    if heads != [LEGACY_MAGIC, LEGACY_PROTOCOL]:
        raise CheckpointError(f"it is no file of torch.save, or cut off; expected {WHAT}")
    machine = read_pickle(file, {}, storage_from)
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise CheckpointError("its numbers are not little-endian; expected a checkpoint of a usual machine")
    root = read_pickle(file, CALLS, keep)
    data = _legacy_storages(file, memoryview(raw), storages)

    def bytes_of(storage: Storage) -> memoryview:
        if storage.key not in data:
            raise CheckpointError(
                f"the storage {brief(storage.key)} is missing; expected its numbers: copy it again"
            )
        return data[storage.key]

    return root, bytes_of


def _head(file: BinaryIO) -> object:
    try:
        return read_pickle(file, {}, storage_from)
    except CheckpointError:
        return None


def _legacy_storages(file: BinaryIO, raw: memoryview, storages: Mapping[str, Storage]) -> dict[str, memoryview]:
    keys = read_pickle(file, {}, storage_from)
    if not isinstance(keys, list):
        raise CheckpointError("it has no list of storages; expected what torch.save writes")
    data, start = dict[str, memoryview](), file.tell()
    for key in keys:
        storage = storages.get(key) if isinstance(key, str) else None
        if storage is None or key in data:
            raise CheckpointError(
                f"it lists the storage {brief(key)}; expected each one that its tensors use, once"
            )
        header, body = raw[start : start + 8], raw[start + 8 : start + 8 + storage.bytes]
        if len(header) < 8 or struct.unpack("<q", header)[0] != storage.elements:
            raise CheckpointError(
                f"the storage {brief(key)} is cut off or of another size; expected the whole file"
            )
        _check_size(storage, len(body))
        data[key], start = body, start + 8 + storage.bytes
    return data


def _check_size(storage: Storage, size: int) -> None:
    if size != storage.bytes:
        raise CheckpointError(
            f"the storage {brief(storage.key)} has {size} bytes but claims {storage.elements} elements, so "
            f"{storage.bytes} bytes; expected the same: copy it again"
        )


def _fields_and_state(
    root: object, bytes_of: StorageBytes | None
) -> tuple[frozenset[str], Mapping[str, torch.Tensor]]:
    state = root.get("state_dict") if isinstance(root, dict) else None
    if not isinstance(root, dict) or not isinstance(state, dict):
        found = f"holds the fields {brief(list(root))}" if isinstance(root, dict) else f"is {_kind(root)}"
        raise CheckpointError(f"it {found}; expected the field 'state_dict' of {WHAT}")
    if not 0 < len(state) <= MAX_TENSORS or not all(isinstance(name, str) for name in state):
        raise CheckpointError(
            f"its state_dict has {len(state)} entries; expected 1 to {MAX_TENSORS} named tensors"
        )
    tensors = {name: _tensor(name, value, bytes_of) for name, value in state.items()}
    return frozenset(name for name in root if isinstance(name, str)), tensors


def _tensor(name: str, value: Any, bytes_of: StorageBytes | None) -> torch.Tensor:
    shown = brief(name)
    if bytes_of is not None and isinstance(value, StoredTensor) and isinstance(value.storage, Storage):
        value = tensor_from(shown, value, bytes_of(value.storage))
    if not isinstance(value, torch.Tensor):
        raise CheckpointError(f"{shown} is {_kind(value)}; expected a tensor")
    plain = value.layout == torch.strided and value.device.type == "cpu" and value.is_contiguous()
    if not plain or value.dtype != torch.float32:
        raise CheckpointError(
            f"{shown} is {'' if plain else 'not plainly stored '}{value.dtype}; expected torch.float32"
        )
    if not bool(torch.isfinite(value).all()):
        raise CheckpointError(f"{shown} holds infinite or NaN values; expected finite numbers")
    return value.resolve_neg()


def _kind(value: object) -> str:
    if isinstance(value, Inert):
        return f"an object of {brief(value.name)}, which was not made"
    return f"of type {type(value).__name__}"


def _without_prefix(state: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    if all(name.startswith(PARALLEL) for name in state):
        return {name.removeprefix(PARALLEL): tensor for name, tensor in state.items()}
    return state
