# SPDX-License-Identifier: Apache-2.0
"""An exported file needs ONNX Runtime and numpy, and nothing of this package."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_nets import exported, random_images

from linfdeploy.engines.reference import ReferenceEngine
from linfdeploy.onnx.read import read_graph
from linfdeploy.onnx.write import Form

FORMS: tuple[Form, ...] = ("function", "standard")

PROGRAM = """
import importlib.util, sys
import numpy as np, onnxruntime
assert not any(importlib.util.find_spec(name) for name in ("linfdeploy", "onnx", "torch"))
expected = np.load("expected.npz")
for name in sys.argv[1:]:
    answer = onnxruntime.InferenceSession(name, providers=["CPUExecutionProvider"])
    names = [output.name for output in answer.get_outputs()]
    found = dict(zip(names, answer.run(None, {"image": expected["images"]})))
    assert ("radius" in found) == ("radius" in name), names
    for output, values in found.items():
        assert values.dtype == expected[output].dtype and values.shape == expected[output].shape, output
        assert values.tobytes() == expected[output].tobytes(), output
print("all bits equal")
"""


@pytest.fixture(scope="session")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True, timeout=60)
    python = folder / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "--quiet", "--only-binary=:all:", "onnxruntime", "numpy"]
    try:
        done = subprocess.run(install, capture_output=True, text=True, timeout=60, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip("pip did not install onnxruntime and numpy within a minute")
    if done.returncode:
        pytest.skip(f"pip cannot install onnxruntime and numpy: {done.stderr.strip().splitlines()[-1]}")
    return python


def test_runs_with_nothing_but_onnx_runtime(bare_python: Path, tmp_path: Path) -> None:
    names = []
    for form in FORMS:
        for radius in (False, True):
            names.append(f"{form}{'-radius' * radius}.onnx")
            (tmp_path / names[-1]).write_bytes(exported("exact", form, radius))
    images = random_images(11)
    answer = ReferenceEngine(read_graph(tmp_path / names[0]).net, radius=True).answer(images)
    np.savez(tmp_path / "expected.npz", images=images, **answer)  # type: ignore[arg-type]
    done = subprocess.run(
        [bare_python, "-I", "-c", PROGRAM, *names],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "all bits equal\n"
