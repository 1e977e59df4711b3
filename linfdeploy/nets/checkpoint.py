# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: plain data in a `.pt` file, read without executing anything."""

from __future__ import annotations

import io
import pickle
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from linfdeploy.errors import CheckpointError
from linfdeploy.files import atomic_write, read_bytes
from linfdeploy.nets.net import LinfNet
from linfdeploy.nets.spec import NetSpec

__all__ = ["FORMAT", "Checkpoint", "load_checkpoint", "load_plain", "save_checkpoint", "save_plain"]

FORMAT = "linfdeploy.checkpoint/1"
MAX_BYTES = 8 * 2**30


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
    """
    state = {name: tensor.detach().cpu().clone() for name, tensor in net.state_dict().items()}
    data = {"format": FORMAT, "spec": net.spec.to_json(), "state_dict": state, "provenance": dict(provenance)}
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
            f"{path} has format {data.get('format')!r} and fields {sorted(map(str, data))}; "
            f"expected format {FORMAT!r} and fields {sorted(expected)}"
        )
    if not isinstance(data["provenance"], Mapping):
        raise CheckpointError(f"{path}: provenance is {type(data['provenance']).__name__}; expected a mapping")
    try:
        return Checkpoint(_net_from(data), data["provenance"])
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None


def save_plain(path: Path, data: Mapping[str, Any]) -> None:
    """Writes a mapping of plain data and tensors atomically with `torch.save`.

    Raises:
        InputError: The folder cannot be written to.
    """
    with atomic_write(path) as file:
        torch.save(dict(data), file)


def load_plain(path: Path, what: str) -> Mapping[str, Any]:
    """Reads what `save_plain` wrote, with `weights_only=True`: a pickle that would run code is refused.

    Raises:
        CheckpointError: The file is missing, truncated, no mapping, or holds more than plain data.
    """
    raw = read_bytes(path, MAX_BYTES, what)
    try:
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


def _net_from(data: Mapping[str, Any]) -> LinfNet:
    spec = NetSpec.from_json(data["spec"])
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in LinfNet(spec).state_dict().items()}
    _check_state(data["state_dict"], shapes)
    net = LinfNet(spec)
    net.load_state_dict(data["state_dict"])
    return net.eval().requires_grad_(False)


def _check_state(state: object, shapes: Mapping[str, torch.Size]) -> None:
    if not isinstance(state, Mapping) or set(state) != set(shapes):
        found = set(map(str, state)) if isinstance(state, Mapping) else set()
        raise CheckpointError(
            f"the state lacks {sorted(set(shapes) - found)} and has the unknown {sorted(found - set(shapes))}; "
            "expected the tensors that the spec describes"
        )
    for name, shape in shapes.items():
        tensor = state[name]
        if not isinstance(tensor, torch.Tensor) or tensor.dtype != torch.float32 or tensor.shape != shape:
            found_as = (
                f"{tensor.dtype} {tuple(tensor.shape)}"
                if isinstance(tensor, torch.Tensor)
                else type(tensor).__name__
            )
            raise CheckpointError(f"{name} is {found_as}; expected torch.float32 {tuple(shape)}")
        if tensor.layout != torch.strided or tensor.device.type != "cpu":
            raise CheckpointError(f"{name} is {tensor.layout} on {tensor.device}; expected a plain tensor")
    _check_storage([state[name] for name in shapes])
    for name in shapes:
        if not bool(torch.isfinite(state[name]).all()):
            raise CheckpointError(f"{name} holds infinite or NaN values; expected finite numbers: train again")


def _check_storage(tensors: list[torch.Tensor]) -> None:
    """Refuses tensors that claim more than they hold: with strides of zero a small file can claim any size."""
    held = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    claimed = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    if claimed > sum(held.values()):
        raise CheckpointError(
            f"the tensors claim {claimed} bytes and hold {sum(held.values())}; expected as many: train again"
        )
