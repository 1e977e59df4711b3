# SPDX-License-Identifier: Apache-2.0
"""`linfdeploy train RECIPE -o ckpt.pt`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from linfdeploy.errors import MissingExtraError

if TYPE_CHECKING:
    from linfdeploy.training.evaluation import Evaluation
    from linfdeploy.training.loop import Progress

__all__ = ["command"]


@click.command()
@click.argument("recipe")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The checkpoint to write.")
@click.option("--resume", is_flag=True, help="Go on from OUTPUT.state, which an interrupted run leaves behind.")
@click.option("--device", default="cpu", show_default=True, help="Where to train.")
@click.option(
    "--data-root", type=click.Path(path_type=Path), help="The folder of the data set.  [default: ./data]"
)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Changes a field of the recipe.")
@click.option("--seed", type=int, help="Short for --set seed=INTEGER.")
def command(
    recipe: str,
    output: Path,
    resume: bool,
    device: str,
    data_root: Path | None,
    overrides: tuple[str, ...],
    seed: int | None,
) -> None:
    """Trains a net by RECIPE, a recipe's name or a TOML file, and writes its checkpoint.

    An interrupted run goes on with --resume and ends with the same bits.
    """
    from linfdeploy.training.recipe import load_recipe

    chosen = load_recipe(recipe, overrides if seed is None else (*overrides, f"seed={seed}"))
    try:
        from linfdeploy.training.loop import train
    except ModuleNotFoundError:
        raise MissingExtraError("training", "train") from None
    with _progress(chosen.epochs) as report:
        evaluation = train(chosen, output, resume=resume, device=device, data_root=data_root, report=report)
    click.echo(f"wrote {output}: {_summary(evaluation)}")


@contextmanager
def _progress(epochs: int) -> Iterator[Callable[[Progress], None]]:
    """Yields what shows progress on stderr: a bar on a terminal, a line now and then elsewhere."""
    if not sys.stderr.isatty():
        yield _print_tenths
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        "epoch",
        MofNCompleteColumn(),
        BarColumn(12),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Bar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=epochs)
        yield lambda progress: bar.update(task, completed=progress.epoch, description=_describe(progress))


def _print_tenths(progress: Progress) -> None:
    if progress.epoch * 10 // progress.epochs > (progress.epoch - 1) * 10 // progress.epochs:
        click.echo(f"epoch {progress.epoch}/{progress.epochs}  {_describe(progress)}", err=True)


def _describe(progress: Progress) -> str:
    dials, evaluation = progress.dials, progress.evaluation
    text = f"loss {progress.loss:.3f}  p {dials.p:.3g}  lr {dials.lr:.1g}"
    return text if evaluation is None else f"{text}  certified {evaluation.certified:.1%}"


def _summary(evaluation: Evaluation) -> str:
    return (
        f"clean {evaluation.clean:.2%}, certified at eps {evaluation.eps:g} {evaluation.certified:.2%} "
        f"(by margin alone {evaluation.certified_margin:.2%}) of {evaluation.samples} test images"
    )
