# SPDX-License-Identifier: Apache-2.0
"""Is this the engine that was built, from the net that was signed off, in the precision that was promised?"""

from __future__ import annotations

from collections.abc import Iterator

from linfdeploy.engines.manifest import Manifest
from linfdeploy.onnx.pixel_net import PixelNet, Precision
from linfdeploy.onnx.read import DeployedGraph
from linfdeploy.report.model import Violation
from linfdeploy.verify.differences import weight_differences

__all__ = ["identity_violations", "promised_precision"]


def promised_precision(
    graph: DeployedGraph, manifest: Manifest | None, asked: Precision | None = None
) -> Precision:
    """Returns the precision the user asked for, else the manifest's, else the metadata's, else what is found."""
    if asked is not None:
        return asked
    if manifest is not None:
        return manifest.precision
    return graph.claimed_precision or graph.net.precision


def identity_violations(
    graph: DeployedGraph,
    manifest: Manifest | None,
    expected: PixelNet | None,
    asked: Precision | None = None,
) -> Iterator[Violation]:
    """Yields what is not as it was built, promised or signed off.

    Args:
        graph: Read from the engine's own file.
        manifest: Of the build, if there is one.
        expected: What the reference checkpoint exports to in the promised precision, if there is a reference.
        asked: The precision that the user says was promised; whoever changes an engine can change its manifest.
    """
    if manifest is not None and manifest.graph_sha256 != graph.sha256:
        # Whoever opens a plan has compared its own hash before it was loaded.
        yield Violation(
            "engine file",
            f"its SHA-256 is {graph.sha256}; the manifest of its build says {manifest.graph_sha256}",
        )
    for departure in graph.departures:
        yield Violation("graph", departure)
    promised = promised_precision(graph, manifest, asked)
    if promised != graph.net.precision:
        yield Violation("precision", f"{promised} was promised; the weights prove {graph.net.precision} only")
    if expected is not None:
        yield from weight_differences(graph.net, expected)
