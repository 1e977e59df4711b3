# SPDX-License-Identifier: Apache-2.0
"""`linfdeploy build model.onnx model.engine`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from linfdeploy.cli.options import PATH, one_line, parse_batches, parse_options

__all__ = ["command"]

FILE = click.Path()


@click.command()
@click.argument("model", type=PATH)
@click.argument("engine", type=PATH, required=False)
@click.option(
    "--backend",
    type=click.Choice(["tensorrt", "onnxruntime", "tensorrt-rtx"]),
    help="[default: the first that runs here]",
)
@click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), help="ONNX Runtime.  [default: cuda if it can]"
)
@click.option(
    "--threads", type=click.IntRange(1, 1024), help="ONNX Runtime: threads of an inference.  [default: its own]"
)
@click.option(
    "--custom-ops",
    type=click.Choice(["auto", "on", "off"]),
    help="ONNX Runtime: LinfDist as a custom op, or as the graph's function.  [default: on where it can be]",
)
@click.option(
    "--plugin",
    type=click.Choice(["library", "embedded", "aot", "none"]),
    help="TensorRT: LinfDist as a plugin from a library, from a library inside the engine, compiled into the "
    "engine ahead of time (TensorRT 10.9 and later), or as the graph's function.  [default: library]",
)
@click.option("--plugin-library", type=FILE, help="TensorRT: the plugins' library.  [default: built here, once]")
@click.option("--tensorrt-root", type=FILE, help="TensorRT: the folder of its headers, for building the library.")
@click.option(
    "--batch",
    callback=parse_batches,
    metavar="SIZES",
    help="TensorRT: smallest, usual and largest batch.  [default: 1:64:256]",
)
@click.option(
    "--workspace", type=click.IntRange(1), metavar="MIB", help="TensorRT: most scratch memory of a layer."
)
@click.option(
    "--hardware",
    type=click.Choice(["same", "same-capability", "ampere+"]),
    help="TensorRT: on which GPUs the engine is to run.  [default: same]",
)
@click.option("--timing-cache", type=FILE, help="TensorRT: a file of timings; a second build is quicker.")
@click.option("--refit", is_flag=True, default=None, help="TensorRT: an engine whose weights can be exchanged.")
@click.option("--cuda-graph/--no-cuda-graph", default=None, help="TensorRT: repeated batches as one CUDA graph.")
@click.option("--refit-from", type=PATH, help="TensorRT: take this engine and exchange its weights for MODEL's.")
def command(
    model: Path, engine: Path | None, backend: str | None, refit_from: Path | None, **options: Any
) -> None:
    """Builds ENGINE from the ONNX file MODEL, with a manifest of hashes and versions beside it.

    MODEL may be the folder of an edge bundle: ENGINE is then model.engine in it and the backend tensorrt, unless
    others are named.

    Where this machine can run it, the engine is run once against the bit-exact evaluator before it is written. A
    TensorRT engine also gets the model beside it, which `verify` reads.
    """
    from linfdeploy.cli.steps import build, places_of_build, refit

    model, engine, chosen = places_of_build(model, engine, backend)
    given = parse_options(**options)
    if refit_from is None:
        facts, *notes = build(model, engine, chosen, given)
    elif given or backend:
        name = next(iter(given), "backend").replace("_", "-")
        raise click.UsageError(f"--{name} does not go with --refit-from, which keeps the engine's options")
    else:
        facts, *notes = refit(model, refit_from, engine)
    click.echo(f"wrote {engine}: {facts}")
    for note in notes:
        click.echo(one_line(note))
