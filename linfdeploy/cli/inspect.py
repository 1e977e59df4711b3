# SPDX-License-Identifier: Apache-2.0
"""`linfdeploy inspect FILE`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from linfdeploy.cli.options import PATH, one_line
from linfdeploy.errors import MissingExtraError

if TYPE_CHECKING:
    from linfdeploy.onnx.pixel_net import PixelLayer
    from linfdeploy.onnx.read import DeployedGraph

__all__ = ["command"]

# The first bytes of a zip file, which is what torch.save writes.
ZIP_MAGIC = b"PK\x03\x04"


@click.command()
@click.argument("file", type=PATH)
def command(file: Path) -> None:
    """Says what FILE holds: a checkpoint, an ONNX model or an engine."""
    from linfdeploy.files import read_bytes, sha256_of
    from linfdeploy.onnx.read import MAX_BYTES

    data = read_bytes(file, 4 * MAX_BYTES, "a checkpoint, an ONNX model or an engine")
    sha256 = sha256_of(data)
    lines = _checkpoint(file) if data[:4] == ZIP_MAGIC else _graph(file, sha256)
    for name, value in [*lines, ("sha256", sha256)]:
        click.echo(one_line(f"{name:<12} {value}"))


def _checkpoint(file: Path) -> Iterator[tuple[str, object]]:
    try:
        from linfdeploy.nets.checkpoint import FORMAT, load_checkpoint
    except ModuleNotFoundError:
        raise MissingExtraError("inspecting a checkpoint", "train") from None
    checkpoint = load_checkpoint(file)
    spec = checkpoint.net.spec
    yield "file", f"checkpoint, {FORMAT}"
    yield "input", f"{spec.input_shape}, mean {spec.mean}, std {spec.std:g}"
    for index, layer in enumerate(spec.layers):
        yield f"layer {index}", f"{layer.type} {layer.inputs} -> {layer.outputs}, {layer.parts}"
    yield from sorted(((str(name), str(value)) for name, value in checkpoint.provenance.items()))


def _graph(file: Path, sha256: str) -> Iterator[tuple[str, object]]:
    from linfdeploy.engines.manifest import model_path, read_manifest
    from linfdeploy.onnx.read import read_graph

    manifest = read_manifest(file)
    graph = read_graph(file if manifest is None or manifest.file_is_graph else model_path(file))
    yield "file", f"engine of {manifest.backend}" if manifest else "ONNX model"
    if manifest and manifest.engine_sha256 != sha256:
        yield "WARNING", "the file is not the one that was built: its SHA-256 differs from the manifest's"
    if manifest and not manifest.file_is_graph and manifest.graph_sha256 != graph.sha256:
        yield "WARNING", "the model is not the one it was built from: its SHA-256 differs from the manifest's"
    for departure in graph.departures:
        yield "WARNING", departure
    yield "form", f"{graph.options.form}, opset {graph.options.opset}" + (", radius" * graph.options.radius)
    if manifest and "kernel" in manifest.versions:
        yield "kernel", manifest.versions["kernel"]
    if manifest and manifest.layers:
        yield "layers run", ", ".join(f"{node}: {way}" for node, way in manifest.layers.items())
    yield "precision", _precision(graph)
    yield from _layers(graph)


def _precision(graph: DeployedGraph) -> str:
    if graph.net.grid is not None:
        return f"exact: proven from the weights, on a grid of 2^-{graph.net.grid} pixel"
    claim = graph.claimed_precision
    return (
        graph.net.precision if claim in (None, graph.net.precision) else f"{graph.net.precision}; claims {claim}"
    )


def _kind(layer: PixelLayer) -> str:
    name = "LinfDist" if layer.sort is None else "SortDist"
    terms = "" if layer.sort is None else f" of {len(layer.sort)} terms,"
    sizes = f"{layer.inputs} -> {layer.outputs}"
    if (window := layer.window) is None:
        return f"{name}{terms} {sizes}"
    shapes = " to ".join("x".join(map(str, s)) for s in (window.shape, (len(layer.weight), *window.places)))
    moves = f"kernel {window.kernel}, stride {window.stride}, padding {window.padding}"
    return f"{name}Conv{terms} {sizes}, {shapes}, {moves}"


def _layers(graph: DeployedGraph) -> Iterator[tuple[str, object]]:
    from linfdeploy.onnx.passes.ranges import rounding_error, value_ranges

    ranges = value_ranges(graph.net)
    yield "input", f"uint8 (N, {', '.join(map(str, graph.net.input_shape))})"
    for index, (layer, reach) in enumerate(zip(graph.net.layers, ranges, strict=True)):
        yield f"layer {index}", f"{_kind(layer)}, outputs within {reach.output:g} pixels"
    if (head := graph.net.head) is not None:
        for index, weight in enumerate(head.weights):
            yield f"head {index}", f"Gemm {weight.shape[1]} -> {weight.shape[0]}, {weight.dtype}"
    yield "delta", f"{float(rounding_error(graph.net, ranges)):.3g} pixels, if every operation rounded"
