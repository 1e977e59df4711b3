# SPDX-License-Identifier: Apache-2.0
"""`linfdeploy train RECIPE -o ckpt.pt`."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from linfdeploy.cli.options import one_line
from linfdeploy.cli.voice import one_voice
from linfdeploy.errors import LinfDeployError, MissingExtraError

if TYPE_CHECKING:
    from linfdeploy.nets.net import LinfNet
    from linfdeploy.ranks import Ranks
    from linfdeploy.training.data import Dataset
    from linfdeploy.training.evaluation import Evaluation, Exported
    from linfdeploy.training.loop import Certify, Progress

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
@click.option("--download", is_flag=True, help="Fetch the data set first, if it is not there: docs/data.md.")
@click.option(
    "--tensorboard",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Also log the run for TensorBoard (pip install tensorboard).",
)
@click.option(
    "--certify/--no-certify",
    default=True,
    show_default=True,
    help="Whether to export the trained net in memory and certify that one on the test images.",
)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Changes a field of the recipe.")
@click.option("--seed", type=int, help="Short for --set seed=INTEGER.")
def command(**request: Any) -> None:
    """Trains a net by RECIPE, a recipe's name or a TOML file, and writes its checkpoint.

    Beside the checkpoint lie the curves of the run, as a picture (.png) and as lines of JSON (.log.jsonl).

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
    download: bool = False
    tensorboard: Path | None = None
    certify: bool = True


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
    ranks.together(lambda: _fetch(recipe.dataset, request, ranks))
    with _voice(recipe.epochs, request, ranks) as (report, note):
        evaluation = train(
            recipe,
            request.output,
            resume=request.resume,
            place=place,
            data_root=request.data_root,
            report=report,
            certify=_certify(recipe.eps_test, note) if request.certify else None,
        )
    if ranks.is_first:
        click.echo(f"wrote {request.output}: {_summary(evaluation)}")
        if evaluation.exported is not None:
            click.echo(_proved(evaluation.exported))


def _fetch(name: str, request: _Request, ranks: Ranks) -> None:
    # Once on each machine; the others wait at the end of this.
    if request.download and ranks.local == 0:
        from linfdeploy.training.data import DEFAULT_ROOT
        from linfdeploy.training.data.download import download

        download(name, request.data_root or DEFAULT_ROOT, _note)


def _note(line: str) -> None:
    click.echo(f"note: {one_line(line)}", err=True)


def _certify(eps: float, note: Callable[[str], None]) -> Certify:
    from linfdeploy.cli.steps import certify_exported

    def certify(net: LinfNet, test: Dataset) -> Exported | None:
        try:
            return certify_exported(net, test, eps)
        except LinfDeployError as error:
            note(f"not certified after export: {error}")
            return None

    return certify


@contextmanager
def _voice(
    epochs: int, request: _Request, ranks: Ranks
) -> Iterator[tuple[Callable[[Progress], None], Callable[[str], None]]]:
    """Yields what the first rank calls after each epoch, and what it notes; the others say nothing."""
    if not ranks.is_first:
        yield (lambda _: None), (lambda _: None)
        return
    with _progress(epochs) as (show, note), _event_files(request.tensorboard, request.resume) as log:

        def report(progress: Progress) -> None:
            show(progress)
            log(progress)
            for line in progress.warnings:
                note(f"warning: {line}")

        yield report, (lambda line: note(f"note: {one_line(line)}"))


@contextmanager
def _event_files(folder: Path | None, resume: bool) -> Iterator[Callable[[Progress], None]]:
    """Yields what logs an epoch for TensorBoard.

    Raises:
        LinfDeployError: TensorBoard is not installed, or the folder cannot be written to.
    """
    if folder is None:
        yield lambda _: None
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise LinfDeployError(
            "--tensorboard needs the package tensorboard, which is not installed: pip install tensorboard"
        ) from None
    # Typed where TensorBoard is installed, and not where it is not.
    new_writer: Any = SummaryWriter
    writer: Any = None

    def log(progress: Progress) -> None:
        nonlocal writer
        if writer is None:
            # What an interrupted run logged after the state from which this one goes on is taken back.
            purge = progress.epoch if resume else None
            writer = _opened(lambda: new_writer(str(folder), purge_step=purge), folder)
        for name, value in _scalars(progress).items():
            writer.add_scalar(name, value, progress.epoch)

    try:
        yield log
    finally:
        if writer is not None:
            writer.close()


def _opened(make: Callable[[], Any], folder: Path) -> Any:
    try:
        return make()
    except OSError as error:
        raise LinfDeployError(
            f"cannot write to {folder}: {error.strerror}; expected a folder that can be written to"
        ) from None


def _scalars(progress: Progress) -> dict[str, float]:
    record = progress.record
    found = {
        "loss": record.loss,
        "schedule/p": record.p,
        "schedule/eps": record.eps,
        "schedule/lr": record.lr,
        "weights/spread": record.spread,
        "test/clean": record.clean,
        "test/certified": record.certified,
    }
    # An infinite p ends its curve.
    return {name: value for name, value in found.items() if value is not None and math.isfinite(value)}


@contextmanager
def _progress(epochs: int) -> Iterator[tuple[Callable[[Progress], None], Callable[[str], None]]]:
    """Yields what shows progress on stderr, a bar on a terminal, else now and then a line; and what prints one."""
    if not sys.stderr.isatty():
        yield _print_tenths, lambda line: click.echo(line, err=True)
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

        def show(progress: Progress) -> None:
            bar.update(task, completed=progress.epoch, description=_describe(progress))

        yield show, lambda line: bar.console.print(line, markup=False, highlight=False, soft_wrap=True)


def _print_tenths(progress: Progress) -> None:
    if progress.epoch * 10 // progress.epochs > (progress.epoch - 1) * 10 // progress.epochs:
        click.echo(f"epoch {progress.epoch}/{progress.epochs}  {_describe(progress)}", err=True)


def _describe(progress: Progress) -> str:
    dials, evaluation = progress.dials, progress.evaluation
    seconds = progress.seconds[progress.phase]
    text = (
        f"loss {progress.loss:.3f}  p {dials.p:.3g}  lr {dials.lr:.1g}  {seconds:.2g} s/epoch at {progress.phase}"
    )
    if evaluation is None:
        return text
    return f"{text}  clean {evaluation.clean:.1%}  certified {evaluation.certified:.1%}"


def _summary(evaluation: Evaluation) -> str:
    return (
        f"clean {evaluation.clean:.2%}, certified at eps {evaluation.eps:g} {evaluation.certified:.2%} "
        f"(by margin alone {evaluation.certified_margin:.2%}) of {evaluation.samples} test images"
    )


def _proved(exported: Exported) -> str:
    return (
        f"certified after export: {exported.certified:.2%} (E, {exported.levels} of 255 levels, "
        f"{exported.samples:,} test images; clean {exported.clean:.2%})"
    )
