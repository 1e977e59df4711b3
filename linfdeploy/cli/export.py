# SPDX-License-Identifier: Apache-2.0
"""`linfdeploy export CKPT model.onnx`."""

from __future__ import annotations

from pathlib import Path

import click

from linfdeploy.cli.options import PATH

__all__ = ["command"]


@click.command()
@click.argument("checkpoint", type=PATH)
@click.argument("model", type=PATH)
@click.option(
    "--precision",
    type=click.Choice(["exact", "fp32", "fp16"]),
    default="exact",
    show_default=True,
    help="exact: float32 on a dyadic grid, so that no operation rounds.",
)
@click.option(
    "--grid",
    type=click.IntRange(0, 23),
    show_default="12, or the finest that has room for the values; what the weights of sorted distances leave",
    help="exact: multiples of 2^-GRID pixel.",
)
@click.option(
    "--form",
    type=click.Choice(["auto", "function", "op", "standard"]),
    default="auto",
    show_default=True,
    help="function: the custom op, and its body for runtimes without it; op: without the body (TensorRT before "
    "10.7); standard: no custom op at all. auto: function; standard for convolutions in fp16.",
)
@click.option(
    "--radius", is_flag=True, help="The graph also outputs its label and its certified radius in pixels."
)
@click.option(
    "--opset", type=click.IntRange(18, 22), default=18, show_default=True, help="Version of the standard ops."
)
def command(
    checkpoint: Path, model: Path, precision: str, grid: int | None, form: str, radius: bool, opset: int
) -> None:
    """Exports CHECKPOINT as the ONNX file MODEL, in pixel units, ready to deploy."""
    from linfdeploy.cli.steps import export

    facts = export(checkpoint, model, precision=precision, grid=grid, form=form, radius=radius, opset=opset)
    click.echo(f"wrote {model}: {facts}")
