# SPDX-License-Identifier: Apache-2.0
"""The README of a bundle: the commands for its target, each on a line that can be copied."""

from __future__ import annotations

import functools
import importlib.resources
from typing import TYPE_CHECKING

from linfdeploy.engines.bundle.record import GOLDEN, MODEL, BundleRecord
from linfdeploy.engines.bundle.targets import TARGETS, Target

if TYPE_CHECKING:
    from jinja2 import Template

__all__ = ["readme"]

PLAN = "model.plan"
LIBRARY = "build/liblinfdeploy_tensorrt.so"
BATCHES = {"min": 1, "opt": 64, "max": 256}
"""Of the profile, as `build` has it."""


def readme(record: BundleRecord) -> bytes:
    """Returns the README of a bundle.

    Args:
        record: With the hashes of the other files.
    """
    target = TARGETS[record.target]
    page = _template().render(
        record=record,
        target=target,
        python=python_commands(record, target),
        native=native_commands(record, target),
        shown=[name for name in sorted(record.files) if name == MODEL or name.startswith(GOLDEN)],
        largest=BATCHES["max"],
    )
    return page.encode("utf-8")


def python_commands(record: BundleRecord, target: Target) -> list[str]:
    """Returns the three commands of a device that has Python."""
    return [
        f'python3 -m pip install "linfdeploy[tensorrt]=={record.versions["linfdeploy"]}" "{target.package}"',
        "linfdeploy build .",
        "linfdeploy verify . --attack none --report report",
    ]


def native_commands(record: BundleRecord, target: Target) -> list[str]:
    """Returns the commands of a device without Python; without a plugin there is nothing but the plan to build."""
    if record.form == "standard":
        return [_trtexec(record, target)]
    architectures = ";".join(str(number) for number in target.boards.values())
    return [
        "cmake -S plugin/plugins_trt -B build -DLINFDEPLOY_RUNNER=ON "
        f'"-DCMAKE_CUDA_ARCHITECTURES={architectures}" && cmake --build build',
        _trtexec(record, target),
        f"build/verify_golden {PLAN} {GOLDEN} --plugin {LIBRARY}",
    ]


def _trtexec(record: BundleRecord, target: Target) -> str:
    size = "x".join(str(length) for length in record.input_shape)
    shapes = (f"--{name}Shapes=image:{batch}x{size}" for name, batch in BATCHES.items())
    words = [
        target.trtexec,
        f"--onnx={MODEL}",
        f"--saveEngine={PLAN}",
        *([] if record.form == "standard" else [f"--dynamicPlugins={LIBRARY}"]),
        *shapes,
        *(["--stronglyTyped"] if target.strongly_typed else []),
        "--skipInference",
    ]
    return " ".join(words)


@functools.cache
def _template() -> Template:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    text = importlib.resources.files("linfdeploy.engines.bundle").joinpath("readme.md").read_text("utf-8")
    return environment.from_string(text)
