# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: plain data in a `.pt` file, read without executing anything."""

from __future__ import annotations

import io
import json
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from linfdeploy.errors import CheckpointError, brief
from linfdeploy.files import read_bytes, write_bytes
from linfdeploy.nets.net import LinfNet
from linfdeploy.nets.spec import NetSpec

__all__ = [
    "FORMAT",
    "MAX_BYTES",
    "Checkpoint",
    "check_sums",
    "load_checkpoint",
    "load_plain",
    "net_from_state",
    "save_checkpoint",
    "save_plain",
]

FORMAT = "linfdeploy.checkpoint/1"
MAX_BYTES = 8 * 2**30
MS_DOS_FOLDER = 0x10


@dataclass(frozen=True)
class Checkpoint:
    """A trained net and where it came from.

    Attributes:
        net: In evaluation mode, at p = inf.
        provenance: JSON-able data: recipe, seed, versions, metrics.
    """

    net: LinfNet
    provenance: Mapping[str, Any]


def save_checkpoint(path: Path, net: LinfNet, provenance: Mapping[str, Any]) -> None:
    """Writes a checkpoint atomically.

    Raises:
        InputError: The folder cannot be written to.
        TypeError: `provenance` is not JSON-able; reading the file back would fail.
    """
    plain = json.loads(json.dumps(dict(provenance)))
    state = {name: tensor.detach().cpu().clone() for name, tensor in net.state_dict().items()}
    data = {"format": FORMAT, "spec": net.spec.to_json(), "state_dict": state, "provenance": plain}
    save_plain(path, data)


def load_checkpoint(path: Path) -> Checkpoint:
    """Reads a checkpoint; nothing in it is executed and every field is checked before it is used.

    Raises:
        CheckpointError: The file is unreadable, holds more than plain data, or its fields do not fit together.
    """
    data = load_plain(path, "a linfdeploy checkpoint")
    expected = {"format", "spec", "state_dict", "provenance"}
    if data.get("format") != FORMAT or set(data) != expected:
        raise CheckpointError(
            f"{path} has format {brief(data.get('format'))} and fields {brief(list(data))}; "
            f"expected format {FORMAT!r} and fields {sorted(expected)}"
        )
    try:
        net = net_from_state(NetSpec.from_json(data["spec"]), data["state_dict"])
        return Checkpoint(net, _provenance_from(data["provenance"]))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None


def save_plain(path: Path, data: Mapping[str, Any]) -> None:
    """Writes a mapping of plain data and tensors atomically with `torch.save`.

    Raises:
        InputError: The folder cannot be written to.
    """
    # Through memory: torch turns a full disk into an error of its own.
    buffer = io.BytesIO()
    torch.save(dict(data), buffer)
    write_bytes(path, buffer.getvalue())


def load_plain(path: Path, what: str) -> Mapping[str, Any]:
    """Reads what `save_plain` wrote, with `weights_only=True`: a pickle that would run code is refused.

    Raises:
        CheckpointError: The file is missing, truncated, no mapping, or holds more than plain data.
    """
    raw = read_bytes(path, MAX_BYTES, what)
    try:
        check_sums(raw)
        # torch warns of what it finds strange in a file; ours to judge, in one line.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{path} is no checkpoint, or holds code or objects, which are never executed; expected {what} "
            "of plain data and tensors: write it with linfdeploy"
        ) from None
    # torch.load raises almost anything on a damaged file.
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path} is damaged or no checkpoint ({reason}); expected {what}") from None
    if not isinstance(data, Mapping):
        raise CheckpointError(f"{path} holds a {type(data).__name__}; expected {what}")
    return data


def net_from_state(spec: NetSpec, state: object) -> LinfNet:
    """Makes the net of a spec with the tensors of a file.

    Args:
        spec: The net.
        state: By name, float32 in the shapes of the net, checked here.

    Returns:
        In evaluation mode, at p = inf, without gradients.

    Raises:
        CheckpointError: A tensor is missing, unknown, of another type or shape, or not finite.
    """
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in LinfNet(spec).state_dict().items()}
    values = _checked_state(state, shapes)
    # The first weights are drawn and thrown away: a program's random numbers must not depend on what it reads.
    with torch.random.fork_rng(devices=[]):
        net = LinfNet(spec)
    net.load_state_dict(values)
    return net.eval().requires_grad_(False)


def check_sums(raw: bytes) -> None:
    """Compares every record of a zip file with its checksum: torch writes it but does not look at it.

    Raises:
        ValueError: A record is not what was written. What is damaged otherwise raises almost anything.
    """
    if not zipfile.is_zipfile(io.BytesIO(raw)):
        return
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        # Nor does torch read a record that is marked as a folder: its values would be whatever was in memory.
        folders = [entry.filename for entry in archive.infolist() if entry.external_attr & MS_DOS_FOLDER]
        if damaged := archive.testzip() or next(iter(folders), None):
            raise ValueError(f"the record {damaged} is not what was written")


def _provenance_from(data: object) -> Mapping[str, Any]:
    if not isinstance(data, Mapping):
        raise CheckpointError(f"provenance is {type(data).__name__}; expected a mapping")
    try:
        json.dumps(dict(data))
    except (RecursionError, TypeError, ValueError):
        raise CheckpointError("provenance holds more than text, numbers and lists; expected JSON data") from None
    return data


def _checked_state(state: object, shapes: Mapping[str, torch.Size]) -> Mapping[str, Any]:
    if not isinstance(state, Mapping) or set(state) != set(shapes):
        found = set(map(brief, state)) if isinstance(state, Mapping) else set()
        expected = set(map(brief, shapes))
        raise CheckpointError(
            f"the state lacks {_listed(expected - found)} and has the unknown {_listed(found - expected)}; "
            "expected the tensors that the spec describes"
        )
    for name, shape in shapes.items():
        _check_tensor(name, state[name], shape)
    return state


def _listed(names: set[str]) -> str:
    return f"[{', '.join(sorted(names)[:20])}]"


def _check_tensor(name: str, tensor: object, shape: torch.Size) -> None:
    """Checks that the values are there, one by one: a tensor can claim more elements than its storage holds."""
    if not isinstance(tensor, torch.Tensor):
        raise CheckpointError(f"{name} is {type(tensor).__name__}; expected torch.float32 {tuple(shape)}")
    plain = tensor.layout == torch.strided and tensor.device.type == "cpu" and tensor.is_contiguous()
    if not plain or tensor.dtype != torch.float32 or tensor.shape != shape:
        layout = "" if plain else "not plainly stored "
        raise CheckpointError(
            f"{name} is {layout}{tensor.dtype} {tuple(tensor.shape)}; expected torch.float32 {tuple(shape)}"
        )
    if not bool(torch.isfinite(tensor).all()):
        raise CheckpointError(f"{name} holds infinite or NaN values; expected finite numbers: train again")
