# SPDX-License-Identifier: Apache-2.0
from typing import Any

import onnxruntime
import pytest
from command_line import assert_refused, call
from small_nets import exported

from linfdeploy.engines.manifest import read_manifest


def test_builds(files: Any) -> None:
    engine = files.folder / "new" / "model.engine"
    outcome = call("build", files.model, engine, "--device", "cpu", "--threads", "1")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out == (
        f"wrote {engine}: onnxruntime {onnxruntime.__version__}, exact; "
        "100.00% of the logits of 64 random images equal the evaluator's bits\n"
    )
    manifest = read_manifest(engine)
    assert manifest is not None
    assert manifest.options == {"device": "cpu", "threads": 1}
    assert {path.name for path in engine.parent.iterdir()} == {"model.engine", "model.engine.json"}


def test_op_form_has_no_kernel_here(files: Any) -> None:
    files.model.write_bytes(exported("exact", "op"))
    out = files.folder / "new.engine"
    assert_refused(call("build", files.model, out), "no kernel for linfdeploy::LinfDist", "--form function")
    assert not out.exists()


@pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="this ONNX Runtime has CUDA"
)
def test_no_cuda(files: Any) -> None:
    out = files.folder / "new.engine"
    assert_refused(call("build", files.model, out, "--device", "cuda"), "no CUDA provider", "onnxruntime-gpu")
    assert not out.exists()
