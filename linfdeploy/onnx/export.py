# SPDX-License-Identifier: Apache-2.0
"""From a checkpoint to the deployable ONNX model."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

import onnx
from onnx import ModelProto

from linfdeploy import __version__
from linfdeploy.errors import ExportError
from linfdeploy.nets.net import LinfNet
from linfdeploy.onnx.chain import Chain, Distance
from linfdeploy.onnx.passes.fold import fold_head, fold_normalization
from linfdeploy.onnx.passes.ranges import check_exact, check_finite, exactness_gap, value_ranges
from linfdeploy.onnx.passes.round import round_distances, round_head
from linfdeploy.onnx.pixel_net import PixelNet, Precision
from linfdeploy.onnx.sorting import sorting_net_from_chain
from linfdeploy.onnx.trace import chain_from_net
from linfdeploy.onnx.write import GraphOptions, form_gap, model_from_net

__all__ = [
    "DEFAULT_GRID",
    "ExportOptions",
    "model_from_checkpoint_net",
    "pixel_net_from_chain",
    "pixel_net_from_net",
]

DEFAULT_GRID = 12
"""Multiples of 2^-12 pixel: moves a six-layer net by at most 0.0015 pixel, and leaves room for 4096 pixels."""

COARSEST_GRID = 6
"""The coarsest grid taken unasked: leaves room for 2^18 pixels, and moves a six-layer net by at most 0.1 pixel."""


@dataclass(frozen=True)
class ExportOptions:
    """What is exported: number format, grid and graph form.

    Without a grid it is DEFAULT_GRID, or the finest one below, down to COARSEST_GRID, that leaves room for the
    net's values; where there are sorted distances, what their weights leave.
    """

    precision: Precision = "exact"
    grid: int | None = None
    graph: GraphOptions = field(default_factory=GraphOptions)


def pixel_net_from_net(net: LinfNet, precision: Precision, grid: int | None) -> PixelNet:
    """Traces a net, folds it into pixel units and rounds it to the deployed format.

    Args:
        net: In evaluation mode at p = inf.
        precision: `exact` snaps to multiples of 2^-grid pixel and proves that nothing rounds in float32.
        grid: k of the grid, used by `exact` only; None: as `ExportOptions` says.

    Raises:
        ExportError: The net cannot keep the promise; the numbers say why.
    """
    return pixel_net_from_chain(chain_from_net(net), precision, grid)


def pixel_net_from_chain(chain: Chain, precision: Precision, grid: int | None) -> PixelNet:
    """Does what `pixel_net_from_net` does, from a net that was traced before.

    Raises:
        ExportError: The net cannot keep the promise; the numbers say why.
    """
    if any(isinstance(step, Distance) and step.sort is not None for step in chain.steps):
        return sorting_net_from_chain(chain, precision, grid)
    folded = fold_normalization(chain)
    if precision == "exact":
        pixel_net = _on_finest_grid(folded) if grid is None else _rounded(folded, precision, grid)
        check_exact(pixel_net, pixel_net.grid or 0)
    else:
        pixel_net = _rounded(folded, precision, None)
    check_finite(pixel_net)
    return pixel_net


def _on_finest_grid(folded: Chain) -> PixelNet:
    """Rounds to the finest grid on which nothing rounds; to the default one where there is none."""
    for grid in range(DEFAULT_GRID, COARSEST_GRID - 1, -1):
        pixel_net = _rounded(folded, "exact", grid)
        if exactness_gap(pixel_net, grid) is None:
            return pixel_net
    return _rounded(folded, "exact", DEFAULT_GRID)


def _rounded(folded: Chain, precision: Precision, grid: int | None) -> PixelNet:
    layers, centre = round_distances(folded, precision, DEFAULT_GRID if grid is None else grid)
    return PixelNet(folded.input_shape, layers, grid, round_head(fold_head(folded), precision), centre)


def model_from_checkpoint_net(net: LinfNet, options: ExportOptions, checkpoint_sha256: str) -> ModelProto:
    """Exports a net; see `docs/operators.md` for the graph.

    Args:
        net: In evaluation mode at p = inf.
        options: What to export.
        checkpoint_sha256: Recorded in the metadata.

    Raises:
        ExportError: The net cannot keep what the precision promises.
    """
    if options.graph.radius and net.spec.head:
        raise ExportError(
            "the net has a head, through which no radius follows from the logits; expected a net of distance "
            "layers alone: leave out --radius, and have verify find each sample's"
        )
    pixel_net = pixel_net_from_net(net, options.precision, options.grid)
    if reason := form_gap(pixel_net, options.graph.form):
        other = ", or --precision exact or fp32" if options.precision == "fp16" else ""
        raise ExportError(f"{reason}: use --form standard{other}")
    metadata = {
        "format": "linfdeploy.onnx/1",
        "linfdeploy": __version__,
        "spec": json.dumps(net.spec.to_json()),
        "precision": options.precision,
        "ranges": json.dumps([asdict(layer) for layer in value_ranges(pixel_net)]),
        "checkpoint_sha256": checkpoint_sha256,
    }
    if pixel_net.grid is not None:
        metadata["grid"] = str(pixel_net.grid)
    model = model_from_net(pixel_net, options.graph, metadata)
    try:
        onnx.checker.check_model(model, full_check=True)
    except onnx.checker.ValidationError as error:
        raise ExportError(f"the ONNX checker refuses the graph: {str(error).splitlines()[0]}") from None
    return model
