# SPDX-License-Identifier: Apache-2.0
"""Writing an edge bundle. The same model, images and options give the same bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto

from linfdeploy import __version__
from linfdeploy.engines.base import Answers
from linfdeploy.engines.bundle.golden import GoldenImages, golden_answers, npy_from_array
from linfdeploy.engines.bundle.readme import readme
from linfdeploy.engines.bundle.record import (
    GOLDEN,
    MAX_TEXT,
    MODEL,
    NAME,
    README,
    BundleRecord,
    record_bytes,
    record_of,
)
from linfdeploy.engines.bundle.sources import plugin_sources
from linfdeploy.engines.bundle.targets import TARGETS
from linfdeploy.errors import EngineError
from linfdeploy.files import read_bytes, write_folder
from linfdeploy.onnx.read import MAX_BYTES, DeployedGraph, read_graph

__all__ = ["BundleOptions", "EdgeModel", "edge_model", "write_bundle"]


@dataclass(frozen=True)
class BundleOptions:
    """What a bundle is for.

    Attributes:
        target: One of TARGETS.
        eps: The radius to verify with, as text, such as "0.1" or "8/255".
        seed: Of what was random in the images.
    """

    target: str
    eps: str
    seed: int


@dataclass(frozen=True)
class EdgeModel:
    """A graph that the target can build, and the bytes of its file, which needs no other file."""

    graph: DeployedGraph
    data: bytes


def edge_model(path: Path, target: str) -> EdgeModel:
    """Reads the model for a bundle.

    Args:
        path: The ONNX file.
        target: One of TARGETS.

    Raises:
        InputError: The file cannot be read or holds something else than our nets.
        EngineError: It departs from what is exported, or the target would silently leave out the plugin.
    """
    graph = read_graph(path)
    if graph.departures:
        raise EngineError(f"{path}: {graph.departures[0]}; expected a graph as exported: export it again")
    if graph.net.sorts:
        raise EngineError(
            f"{path} has sorted distances (SortDist), which TensorRT has no plugin for yet; expected LinfDist "
            "alone: build it with --backend onnxruntime"
        )
    if graph.net.head is not None:
        raise EngineError(
            f"{path} has a head, whose bits differ between machines, so that there are no golden ones; expected a "
            "net of distance layers alone: build and verify it on the device itself"
        )
    goal = TARGETS[target]
    if graph.options.form == "function" and goal.prefers_functions:
        raise EngineError(
            f"{path} has the form function; TensorRT {goal.releases} ({target}) takes the function and leaves out "
            "the plugin without a word: export it again with --form op"
        )
    data = read_bytes(path, MAX_BYTES, "an ONNX model")
    if any(tensor.external_data for tensor in ModelProto.FromString(data).graph.initializer):
        # What lay in other files is inside the graph that was read.
        data = graph.model.SerializeToString(deterministic=True)
    return EdgeModel(graph, data)


def write_bundle(path: Path, model: EdgeModel, golden: GoldenImages, options: BundleOptions) -> BundleRecord:
    """Writes a bundle: a new folder that is either whole or absent.

    Args:
        path: The folder; new or empty.
        model: From `edge_model`, for the same target.
        golden: Images that fit the model.
        options: What the bundle is for.

    Returns:
        What `bundle.json` says.

    Raises:
        InputError: The folder holds something or cannot be written, or the plugins' sources are not installed.
        EngineError: This machine's evaluator computes wrongly.
    """
    answers = golden_answers(model.graph, golden.images)
    needs_plugin = model.graph.options.form != "standard"
    files = {
        MODEL: model.data,
        **_golden_files(golden, answers),
        **(plugin_sources() if needs_plugin else {}),
    }
    record = _record(model.graph, golden, options, files)
    files[README] = readme(record)
    record = replace(record, files={name: record_of(data) for name, data in sorted(files.items())})
    write_folder(path, {**files, NAME: record_bytes(record)})
    return record


def _shown(name: str) -> str:
    """Returns a data set's name without the folders of whoever makes the bundle, and fit to be printed."""
    return "".join(char if char.isprintable() else "?" for char in Path(name).name)[:MAX_TEXT] or "?"


def _golden_files(golden: GoldenImages, answers: Answers) -> dict[str, bytes]:
    arrays = {"images": golden.images, "labels": golden.labels, **answers}
    return {f"{GOLDEN}/{name}.npy": npy_from_array(array) for name, array in arrays.items()}


def _record(
    graph: DeployedGraph, golden: GoldenImages, options: BundleOptions, files: Mapping[str, bytes]
) -> BundleRecord:
    net = graph.net
    return BundleRecord(
        target=options.target,
        form=graph.options.form,
        precision=net.precision,
        grid=net.grid,
        input_shape=net.input_shape,
        classes=net.classes,
        radius=graph.options.radius,
        eps=options.eps,
        data=_shown(golden.data),
        images=len(golden.images),
        labelled=golden.labelled,
        probes=golden.probes,
        seed=options.seed,
        golden_bits="required" if net.precision == "exact" else "definition",
        versions={"linfdeploy": __version__, "numpy": np.__version__, "onnx": onnx.__version__},
        files={name: record_of(data) for name, data in files.items()},
    )
