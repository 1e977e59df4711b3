# SPDX-License-Identifier: Apache-2.0
"""Programs linked with a mock of TensorRT and of CUDA's runtime, `plugins_trt/mock_nvinfer`, and plans for it."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from emulated import Emulated
from trt_headers import PLUGINS

MOCK = Path(__file__).parent / "plugins_trt" / "mock_nvinfer"

Floats = npt.NDArray[np.float32]

# The interfaces of which the mock implements a few functions, and the namespace of each.
STUBBED = {
    "VRuntime": "nvinfer1::apiv",
    "VCudaEngine": "nvinfer1::apiv",
    "VExecutionContext": "nvinfer1::apiv",
    "IPluginRegistry": "nvinfer1",
}
START = """#pragma once
#include <NvInferRuntime.h>
#include "faults.h"
#pragma GCC diagnostic ignored "-Wunused-parameter"
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
"""


def stubs(headers: Path) -> str:
    """C++: for each interface, of this release, a class whose functions all end the program."""
    text = "\n".join(re.sub(r"//.*", "", path.read_text()) for path in sorted(headers.glob("*.h")))
    return START + "".join(_stub(name, text) for name in STUBBED)


def _stub(name: str, text: str) -> str:
    found = re.search(rf"^class {name}\b[^;{{]*\{{(.*?)^\}};", text, re.MULTILINE | re.DOTALL)
    assert found, name
    functions = re.findall(r"virtual\s+([^;]*?)\b(\w+)\(([^;]*)\)([^;()]*?)= 0;", found[1])
    lines = [
        f'  {kind}{function}({given}){after}override {{ mock::misused("{name}::{function}"); }}'
        for kind, function, given, after in functions
        if "~" not in kind
    ]
    body = "\n".join(lines)
    stub = f"{name.removeprefix('I')}Stub"
    return f"namespace {STUBBED[name]} {{\nclass {stub} : public {name} {{\n public:\n{body}\n}};\n}}\n"


RUNNER = PLUGINS / "runner" / "verify_golden.cpp"


def runner_build(folder: Path, headers: Path, *flags: str) -> Emulated:
    """What compiles verify_golden and the mock with these headers of TensorRT, under sanitizers."""
    (folder / "stubs.h").write_text(stubs(headers))
    return Emulated(folder, sanitize="address,undefined", flags=("-O0", f"-I{folder}", f"-I{MOCK}", *flags))


def program(build: Emulated) -> Path:
    """verify_golden, linked with the mock."""
    return build.program_without_kernels("verify_golden", [*sorted(MOCK.glob("*.cpp")), RUNNER])


def program_with_tensorrt(build: Emulated, library: Path) -> Path:
    """verify_golden, linked with a real library of TensorRT and the mock of CUDA's runtime."""
    return build.program_without_kernels(library.name, [MOCK / "cudart.cpp", RUNNER], [library])


def release_of(headers: Path) -> tuple[int, int, int]:
    """Major, minor and patch of the release that headers are of."""
    numbers = dict(re.findall(r"#define (\w+) (\w+)", (headers / "NvInferVersion.h").read_text()))
    values = [numbers[f"NV_TENSORRT_{part}"] for part in ("MAJOR", "MINOR", "PATCH")]
    major, minor, patch = (int(numbers.get(value, value)) for value in values)
    return major, minor, patch


@dataclass
class Plan:
    """A plan of the mock, see `plan.h`, and a net.

    Attributes:
        version: Of TensorRT, such as 100300.
        layers: Weights (O, I) and biases (O) of each layer.
        image: Channels, height and width.
        fixed: Whether the batch is always `most`.
        outputs: 1 for a label, 2 for a radius, 3 for both.
    """

    version: int
    layers: list[tuple[Floats, Floats]]
    image: tuple[int, int, int]
    compute: int = 87
    host_code: int = 0
    least: int = 1
    most: int = 8
    fixed: int = 0
    outputs: int = 3
    oddity: int = 0
    slack: float = 0.25

    def written(self) -> bytes:
        """The bytes of the file."""
        head = (self.version, self.compute, self.host_code, self.least, self.most, self.fixed, *self.image)
        start = struct.pack("<8s12if", b"MOCKPLAN", *head, len(self.layers), self.outputs, self.oddity, self.slack)
        return start + b"".join(
            struct.pack("<2i", *weight.shape) + weight.tobytes() + bias.tobytes() for weight, bias in self.layers
        )

    def answers(self, images: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[np.generic]]:
        """What the net answers, computed plainly: (N, K) float32 logits, (N) int64 labels, (N) float32 radii."""
        values = images.reshape(len(images), -1).astype(np.float32)
        for weight, bias in self.layers:
            values = np.abs(values[:, None, :] - weight[None]).max(axis=2) + bias
        logits = -values
        ordered = np.sort(logits, axis=1)
        radius = np.maximum(
            np.float32(0), (ordered[:, -1] - ordered[:, -2] - np.float32(self.slack)) / np.float32(2)
        )
        return {"logits": logits, "label": logits.argmax(axis=1), "radius": radius}
