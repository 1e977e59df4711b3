# SPDX-License-Identifier: Apache-2.0
"""The ahead-of-time plugins: TensorRT's own Python package plans their kernels, the emulator runs them as planned.

TensorRT's package of 11.4 is imported with a library of the tests in place of libnvinfer, and the registry of the
lean runtime. `aot/host.cpp` does what a builder does with a plugin, through the interfaces of TensorRT's headers.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from emulated import Library, run
from emulator_builds import Builds
from numpy.typing import NDArray
from oracles import linf_dist_conv
from trt_headers import HEADERS, HOW, cuda_headers
from trt_runtimes import runtime

from linfdeploy.errors import EngineError, KernelError, MissingExtraError
from linfdeploy.kernels.cuda.aot import KERNELS
from linfdeploy.kernels.cuda.driver import check_ptx
from linfdeploy.plugins_trt.aot import check_version, register
from linfdeploy.plugins_trt.linf_dist_aot import TACTICS

FOLDER = Path(__file__).parent / "aot"
BINDINGS, LEAN = runtime("full-11"), runtime("lean-11")
PYTHON_HEADERS = [folder for folder in HEADERS if (folder / "impl" / "NvInferPythonPlugin.h").exists()]
FLOAT, HALF, INT8 = 0, 1, 2
STRICT_AOT = 4
LIMIT = 48 * 1024


def _missing() -> str | None:
    """What a plan needs and is not here."""
    if BINDINGS is None or LEAN is None:
        return "TensorRT 11's bindings or lean runtime are not here: make .venv/tensorrt.stamp, on x86-64 Linux"
    if not PYTHON_HEADERS or cuda_headers() is None:
        return f"there are no headers of TensorRT 10.16 or later, or of CUDA: {HOW}"
    try:
        check_ptx()
    except (KernelError, MissingExtraError) as error:
        return str(error)
    return None


needs_tensorrt = pytest.mark.skipif(_missing() is not None, reason=str(_missing()))
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Tensor:
    """A tensor of a network, whose sizes a profile bounds."""

    type: int
    least: Shape
    most: Shape = ()

    def request(self) -> dict[str, Any]:
        most = self.most or self.least
        return {"type": self.type, "least": self.least, "best": self.least, "most": most}


@dataclass(frozen=True)
class Node:
    """A node, and the sizes of its inputs that its kernels are planned for."""

    name: str
    inputs: Sequence[Tensor]
    output: Tensor
    sizes: Sequence[Sequence[Shape]] = ()
    attributes: dict[str, Any] = field(default_factory=dict)
    request: int = 0

    def as_request(self) -> dict[str, Any]:
        tensors = [tensor.request() for tensor in (*self.inputs, self.output)]
        fixed = {"name": self.name, "attributes": self.attributes, "request": self.request}
        return {**fixed, "tensors": tensors, "sizes": self.sizes}


class Builder:
    """A process with TensorRT's Python package that plans kernels."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.host = folder, folder / "libnvinfer.so.11"
        sources = [FOLDER / "libnvinfer.cpp", FOLDER / "host.cpp"]
        headers = [f"-isystem{PYTHON_HEADERS[-1]}", f"-isystem{cuda_headers()}", "-Wno-deprecated-declarations"]
        flags = ["-std=c++17", "-Wall", "-Wextra", "-shared", "-fPIC"]
        done = run("g++", *flags, *headers, *sources, "-ldl", "-o", self.host)
        assert (done.returncode, done.stderr) == (0, "")
        for name in ("libnvinfer_plugin", "libnvonnxparser"):
            (folder / f"{name}.so.11").symlink_to(self.host)

    def run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        libraries = f"{self.folder}{os.pathsep}{LEAN}/tensorrt_lean_libs"
        environment = {**os.environ, "LD_LIBRARY_PATH": libraries, "PYTHONPATH": str(BINDINGS)}
        environment["LINFDEPLOY_CACHE"] = str(self.folder / "cache")
        return subprocess.run(
            [sys.executable, *map(str, command)],
            capture_output=True,
            text=True,
            timeout=300,
            env=environment,
            check=False,
        )

    def plan(self, *nodes: Node, architecture: int = 87) -> tuple[list[dict[str, Any]], str]:
        """What was planned for each node, and what was said meanwhile."""
        request = {"architecture": architecture, "nodes": [node.as_request() for node in nodes]}
        done = self.run(FOLDER / "plan.py", self.host, json.dumps(request))
        assert done.returncode == 0, done.stderr
        found: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
        return found, done.stdout + done.stderr


@pytest.fixture(scope="session")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    return Builder(tmp_path_factory.mktemp("builder"))


@pytest.fixture(scope="session")
def library(builds: Builds) -> Library:
    """The kernels on the emulator."""
    return Library(builds("").library())


