# SPDX-License-Identifier: Apache-2.0
"""Where TensorRT's and CUDA's headers are, and the plugins' library built with them."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from emulated import KERNELS, run

from linfdeploy.engines.trt.library import PluginLibrary, built_library

PLUGINS = KERNELS.parents[1] / "plugins_trt"
CACHE = Path("~/.cache/linfdeploy/tensorrt").expanduser()

HOW = "give TensorRT's folder as TENSORRT_ROOT, or keep its headers in ~/.cache/linfdeploy/tensorrt/include"


def header_folders() -> list[Path]:
    """Folders with TensorRT's headers, each of another release."""
    given = os.environ.get("TENSORRT_ROOT")
    roots = [Path(given)] if given else [*sorted(CACHE.glob("v*")), CACHE]
    found = {version_of(root / "include"): root / "include" for root in roots if version_of(root / "include")}
    return list(found.values())


def version_of(folder: Path) -> str:
    """The release that the headers are of, such as 10.3; nothing where there are none."""
    file = folder / "NvInferVersion.h"
    if not file.exists():
        return ""
    # In 11.x the numbers have names of their own.
    numbers = dict(re.findall(r"#define (\w+) (\w+)", file.read_text()))
    parts = [numbers.get(f"NV_TENSORRT_{part}", "") for part in ("MAJOR", "MINOR")]
    return ".".join(numbers.get(part, part) for part in parts)


def cuda_headers() -> Path | None:
    """The folder of CUDA's headers, which TensorRT's include."""
    compiler = shutil.which("nvcc")
    roots = [Path(compiler).resolve().parents[1]] if compiler else []
    roots += [Path("/usr/local/cuda"), *sorted(Path("/usr/local").glob("cuda-*"))]
    folders = [root / "include" for root in roots if (root / "include" / "cuda_runtime_api.h").exists()]
    return next(iter(folders), None)


HEADERS = header_folders()

UNOPTIMISED = {"NVCC_APPEND_FLAGS": "-Xcicc -O0 -Xptxas -O0"}
"""For kernels that are built to see that they build, and that nothing runs: half the time."""


def build_library(sources: Path, folder: Path, headers: Path) -> Path:
    """Builds the library by hand, as a user does who does not use `linfdeploy build`, and returns it."""
    options = f"-DTENSORRT_INCLUDE={headers}", "-DCMAKE_CUDA_ARCHITECTURES=87"
    for command in (
        ("cmake", "-S", sources, "-B", folder, f"-DCMAKE_CUDA_COMPILER={shutil.which('nvcc')}", *options),
        ("cmake", "--build", folder, "--parallel", "2"),
    ):
        done = run(*command, environment=UNOPTIMISED)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder / "liblinfdeploy_tensorrt.so"


def skip_what_cannot_be_built() -> None:
    if not HEADERS:
        pytest.skip(f"there are no headers of TensorRT: {HOW}")
    if not (shutil.which("nvcc") and shutil.which("cmake")):
        pytest.skip("there is no nvcc or no cmake to build the library with: install CUDA's toolkit and cmake")


def shared_libraries(factory: pytest.TempPathFactory) -> Callable[[Path], PluginLibrary]:
    """Builds the library with the headers of a folder, once for all workers of a run."""
    base = factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def build(headers: Path) -> PluginLibrary:
        skip_what_cannot_be_built()
        with pytest.MonkeyPatch.context() as patch, (base / "plugins.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            patch.setenv("LINFDEPLOY_CACHE", str(base / "plugins"))
            if headers != HEADERS[0]:
                # The kernels know no TensorRT: those of one library, as a user's, are enough.
                patch.setenv("NVCC_APPEND_FLAGS", UNOPTIMISED["NVCC_APPEND_FLAGS"])
            return built_library(87, headers)

    return build
