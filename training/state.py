# SPDX-License-Identifier: Apache-2.0
"""What a run needs to go on after an interruption, as plain data beside the checkpoint it will write."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linfdeploy.errors import CheckpointError
from linfdeploy.nets.checkpoint import load_plain, save_plain

if TYPE_CHECKING:
    from linfdeploy.training.loop import Trainer

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
        "net": trainer.net.state_dict(),
        "scale": trainer.scale.detach(),
        "optimizer": trainer.optimizer.state_dict(),
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
    trainer.optimizer.load_state_dict(data["optimizer"])
    trainer.epoch = epoch
