# SPDX-License-Identifier: Apache-2.0
"""`linfdeploy build model.onnx model.engine`."""

from __future__ import annotations

from pathlib import Path

import click

from linfdeploy.cli.options import PATH, one_line, parse_options

__all__ = ["command"]


@click.command()
@click.argument("model", type=PATH)
@click.argument("engine", type=PATH, required=False)
@click.option("--backend", type=click.Choice(["onnxruntime"]), help="[default: the first that runs here]")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="[default: cuda where it is installed]")
@click.option("--threads", type=click.IntRange(1, 1024), help="Threads of an inference.  [default: the backend's]")
@click.option(
    "--custom-ops",
    type=click.Choice(["auto", "on", "off"]),
    help="LinfDist as a custom op of ONNX Runtime, or as the graph's function.  [default: on where it can be]",
)
def command(
    model: Path,
    engine: Path | None,
    backend: str | None,
    device: str | None,
    threads: int | None,
    custom_ops: str | None,
) -> None:
    """Builds ENGINE from the ONNX file MODEL, with a manifest of hashes and versions beside it.

    MODEL may be the folder of an edge bundle: ENGINE is then model.engine in it and the backend tensorrt, unless
    others are named.

    The engine is run once against the bit-exact evaluator before it is written.
    """
    from linfdeploy.cli.steps import build, places_of_build

    model, engine, backend = places_of_build(model, engine, backend)
    options = parse_options(device=device, threads=threads, custom_ops=custom_ops)
    facts, *notes = build(model, engine, backend, options)
    click.echo(f"wrote {engine}: {facts}")
    for note in notes:
        click.echo(one_line(note))
