# SPDX-License-Identifier: Apache-2.0
"""How long TensorRT for RTX takes to build a net of MNIST's size, and how large its plans are; needs no GPU.

PYTHONPATH=.venv/tensorrt/rtx-1.7.1.116 python benchmarks/rtx_builds.py
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from itertools import product
from pathlib import Path

from timing import cpu_model

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from engines.test_tensorrt_rtx import mnist_net, written

from linfdeploy.engines.build import engine_from_onnx
from linfdeploy.onnx.pixel_net import PRECISIONS
from linfdeploy.onnx.write import GraphOptions

RESULT = Path(__file__).parent / "results" / "rtx_builds.json"
FORMS = ("function", "standard")


def main() -> None:
    """Builds every precision and form once, prints and writes what was measured."""
    rows, release = [], ""
    for precision, form, radius in product(PRECISIONS, FORMS, (False, True)):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            model = written(mnist_net(precision), GraphOptions(form, radius), precision, folder)
            start = time.perf_counter()
            manifest = engine_from_onnx(model, folder / "engine", "tensorrt-rtx", {})
            seconds, release = time.perf_counter() - start, manifest.versions["tensorrt-rtx"]
            size = (folder / "engine").stat().st_size
        row = {"precision": precision, "form": form, "radius": radius, "seconds": round(seconds, 2), "bytes": size}
        print(row)
        rows.append(row)
    found = {
        "net": "784-1024-1024-1024-1024-10",
        "tensorrt-rtx": release,
        "processor": cpu_model(),
        "builds": rows,
    }
    RESULT.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
