# SPDX-License-Identifier: Apache-2.0
"""An engine and enough images for several chunks; and what a report says, but for when."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from pixel_nets import random_images, random_net

from linfdeploy.engines.build import engine_from_onnx
from linfdeploy.engines.reference import ReferenceEngine
from linfdeploy.onnx.pixel_net import Precision
from linfdeploy.onnx.write import GraphOptions, model_from_net

__all__ = ["IMAGES", "figures", "made_in", "verify_command"]

IMAGES = 300
"""Four chunks."""


def made_in(folder: Path, precision: Precision = "exact") -> Path:
    """Writes the files that `verify_command` names."""
    net = random_net((6, 9, 5), precision, 3)
    grid = {} if net.grid is None else {"grid": str(net.grid)}
    model = model_from_net(net, GraphOptions(), {"precision": precision, **grid})
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    options = {"device": "cpu", "threads": 1, "custom_ops": "auto"}
    engine_from_onnx(folder / "model.onnx", folder / "model.engine", "onnxruntime", options)
    images = random_images(net, IMAGES, 3)
    labels = ReferenceEngine(net).run(images).argmax(1)
    labels[::7] = 0
    np.savez(folder / "data.npz", images=images, labels=labels)
    return folder


def verify_command(folder: Path, report: Path, *options: str) -> list[str]:
    """The arguments of an audit."""
    engine, data = (str(folder / name) for name in ("model.engine", "data.npz"))
    common = ["--data", data, "--eps", "9px", "--report", str(report)]
    return ["verify", engine, *common, *(options or ("--attack", "fast"))]


def figures(report: Path) -> dict[str, object]:
    """Every figure of a report, and the bytes of what lies beside it."""
    data = json.loads((report / "report.json").read_text())
    del data["created"]
    beside = {path.name: path.read_bytes() for path in report.iterdir() if path.suffix in {".csv", ".npz", ".png"}}
    return {**beside, "report": json.dumps(data, sort_keys=True)}
