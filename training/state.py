# SPDX-License-Identifier: Apache-2.0
"""What a run needs to go on after an interruption, as plain data beside the checkpoint it will write."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from linfdeploy.errors import CheckpointError
from linfdeploy.nets.checkpoint import load_plain, save_plain
from linfdeploy.training.recipe import recipe_defaults

if TYPE_CHECKING:
    from linfdeploy.training.trainer import Trainer

__all__ = ["FORMAT", "load_state", "save_state", "state_path"]

FORMAT = "linfdeploy.training-state/1"


def state_path(out: Path) -> Path:
    """Returns where the state of a run lies that will write the checkpoint `out`."""
    return out.with_name(f"{out.name}.state")


def save_state(path: Path, trainer: Trainer) -> None:
    """Writes the state of a run atomically.

    Raises:
        InputError: The folder cannot be written to.
    """
    data = {
        "format": FORMAT,
        "recipe": trainer.recipe.to_json(),
        "epoch": trainer.epoch,
        "net": _on_cpu(trainer.net.state_dict()),
        "scale": trainer.scale.detach().cpu(),
        "optimizer": _on_cpu(trainer.optimizer.state_dict()),
        "seconds": trainer.times.seconds,
        "history": trainer.history.plain(),
    }
    save_plain(path, data)


def load_state(path: Path, trainer: Trainer) -> None:
    """Takes a run to where it was when its state was written.

    Raises:
        CheckpointError: The file is missing, damaged, or the state of another recipe.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; expected the state of an interrupted run: omit --resume")
    data = load_plain(path, "the state of an interrupted run")
    if data.get("format") != FORMAT:
        raise CheckpointError(f"{path} has format {data.get('format')!r}; expected {FORMAT!r}: omit --resume")
    _check_recipe(path, data.get("recipe"), trainer.recipe.to_json())
    try:
        _restore(data, trainer)
    # torch raises almost anything when names or shapes do not match.
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{path} is damaged ({reason}); expected the state of an interrupted run: omit --resume"
        ) from None


def _check_recipe(path: Path, found: object, expected: Mapping[str, Any]) -> None:
    if not isinstance(found, Mapping):
        raise CheckpointError(f"{path} holds no recipe; expected the state of an interrupted run: omit --resume")
    # States of older versions lack fields, and were trained as if those had their defaults.
    found = {**recipe_defaults(), **found}
    for name in sorted(map(str, {*found, *expected})):
        if found.get(name) != expected.get(name):
            raise CheckpointError(
                f"{path} was trained with {name} = {found.get(name)!r} and the recipe has {expected.get(name)!r}; "
                "expected the same recipe: mend it, or omit --resume to start over"
            )


def _restore(data: Mapping[str, Any], trainer: Trainer) -> None:
    epoch = data["epoch"]
    if type(epoch) is not int or not 0 <= epoch <= trainer.recipe.epochs:
        raise ValueError(f"epoch {epoch!r}")
    trainer.net.load_state_dict(data["net"])
    trainer.scale.data.copy_(data["scale"])
    trainer.optimizer.load_state_dict(_for_device(data["optimizer"], trainer.optimizer))
    # States of older versions have neither.
    trainer.times.restore(data.get("seconds", {}))
    trainer.history.restore(data.get("history", []), epoch)
    trainer.epoch = epoch
    trainer.moved()


def _on_cpu(data: Any) -> Any:
    """Returns plain data with its tensors on the CPU, so that a run can go on where there is no such device."""
    if isinstance(data, torch.Tensor):
        return data.cpu()
    if isinstance(data, Mapping):
        return {key: _on_cpu(value) for key, value in data.items()}
    return [_on_cpu(value) for value in data] if isinstance(data, list) else data


def _for_device(found: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Returns an optimizer's state with the options of ours: where its step runs is no matter of the file."""
    options = ("lr", "fused", "foreach", "capturable")
    groups = [
        {**group, **{name: ours[name] for name in options}}
        for group, ours in zip(found["param_groups"], optimizer.param_groups, strict=True)
    ]
    return {**found, "param_groups": groups}
