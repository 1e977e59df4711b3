# SPDX-License-Identifier: Apache-2.0
"""`linfdeploy bundle model.onnx -o bundle/`."""

from __future__ import annotations

from typing import Any

import click

from linfdeploy.cli.options import PATH, one_line

__all__ = ["command"]


@click.command()
@click.argument("model", type=PATH)
@click.option("-o", "--output", type=PATH, required=True, help="The folder to write; new or empty.")
@click.option(
    "--data",
    default="digits",
    show_default=True,
    help="digits, mnist, cifar10, ... (docs/data.md), or a .npz file.",
)
@click.option("--data-root", type=PATH, help="The folder of the data set.  [default: ./data]")
@click.option(
    "--samples", type=int, default=256, show_default=True, help="Only the first SAMPLES test images, with labels."
)
@click.option(
    "--eps", default="0.1", show_default=True, help="What the device verifies: 8/255, 0.3 or 8px; read exactly."
)
@click.option(
    "--target",
    # Those of linfdeploy.engines.bundle.targets, which is not imported to show the help.
    type=click.Choice(["jetpack6", "jetpack7", "jetpack7.2", "tensorrt10", "tensorrt11"]),
    default="jetpack7.2",
    show_default=True,
    help="The device's software, for which the README has the commands.",
)
@click.option(
    "--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True, help="Of everything random."
)
def command(**request: Any) -> None:
    """Packs MODEL for an edge device: all that it needs to build the engine and to check its bits.

    The folder holds the model, the plugin's sources, golden images with the bits that every engine must answer,
    hashes, and a README with the commands.
    """
    from linfdeploy.cli.steps import BundleRequest, bundle

    facts, *notes = bundle(BundleRequest(**request))
    click.echo(one_line(f"wrote {request['output']}: {facts}"))
    for note in notes:
        click.echo(note)
