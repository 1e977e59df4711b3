# SPDX-License-Identifier: Apache-2.0
"""`linfdeploy train RECIPE -o ckpt.pt`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from linfdeploy.cli.voice import one_voice
from linfdeploy.errors import MissingExtraError

if TYPE_CHECKING:
    from linfdeploy.ranks import Ranks
    from linfdeploy.training.evaluation import Evaluation
    from linfdeploy.training.loop import Progress

__all__ = ["command"]


@click.command()
@click.argument("recipe")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The checkpoint to write.")
@click.option("--resume", is_flag=True, help="Go on from OUTPUT.state, which an interrupted run leaves behind.")
@click.option("--device", default="cpu", show_default=True, help="Where to train: cpu, cuda or cuda:N.")
@click.option(
    "--graphs/--no-graphs",
    default=None,
    help="Whether steps are captured in CUDA graphs; the bits are the same.  [default: on CUDA]",
)
@click.option(
    "--data-root", type=click.Path(path_type=Path), help="The folder of the data set.  [default: ./data]"
)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Changes a field of the recipe.")
@click.option("--seed", type=int, help="Short for --set seed=INTEGER.")
def command(**request: Any) -> None:
    """Trains a net by RECIPE, a recipe's name or a TOML file, and writes its checkpoint.

    An interrupted run goes on with --resume and ends with the same bits. Several processes share the work when
    torchrun starts them: torchrun --nproc-per-node 2 -m linfdeploy train RECIPE -o ckpt.pt
    """
    from linfdeploy.ranks import joined

    with joined() as ranks, one_voice(ranks):
        _train(_Request(**request), ranks)


@dataclass(frozen=True)
class _Request:
    recipe: str
    output: Path
    resume: bool
    device: str
    graphs: bool | None
    data_root: Path | None
    overrides: tuple[str, ...]
    seed: int | None


def _train(request: _Request, ranks: Ranks) -> None:
    from linfdeploy.training.recipe import load_recipe

    overrides = request.overrides if request.seed is None else (*request.overrides, f"seed={request.seed}")
    recipe = ranks.together(lambda: load_recipe(request.recipe, overrides))
    try:
        from linfdeploy.training.loop import train
        from linfdeploy.training.place import place_from
    except ModuleNotFoundError:
        raise MissingExtraError("training", "train") from None
    place = ranks.together(lambda: place_from(request.device, ranks, graphs=request.graphs))
    with _progress(recipe.epochs) if ranks.is_first else nullcontext(_say_nothing) as report:
        evaluation = train(
            recipe,
            request.output,
            resume=request.resume,
            place=place,
            data_root=request.data_root,
            report=report,
        )
    if ranks.is_first:
        click.echo(f"wrote {request.output}: {_summary(evaluation)}")


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


def _say_nothing(_: Progress) -> None:
    pass


def _print_tenths(progress: Progress) -> None:
    if progress.epoch * 10 // progress.epochs > (progress.epoch - 1) * 10 // progress.epochs:
        click.echo(f"epoch {progress.epoch}/{progress.epochs}  {_describe(progress)}", err=True)


def _describe(progress: Progress) -> str:
    dials, evaluation = progress.dials, progress.evaluation
    seconds = progress.seconds[progress.phase]
    text = (
        f"loss {progress.loss:.3f}  p {dials.p:.3g}  lr {dials.lr:.1g}  {seconds:.2g} s/epoch at {progress.phase}"
    )
    return text if evaluation is None else f"{text}  certified {evaluation.certified:.1%}"


def _summary(evaluation: Evaluation) -> str:
    return (
        f"clean {evaluation.clean:.2%}, certified at eps {evaluation.eps:g} {evaluation.certified:.2%} "
        f"(by margin alone {evaluation.certified_margin:.2%}) of {evaluation.samples} test images"
    )