def start(
    library: Library, planned: dict[str, Any], launch: dict[str, Any], inputs: Sequence[Any], y: Any
) -> None:
    """Starts a kernel as it was planned: the inputs, the numbers, the output."""
    values = [
        *(ctypes.c_void_p(array.ctypes.data) for array in inputs),
        *map(ctypes.c_int32, launch["numbers"]),
        ctypes.c_void_p(y.ctypes.data),
    ]
    addresses = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
    kernel = ctypes.c_void_p(library.function(planned["name"]))
    code = library.handle.emulated_cuLaunchKernel(kernel, *launch["launch"], None, addresses, None)
    assert code == 0


BATCHES = (0, 1, 4, 9, 26, 65, 129)
LAYERS = ((1, 1), (20, 33), (21, 66))
# Lanes that exchange numbers are slow on the emulator.
MOST_OF_FEW_ROWS = 26


def layer(kind: int, inputs: int, outputs: int, batches: Sequence[int] = BATCHES) -> Node:
    return Node(
        "LinfDist",
        [Tensor(kind, (1, inputs), (256, inputs)), Tensor(kind, (outputs, inputs)), Tensor(kind, (outputs,))],
        Tensor(kind, (1, outputs), (256, outputs)),
        [((batch, inputs), (outputs, inputs), (outputs,)) for batch in batches],
    )


