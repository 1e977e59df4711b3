# SPDX-License-Identifier: Apache-2.0
"""`linfdeploy verify ENGINE`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from linfdeploy.cli.options import PATH
from linfdeploy.cli.progress import Notes, progress_bar
from linfdeploy.cli.voice import one_voice

if TYPE_CHECKING:
    from linfdeploy.report.model import Attack, AuditReport, Conformance

__all__ = ["command", "print_report"]

# Chunks take as long as the attack is hard; a process that ends is noticed at once.
PATIENCE = timedelta(days=1)


@click.command()
@click.argument("engine", type=PATH, required=False)
@click.option("--reference", type=PATH, help="The checkpoint that was signed off.")
@click.option(
    "--data",
    help="digits, mnist, cifar10, ... (docs/data.md), or a .npz file.  [default: the bundle's labelled images, "
    "else digits]",
)
@click.option("--data-root", type=PATH, help="The folder of the data set.  [default: ./data]")
@click.option(
    "--eps",
    help="8/255, 0.3 (of the pixel range) or 8px; read exactly.  [default: the bundle's, else 0.1]",
)
@click.option(
    "--threat-model",
    type=click.Choice(["pixels", "real"]),
    default="pixels",
    show_default=True,
    help="pixels: uint8 images within eps; real: real perturbations that a camera rounds.",
)
@click.option("--attack", type=click.Choice(["none", "fast", "standard"]), default="standard", show_default=True)
@click.option("--samples", type=int, help="Only the first SAMPLES test images.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of everything random.")
@click.option(
    "--precision",
    type=click.Choice(["exact", "fp32", "fp16"]),
    help="The precision that was promised.  [default: what the engine's manifest says]",
)
@click.option(
    "--rebuild", is_flag=True, help="Build the engine again and compare, also where that takes minutes (TensorRT)."
)
@click.option("--report", type=PATH, help="The folder to write.  [default: report; compare with --compare]")
@click.option(
    "--compare", type=PATH, nargs=2, help="Audits nothing: puts two reports side by side.", metavar="A B"
)
@click.pass_context
def command(
    ctx: click.Context,
    /,
    engine: Path | None,
    report: Path | None,
    compare: tuple[Path, Path] | None = None,
    **request: Any,
) -> None:
    """Audits ENGINE: does it still keep the certificate?

    ENGINE may be the folder of an edge bundle with an engine in it: the golden answers are compared as well.

    An interrupted audit leaves what it has finished in the report's folder; the same command goes on from there.
    Several processes share the samples when torchrun starts them:
    torchrun --nproc-per-node 2 -m linfdeploy verify ENGINE

    Exit code 0: the verdict is pass; 1: it is fail, and the report says why; 2: something could not be read.

    With --compare A B, two folders of reports or two report.json, nothing is audited; 0: both could be read.
    """
    if compare is not None:
        from linfdeploy.cli.compare import compare_reports

        refuse_other_options(ctx, engine)
        compare_reports(*compare, report or Path("compare"))
        return
    if engine is None:
        raise click.UsageError("no engine is named; expected linfdeploy verify ENGINE, or verify --compare A B")
    from linfdeploy.cli.steps import VerifyRequest, verify
    from linfdeploy.ranks import joined
    from linfdeploy.verify.kept import FOLDER

    asked = VerifyRequest(engine=engine, report=report or Path("report"), **request)
    with (
        joined("an audit in several processes", cuda=False, patience=PATIENCE) as ranks,
        one_voice(ranks),
        progress_bar() if ranks.is_first else nullcontext(Notes(silent=True)) as progress,
    ):
        try:
            found, paths = verify(asked, progress, ranks)
        except KeyboardInterrupt:
            if (kept := asked.report / FOLDER).exists():
                progress.note(f"{kept} keeps what is finished: the same command goes on from there")
            raise
    if ranks.is_first:
        print_report(found)
        click.echo(f"report: {paths.html}")
    # torchrun stops all processes when one ends with another code: the first, which prints, has the last word.
    ctx.exit(1 if found.verdict == "fail" and ranks.is_first else 0)


def refuse_other_options(ctx: click.Context, engine: Path | None) -> None:
    """Refuses what has no meaning for --compare.

    Raises:
        UsageError: An engine or another option than --report was given as well.
    """
    given = [name for name in ctx.params if ctx.get_parameter_source(name) == ParameterSource.COMMANDLINE]
    others = [f"--{name.replace('_', '-')}" for name in given if name not in {"engine", "report", "compare"}]
    if engine is not None or others:
        found = str(engine) if engine is not None else others[0]
        raise click.UsageError(f"--compare takes two reports and --report; found {found} as well: leave it out")


def _within(same: Conformance) -> bool:
    """Whether a head was held against its enclosure, and stayed inside."""
    return bool(same.orders) and all(order.endswith("head: within enclosure") for order in same.orders)


def print_report(report: AuditReport) -> None:
    """Prints the figures before and after deployment side by side, what went wrong, and the verdict."""
    from rich.console import Console

    console = Console(highlight=False)
    console.print(_table(report))
    same = report.conformance
    console.print(
        f"conformance: {same.bit_identical:.2%} of the logits of {same.samples} images are bit-identical "
        f"(at most {same.max_ulp} ulp apart); rounding: {report.engine.variant or 'none matched'}"
        + ("; head: within enclosure" if _within(same) else ""),
        markup=False,
        soft_wrap=True,
    )
    if golden := same.golden:
        console.print(
            f"golden: {golden.bit_identical:.2%} of the logits of {golden.images} images are the bundle's"
        )
    if (same_set := report.certified.same_set) is not None:
        console.print(f"the very same images are certified before and after: {'yes' if same_set else 'no'}")
    for line in _sanity(report.attack):
        console.print(line, markup=False, soft_wrap=True)
    for violation in report.violations:
        where = "" if violation.sample is None else f" (sample {violation.sample})"
        console.print(f"violation, {violation.kind}: {violation.detail}{where}", markup=False, soft_wrap=True)
    console.print(f"verdict: {report.verdict}", style="bold green" if report.verdict == "pass" else "bold red")


def _sanity(attack: Attack | None) -> Iterator[str]:
    """Yields a line for each check of the attacks that failed, or one for all."""
    if attack is None or not attack.sanity:
        return
    failed = [flag for flag in attack.sanity if not flag.passed]
    if not failed:
        yield f"sanity of the attacks: all {len(attack.sanity)} checks passed"
    for flag in failed:
        yield f"sanity of the attacks: {flag.name}: found {flag.found}; expected {flag.expected}"


def _table(report: AuditReport) -> Any:
    from rich.table import Table

    certified, attack = report.certified, report.attack
    levels = f"{report.eps.levels} of 255 levels"
    table = Table(title=f"{report.samples} images of {report.data}, {report.threat_model} within {levels}")
    table.add_column("accuracy")
    table.add_column("before", justify="right")
    table.add_column("deployed", justify="right")
    rows = [
        ("clean", report.accuracy.reference_clean, report.accuracy.clean),
        ("certified by margin: E, exact", certified.reference_margin, certified.exact),
        ("certified by margin: D, delta", certified.reference_margin, certified.delta),
        ("certified by interval: I", certified.reference, certified.interval),
        ("certified with the last layer jointly: J", None, certified.joint),
        (
            "under attack, all together",
            *((attack.reference_robust_accuracy, attack.robust_accuracy) if attack else (None, None)),
        ),
    ]
    for name, before, after in rows:
        table.add_row(name, _percent(before), _percent(after))
    return table


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.2%}"
