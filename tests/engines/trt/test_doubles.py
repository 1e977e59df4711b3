# SPDX-License-Identifier: Apache-2.0
"""The stand-ins for TensorRT offer nothing that the real bindings lack."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from trt_double import CLASSES, TrtDouble
from trt_runtimes import needs_runtime, runtime

# What is an attribute of an instance there, or the stand-in's own.
OWN = {"INetworkDefinition.model", "INetworkDefinition.plugins", "IPluginRegistry.names", "IPluginRegistry.fields"}

# The bindings are linked with libraries that are not on PyPI. To look at their classes one is enough that has the
# entry points they ask for, and gives nothing.
ENTRY_POINTS = [
    *(f"createInfer{name}_INTERNAL" for name in ("Builder", "Refitter", "Runtime")),
    *("createNvOnnxParser_INTERNAL", "createNvOnnxParserRefitter_INTERNAL", "getNvOnnxParserVersion"),
    *("getPluginRegistry", "getBuilderPluginRegistry", "initLibNvInferPlugins"),
]
LIBRARIES = ("libnvinfer", "libnvonnxparser", "libnvinfer_plugin")
SCRIPT = """
import json, sys, tensorrt_bindings as trt
names = json.loads(sys.argv[1])
print(json.dumps([f"{kind}.{name}" for kind in names for name in names[kind]
                  if not hasattr(getattr(trt, kind, None), name)]))
"""


def our_names() -> dict[str, list[str]]:
    classes = {name: [key for key in vars(kind) if not key.startswith("_")] for name, kind in CLASSES.items()}
    enums = {
        name: list(kind.__members__) for name, kind in vars(TrtDouble).items() if hasattr(kind, "__members__")
    }
    return classes | enums


def empty_libraries(folder: Path, major: str) -> Path:
    source = folder / "empty.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in ENTRY_POINTS))
    for name in LIBRARIES:
        file = f"{name}.so.{major}"
        command = ["cc", "-shared", "-fPIC", f"-Wl,-soname,{file}", "-o", folder / file, source]
        subprocess.run([*map(str, command)], check=True)
    return folder


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler to stand in for libnvinfer with")
@pytest.mark.parametrize(
    "release", [pytest.param(name, marks=needs_runtime(name)) for name in ("full-10", "full-11")]
)
def test_every_name_is_in_the_real_bindings(release: str, tmp_path: Path) -> None:
    folder = runtime(release)
    assert folder is not None
    libraries = empty_libraries(tmp_path, release.removeprefix("full-"))
    environment = {**os.environ, "PYTHONPATH": str(folder), "LD_LIBRARY_PATH": str(libraries)}
    command = [sys.executable, "-c", SCRIPT, json.dumps(our_names())]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    missing = set(json.loads(done.stdout)) - OWN
    # In 11.x batches are always explicit, and the flag that said so is gone; nothing of ours uses it.
    assert missing <= {"NetworkDefinitionCreationFlag.EXPLICIT_BATCH"}