def reference(x: NDArray[Any], w: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    """The definition, rounded to the operands' type after the difference and after the sum."""
    return np.asarray(np.abs(x[:, None] - w[None]).max(axis=2) + b)


@needs_tensorrt
@pytest.mark.parametrize(("kind", "dtype", "prefix"), [(FLOAT, np.float32, "f32"), (HALF, np.float16, "f16")])
def test_kernels_run_as_they_were_planned(
    builder: Builder, library: Library, kind: int, dtype: Any, prefix: str
) -> None:
    rng = np.random.default_rng(kind)
    nodes = [layer(kind, *sizes) for sizes in LAYERS]
    plans, _ = builder.plan(*nodes)
    for node, planned in zip(nodes, plans, strict=True):
        assert planned["type"] == kind
        names = [f"linf_dist_aot_{prefix}_{TACTICS[int(tactic)]}" for tactic in planned["kernels"]]
        assert sorted(names) == sorted(name for name in KERNELS if f"_{prefix}_" in name)
        for kernel in planned["kernels"].values():
            for sizes, launch in zip(node.sizes, kernel["launches"], strict=True):
                x, w, b = (rng.standard_normal(shape).astype(dtype) for shape in sizes)
                if "rows" in kernel["name"] and len(x) > MOST_OF_FEW_ROWS:
                    continue
                y = np.full((len(x), len(w)), 7, dtype)
                assert launch["output"][:2] == [*y.shape]
                assert launch["launch"][6] <= LIMIT
                start(library, kernel, launch, (x, w, b), y)
                assert y.tobytes() == reference(x, w, b).tobytes(), (kernel["name"], sizes)


def window(rng: np.random.Generator) -> tuple[Node, dict[str, list[int]]]:
    """A convolution whose images vary in number and size."""
    channels, filters = (int(rng.integers(1, limit)) for limit in (5, 70))
    pairs = {name: rng.integers(1, 4, 2).tolist() for name in ("kernel_shape", "strides", "dilations")}
    attributes = {**pairs, "pads": rng.integers(0, 4, 4).tolist()}
    attributes = {name: attributes[name] for name in ("kernel_shape", "strides", "pads", "dilations")}
    w = (filters, channels, *attributes["kernel_shape"])
    images = [
        (int(n), channels, int(h), int(width)) for n, h, width in rng.integers((0, 7, 7), (5, 14, 14), (6, 3))
    ]
    inputs = [
        Tensor(FLOAT, (1, channels, 7, 7), (8, channels, 13, 13)),
        Tensor(FLOAT, w),
        Tensor(FLOAT, (filters,)),
    ]
    output = Tensor(FLOAT, (1, filters, 1, 1), (8, filters, 19, 19))
    sizes = [(x, w, (filters,)) for x in images]
    return Node(
        "LinfDistConv", inputs, output, sizes, {**attributes, "group": 1, "auto_pad": "NOTSET"}
    ), attributes


@needs_tensorrt
def test_convolutions_run_as_they_were_planned(builder: Builder, library: Library) -> None:
    rng = np.random.default_rng(1)
    windows = [window(rng) for _ in range(12)]
    plans, _ = builder.plan(*(node for node, _ in windows))
    for (node, attributes), planned in zip(windows, plans, strict=True):
        (kernel,) = planned["kernels"].values()
        for sizes, launch in zip(node.sizes, kernel["launches"], strict=True):
            x, w, b = (rng.standard_normal(shape).astype(np.float32) for shape in sizes)
            strides, pads, dilations = (tuple(attributes[name]) for name in ("strides", "pads", "dilations"))
            expected = linf_dist_conv(x, w, strides, pads, dilations) + b[:, None, None]  # type: ignore[arg-type]
            y = np.full(expected.shape, 7, np.float32)
            assert launch["output"] == [*y.shape]
            start(library, kernel, launch, (x, w, b), y)
            assert y.tobytes() == expected.tobytes(), (sizes, attributes)


@needs_tensorrt
@pytest.mark.parametrize(
    "architecture", [75, 87, 121, *(pytest.param(number, marks=pytest.mark.thorough) for number in (90, 110))]
)
def test_code_has_the_kernel_and_its_arguments_in_order(builder: Builder, architecture: int) -> None:
    rng = np.random.default_rng(2)
    nodes = [layer(FLOAT, 8, 8, [1]), layer(HALF, 8, 8, [1]), window(rng)[0]]
    plans, _ = builder.plan(*nodes, architecture=architecture)
    for planned in plans:
        for kernel in planned["kernels"].values():
            entry, parameters = re.findall(r"^\.visible \.entry (\w+)\((.*?)\)", kernel["code"], re.M | re.S)[0]
            numbers = len(kernel["launches"][0]["numbers"])
            assert entry == kernel["name"]
            assert kernel["code"].count(".entry") == 1
            assert re.findall(r"\.param \.(\w+)", parameters) == [*["u64"] * 3, *["u32"] * numbers, "u64"]
            assert re.findall(r"^\.target (\w+)", kernel["code"], re.M) == [f"sm_{architecture}"]


@needs_tensorrt
def test_a_strict_request_makes_the_plugin_too(builder: Builder) -> None:
    node = layer(FLOAT, 8, 8, [1])
    strict = Node(node.name, node.inputs, node.output, node.sizes, request=STRICT_AOT)
    (first, second), _ = builder.plan(node, strict)
    assert first == second


def changed(node: Node, **changes: Any) -> Node:
    """A node with other inputs, by name, or attributes."""
    inputs = [changes.pop(name, tensor) for name, tensor in zip("xwb", node.inputs, strict=True)]
    attributes = {name: value for name, value in (node.attributes | changes).items() if value is not None}
    return Node(node.name, inputs, node.output, (), attributes)


def a_window() -> Node:
    inputs = [Tensor(FLOAT, (1, 3, 9, 9), (8, 3, 9, 9)), Tensor(FLOAT, (5, 3, 3, 2)), Tensor(FLOAT, (5,))]
    attributes = {"kernel_shape": [3, 2], "strides": [1, 1], "pads": [0, 0, 0, 0], "dilations": [1, 1]}
    output = Tensor(FLOAT, (1, 5, 7, 8), (8, 5, 7, 8))
    return Node("LinfDistConv", inputs, output, (), {**attributes, "group": 1, "auto_pad": "NOTSET"})


REFUSALS = {
    "types": (
        changed(layer(FLOAT, 8, 6), b=Tensor(HALF, (6,))),
        "LinfDist: X, W and B are of types FLOAT, FLOAT and HALF; expected all FLOAT or all HALF",
    ),
    "no such kernel": (
        layer(INT8, 8, 6),
        "LinfDist: X, W and B are of types INT8, INT8 and INT8; expected all FLOAT or all HALF",
    ),
    "ranks": (
        changed(layer(FLOAT, 8, 6), x=Tensor(FLOAT, (1, 1, 8))),
        "LinfDist: X, W and B have 3, 2 and 1 dimensions; expected (N, I), (O, I) and (O)",
    ),
    "sizes": (
        changed(layer(FLOAT, 8, 6), w=Tensor(FLOAT, (6, 9))),
        "LinfDist: X, W and B are of shapes (256, 8), (6, 9) and (6,) at most; "
        "expected (N, I), (O, I) and (O), of which only N varies, and I >= 1",
    ),
    "sizes that vary": (
        changed(layer(FLOAT, 8, 6), x=Tensor(FLOAT, (1, 7), (256, 8))),
        "LinfDist: X, W and B are of shapes (256, 8), (6, 8) and (6,) at most; "
        "expected (N, I), (O, I) and (O), of which only N varies, and I >= 1",
    ),
    "too large a batch": (
        changed(layer(FLOAT, 8, 6), x=Tensor(FLOAT, (1, 8), (2**28, 8))),
        "LinfDist: X, W or Y has up to 2147483648 elements in rows of 8; expected fewer than 2^31, and rows of "
        "less than 2 GiB: make the largest batch of the profile smaller",
    ),
    "window: types": (
        changed(a_window(), w=Tensor(HALF, (5, 3, 3, 2))),
        "LinfDistConv: X, W and B are of types FLOAT, HALF and FLOAT; expected all FLOAT",
    ),
    "window: an attribute is missing": (
        changed(a_window(), dilations=None),
        "LinfDistConv: a node has no attribute dilations; expected all of kernel_shape, strides, pads, dilations, "
        "group, auto_pad: ahead-of-time plugins have no defaults",
    ),
    "window: groups": (
        changed(a_window(), group=3),
        "LinfDistConv: group and auto_pad are [3] and 'NOTSET'; expected [1] and 'NOTSET', the only values that "
        "there is a kernel for",
    ),
    "window: automatic padding": (
        changed(a_window(), auto_pad="SAME_UPPER"),
        "LinfDistConv: group and auto_pad are [1] and 'SAME_UPPER'; expected [1] and 'NOTSET', the only values "
        "that there is a kernel for",
    ),
    "window: strides": (
        changed(a_window(), strides=[1, 0]),
        "LinfDistConv: strides is [1, 0]; expected 2 integers of 1 to 65536",
    ),
    "window: another kernel": (
        changed(a_window(), kernel_shape=[3, 3]),
        "LinfDistConv: X, W and B are of shapes (1, 3, 9, 9) to (8, 3, 9, 9), (5, 3, 3, 2) and (5,) for a window "
        "of (3, 3); expected (N, C, H, W), (O, C, kH, kW) and (O), of which only N, H and W vary, and a window "
        "that fits into every padded image",
    ),
    "window: an image too small": (
        changed(a_window(), x=Tensor(FLOAT, (1, 3, 2, 9), (8, 3, 9, 9))),
        "LinfDistConv: X, W and B are of shapes (1, 3, 2, 9) to (8, 3, 9, 9), (5, 3, 3, 2) and (5,) for a window "
        "of (3, 2); expected (N, C, H, W), (O, C, kH, kW) and (O), of which only N, H and W vary, and a window "
        "that fits into every padded image",
    ),
}


@needs_tensorrt
def test_refusals(builder: Builder) -> None:
    plans, said = builder.plan(*(node for node, _ in REFUSALS.values()))
    assert [sorted(planned) for planned in plans] == [["refused"]] * len(REFUSALS)
    assert re.findall(r"EngineError: linfdeploy::(.*)", said) == [text for _, text in REFUSALS.values()]


@needs_tensorrt
def test_the_registry_has_the_plugins_once(builder: Builder) -> None:
    script = """
import sys, tensorrt_bindings as trt
sys.modules["tensorrt"] = trt
from linfdeploy.plugins_trt.aot import register
for architecture in (87, 110):
    register(architecture)
ours = [c for c in trt.get_plugin_registry().all_creators if c.plugin_namespace == "linfdeploy"]
print(sorted((c.name, c.plugin_version, [f.name for f in c.field_names]) for c in ours))
"""
    done = builder.run("-c", script)
    assert done.returncode == 0, done.stderr
    attributes = ["kernel_shape", "strides", "pads", "dilations", "group", "auto_pad"]
    assert done.stdout.splitlines()[-1] == str([("LinfDist", "1", []), ("LinfDistConv", "1", attributes)])


@needs_tensorrt
def test_the_library_and_these_plugins_do_not_mix(builder: Builder) -> None:
    script = """
import sys, tensorrt_bindings as trt
sys.modules["tensorrt"] = trt
import tensorrt.plugin as trtp
@trtp.register("linfdeploy::LinfDistConv")
def other(x: trtp.TensorDesc) -> trtp.TensorDesc:
    return x.like()
from linfdeploy.errors import EngineError
from linfdeploy.plugins_trt.aot import register
try:
    register(87)
except EngineError as error:
    print(error)
"""
    done = builder.run("-c", script)
    assert done.stdout.splitlines()[-1:] == [
        "TensorRT has a plugin linfdeploy::LinfDistConv already; expected none: load the library or register "
        "ahead-of-time plugins in a process, not both"
    ], done.stderr


@pytest.mark.parametrize("version", ["10.3.0", "10.8.0.43", "8.6.1", "unknown"])
def test_a_release_without_such_plugins(version: str) -> None:
    text = f"TensorRT {version} has no ahead-of-time plugins; expected 10.9 or later: use --plugin library"
    with pytest.raises(EngineError, match=f"^{re.escape(text)}$"):
        check_version(SimpleNamespace(__version__=version))


@pytest.mark.parametrize("version", ["10.9.0.34", "10.16.1", "11.4.0.106"])
def test_releases_with_them(version: str) -> None:
    check_version(SimpleNamespace(__version__=version))


def test_without_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    text = "TensorRT's Python package is not here; expected version 10.9 or later: pip install tensorrt, "
    with pytest.raises(EngineError, match=f"^{re.escape(text)}or on Jetson use the system's Python$"):
        register(87)
