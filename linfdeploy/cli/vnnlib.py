# SPDX-License-Identifier: Apache-2.0
"""`linfdeploy vnnlib model.onnx -o instances/`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from linfdeploy.cli.options import PATH

__all__ = ["command"]


@click.command()
@click.argument("model", type=PATH)
@click.option("-o", "--out", type=PATH, required=True, help="The folder to write; new or empty.")
@click.option(
    "--data",
    default="digits",
    show_default=True,
    help="digits, mnist, cifar10, ... (docs/data.md), or a .npz file.",
)
@click.option("--data-root", type=PATH, help="The folder of the data set.  [default: ./data]")
@click.option(
    "--eps", default="0.1", show_default=True, help="8/255, 0.3 (of the pixel range) or 8px; read exactly."
)
@click.option("--threat-model", type=click.Choice(["pixels", "real"]), default="pixels", show_default=True)
@click.option("--samples", type=int, default=100, show_default=True, help="Only the first SAMPLES test images.")
@click.option("--version", type=click.Choice(["2.0", "1.0"]), default="2.0", show_default=True, help="Of VNN-LIB.")
@click.option(
    "--timeout", type=click.IntRange(1), default=300, show_default=True, help="Seconds, in instances.csv."
)
def command(out: Path, **request: Any) -> None:
    """Writes instances for other verifiers: MODEL in plain operators, and a property for each image it gets right.

    A property says by what it would be refuted: unsat means certified. known.csv says what our own certificate
    by margin knows beforehand.
    """
    from linfdeploy.cli.steps import VnnlibRequest, write_instances

    click.echo(f"wrote {out}: {write_instances(VnnlibRequest(out=out, **request))}")
