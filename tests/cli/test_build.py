# SPDX-License-Identifier: Apache-2.0
from typing import Any

import onnxruntime
import pytest
from command_line import assert_refused, call
from custom_op_models import WAYS, needs_library
from small_nets import exported

from linfdeploy.engines.manifest import read_manifest

NOTES = {
    "on": "LinfDist runs as a custom op",
    "off": "LinfDist runs as its function body (custom ops are off), "
    "about 10 times slower at large batches than as a custom op",
}


@pytest.mark.parametrize("way", WAYS)
def test_builds(way: str, files: Any) -> None:
    engine = files.folder / "new" / "model.engine"
    options = ("--device", "cpu", "--threads", "1", "--custom-ops", way)
    outcome = call("build", files.model, engine, *options)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out == (
        f"wrote {engine}: onnxruntime {onnxruntime.__version__}, exact; "
        "100.00% of the logits of 64 random images equal the evaluator's bits\n"
        f"{NOTES[way]}\n"
    )
    manifest = read_manifest(engine)
    assert manifest is not None
    assert manifest.options == {"device": "cpu", "threads": 1, "custom_ops": way}
    assert {path.name for path in engine.parent.iterdir()} == {"model.engine", "model.engine.json"}


@needs_library
def test_builds_the_op_form(files: Any) -> None:
    files.model.write_bytes(exported("exact", "op"))
    outcome = call("build", files.model, files.folder / "new.engine", "--device", "cpu")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.endswith("\nLinfDist runs as a custom op\n")


def test_the_op_form_has_no_kernel_without_custom_ops(files: Any) -> None:
    files.model.write_bytes(exported("exact", "op"))
    out = files.folder / "new.engine"
    refused = call("build", files.model, out, "--custom-ops", "off")
    assert_refused(refused, "no kernel for linfdeploy::LinfDist", "--form function", "(custom ops are off)")
    assert not out.exists()


@pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="this ONNX Runtime has CUDA"
)
def test_no_cuda(files: Any) -> None:
    out = files.folder / "new.engine"
    assert_refused(call("build", files.model, out, "--device", "cuda"), "no CUDA provider", "onnxruntime-gpu")
    assert not out.exists()
