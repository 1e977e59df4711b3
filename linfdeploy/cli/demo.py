# SPDX-License-Identifier: Apache-2.0
"""`linfdeploy demo`: the whole way on real handwritten digits."""

from __future__ import annotations

from pathlib import Path

import click

from linfdeploy.cli.options import PATH

__all__ = ["command"]

RECIPE = "digits-0.1"
EPS = "0.1"


@click.command()
@click.option("-o", "--output", type=PATH, default=Path("demo"), show_default=True, help="The folder to write.")
@click.pass_context
def command(ctx: click.Context, output: Path) -> None:
    """Trains, exports, builds and verifies a net for the digits of scikit-learn, in under two minutes."""
    from linfdeploy.cli import build, export, train, verify

    checkpoint, model, engine = output / "ckpt.pt", output / "model.onnx", output / "model.engine"
    click.echo("1/4 train")
    ctx.invoke(train.command, recipe=RECIPE, output=checkpoint, certify=False)
    click.echo("2/4 export")
    ctx.invoke(export.command, checkpoint=checkpoint, model=model, radius=True)
    click.echo("3/4 build")
    ctx.invoke(build.command, model=model, engine=engine)
    click.echo("4/4 verify")
    ctx.invoke(
        verify.command, engine=engine, reference=checkpoint, data="digits", eps=EPS, report=output / "report"
    )
