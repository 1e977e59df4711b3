# SPDX-License-Identifier: Apache-2.0
"""Edge bundles of small nets, written through the package's own functions."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from small_nets import NET, SHAPE, exported, random_images, traced

from linfdeploy.engines.bundle.golden import GoldenImages
from linfdeploy.engines.bundle.record import BundleRecord
from linfdeploy.engines.bundle.write import BundleOptions, edge_model, write_bundle
from linfdeploy.onnx.export import DEFAULT_GRID, pixel_net_from_chain
from linfdeploy.onnx.pixel_net import PixelNet, Precision
from linfdeploy.onnx.write import Form
from linfdeploy.verify.golden import golden_images
from linfdeploy.verify.summary import TestSet

__all__ = ["bundle_at", "change_record", "commands", "images", "model_at"]

EPS, LEVELS = "12px", 12
LABELLED = 20


@functools.cache
def _net() -> PixelNet:
    return pixel_net_from_chain(traced(NET), "exact", DEFAULT_GRID)


def images(seed: int = 0) -> GoldenImages:
    """Labelled images and probes for `NET`."""
    labels = (np.arange(LABELLED) % NET.spec.classes).astype(np.int64)
    data = TestSet("noise", random_images(LABELLED, SHAPE, seed), labels)
    return golden_images(_net(), data, LEVELS, seed)


def model_at(path: Path, precision: Precision = "exact", form: Form = "function", radius: bool = True) -> Path:
    path.write_bytes(exported(precision, form, radius))
    return path


def bundle_at(
    folder: Path,
    target: str = "jetpack7.2",
    precision: Precision = "exact",
    form: Form = "function",
    radius: bool = True,
) -> BundleRecord:
    """Writes a bundle of `NET`; the model it is made from lies beside it."""
    model = edge_model(model_at(folder.with_suffix(".onnx"), precision, form, radius), target)
    return write_bundle(folder, model, images(), BundleOptions(target, EPS, 0))


def change_record(folder: Path, change: Callable[[Any], None]) -> None:
    """Changes `bundle.json` as data."""
    path = folder / "bundle.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def commands(folder: Path) -> list[str]:
    """The commands of the README: the indented lines that are no hashes."""
    lines = re.findall(r"^ {4}(.*)$", (folder / "README.md").read_text("utf-8"), re.MULTILINE)
    return [line for line in lines if not re.match(r"[0-9a-f]{64} ", line)]
