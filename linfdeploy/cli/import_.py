# SPDX-License-Identifier: Apache-2.0
"""`linfdeploy import model.pth ckpt.pt`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from linfdeploy.cli.options import PATH
from linfdeploy.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from linfdeploy.training.importers.inputs import InputOptions

__all__ = ["command"]

DATASETS = ("mnist", "fashion-mnist", "cifar10", "cifar100", "tiny-imagenet", "imagenet64")
REPOSITORIES = ("L_inf-dist-net", "L_inf-dist-net-v2", "SortNet")


@click.command("import")
@click.argument("model", type=PATH)
@click.argument("checkpoint", type=PATH)
@click.option("--log", type=PATH, help="The run's log.  [default: log.txt beside MODEL, if there is one]")
@click.option(
    "--repository",
    type=click.Choice(REPOSITORIES),
    help="Whose code wrote MODEL, where neither it nor the log tells.",
)
@click.option("--dataset", type=click.Choice(DATASETS), help="What the net was trained on, if there is no log.")
@click.option(
    "--mean", metavar="M[,M...]", help="Per channel, what the input is shifted by, in [0, 1] pixel units."
)
@click.option("--std", metavar="S", help="What the input is divided by, one number for all channels.")
@click.option("--input-shape", metavar="C,H,W", help="Of an image.")
@click.option(
    "--keep",
    type=click.FloatRange(0, 1, min_open=True),
    help="SortNet: the chance of an input to be kept, which its code calls dropout.  [default: the log's]",
)
@click.option("--eps", help="The radius that the net was made for, as 8/255, 0.3 or 8px; for the record.")
def command(
    model: Path,
    checkpoint: Path,
    log: Path | None,
    repository: str | None,
    keep: float | None,
    **said: str | None,
) -> None:
    """Writes MODEL, a checkpoint of L_inf-dist-net, L_inf-dist-net-v2 or SortNet, as our CHECKPOINT.

    Nothing in MODEL is executed. What it does not say comes from the run's log or from the options.
    """
    try:
        from linfdeploy.training.importers.convert import ImportRequest, import_checkpoint
    except ModuleNotFoundError:
        raise MissingExtraError("import", "train") from None
    from linfdeploy.verify.threat import parse_eps

    if said["eps"] is not None:
        parse_eps(said["eps"])
    request = ImportRequest(model, log, repository, _input_options(**said), said["eps"], keep)
    click.echo(f"wrote {checkpoint}: {import_checkpoint(request, checkpoint).words}")


def _input_options(
    *, dataset: str | None, mean: str | None, std: str | None, input_shape: str | None, **_: str | None
) -> InputOptions:
    from linfdeploy.training.importers.inputs import InputOptions

    means, stds = _numbers("mean", mean), _numbers("std", std)
    if stds is not None and len(stds) != 1:
        raise InputError(f"--std is {std!r}; expected one number: with several an l_inf ball would be no ball")
    return InputOptions(dataset, means, stds[0] if stds else None, _shape(input_shape))


def _numbers(name: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(map(float, text.split(",")))
    except ValueError:
        raise InputError(f"--{name} is {text!r}; expected numbers such as 0.4914,0.4822,0.4465") from None


def _shape(text: str | None) -> tuple[int, int, int] | None:
    if text is None:
        return None
    parts = text.split(",")
    if len(parts) != 3 or not all(part.isascii() and part.isdecimal() and len(part) < 6 for part in parts):
        raise InputError(f"--input-shape is {text!r}; expected three sizes such as 3,32,32")
    channels, height, width = map(int, parts)
    return channels, height, width
