# SPDX-License-Identifier: Apache-2.0
"""The steps of deployment as functions, which the commands and the demo share. Nothing here prints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal, cast

from linfdeploy.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from linfdeploy.engines.manifest import Manifest
    from linfdeploy.onnx.pixel_net import Precision
    from linfdeploy.report import ReportPaths
    from linfdeploy.report.model import AuditReport
    from linfdeploy.verify.audit import AttackName
    from linfdeploy.verify.threat import ThreatModel

__all__ = ["VerifyRequest", "build", "export", "verify"]


def export(
    checkpoint: Path, model: Path, *, precision: str, grid: int, form: str, radius: bool, opset: int
) -> str:
    """Exports a checkpoint; returns what was written, in words.

    Raises:
        LinfDeployError: The checkpoint cannot be read, exported so, or the model cannot be written.
    """
    from linfdeploy.files import sha256_of, write_bytes
    from linfdeploy.onnx.pixel_net import Precision
    from linfdeploy.onnx.write import Form, GraphOptions

    try:
        from linfdeploy.nets.checkpoint import load_checkpoint
        from linfdeploy.onnx.export import ExportOptions, model_from_checkpoint_net
    except ModuleNotFoundError:
        raise MissingExtraError("export", "train") from None
    net = load_checkpoint(checkpoint).net
    graph = GraphOptions(cast(Form, "function" if form == "auto" else form), radius, opset)
    options = ExportOptions(cast(Precision, precision), grid, graph)
    onnx_model = model_from_checkpoint_net(net, options, sha256_of(checkpoint.read_bytes()))
    data = onnx_model.SerializeToString(deterministic=True)
    write_bytes(model, data)
    exactly = f"every operation exact on a grid of 2^-{grid} pixel" if precision == "exact" else precision
    return f"{len(net.spec.layers)} layers, {exactly}, form {graph.form}, {len(data):,} bytes"


def build(model: Path, engine: Path, backend: str | None, options: dict[str, object]) -> list[str]:
    """Builds an engine; returns what was built and how it runs the layers, in words, a line each.

    Raises:
        LinfDeployError: The model cannot be read, built or written.
    """
    from linfdeploy.engines.build import engine_from_onnx

    start = perf_counter()
    return _words_of(engine_from_onnx(model, engine, backend, options), engine, perf_counter() - start)


def refit(model: Path, old: Path, engine: Path) -> list[str]:
    """Gives an engine another model's weights; returns what `build` does.

    Raises:
        LinfDeployError: The model or the engine cannot be read, refitted or written.
    """
    from linfdeploy.engines.build import refitted_engine

    start = perf_counter()
    return _words_of(refitted_engine(model, old, engine), engine, perf_counter() - start)


def _words_of(manifest: Manifest, engine: Path, seconds: float) -> list[str]:
    from linfdeploy.engines.custom_ops.library import kernel_note

    facts = f"{manifest.backend} {manifest.versions[manifest.backend]}, {manifest.precision}; {_checked(manifest)}"
    if manifest.backend == "onnxruntime":
        return [facts, kernel_note(manifest.versions["kernel"])]
    size = engine.stat().st_size
    return [facts, f"LinfDist runs as {manifest.versions['kernel']}; {size:,} bytes, built in {seconds:.1f} s"]


def _checked(manifest: Manifest) -> str:
    if (check := manifest.self_check) is None:
        return "not run, since this machine cannot: run linfdeploy verify where it is deployed"
    share, images = check["bit_identical"], check["images"]
    return f"{share:.2%} of the logits of {images} random images equal the evaluator's bits"


@dataclass(frozen=True)
class VerifyRequest:
    """What `verify` is asked for."""

    engine: Path
    reference: Path | None
    data: str
    data_root: Path | None
    eps: str
    threat_model: ThreatModel
    attack: AttackName
    samples: int | None
    seed: int
    precision: Precision | None
    report: Path
    rebuild: bool = False


def verify(request: VerifyRequest, progress: Callable[[str], None]) -> tuple[AuditReport, ReportPaths]:
    """Audits an engine and writes the report with its evidence.

    Raises:
        LinfDeployError: Something from outside cannot be used; a failed verdict is no error.
    """
    from linfdeploy.engines.build import open_engine
    from linfdeploy.report import write_report
    from linfdeploy.verify.audit import AuditOptions, run_audit
    from linfdeploy.verify.summary import Subject
    from linfdeploy.verify.threat import Threat, parse_eps

    threat = Threat(request.threat_model, request.eps, parse_eps(request.eps))
    opened = open_engine(request.engine)
    subject = Subject(request.engine, opened, _reference(request.reference))
    options = AuditOptions(threat, request.attack, request.seed, request.precision, request.rebuild)
    result = run_audit(subject, _test_set(request), options, progress)
    for name, arrays in result.evidence.items():
        _write_npz(request.report / name, arrays)
    return result.report, write_report(result.report, request.report)


def _reference(path: Path | None) -> Any:
    if path is None:
        return None
    try:
        from linfdeploy.verify.reference import load_reference
    except ModuleNotFoundError:
        raise MissingExtraError("--reference", "train") from None
    return load_reference(path)


def _test_set(request: VerifyRequest) -> Any:
    from linfdeploy.training.data import load_dataset
    from linfdeploy.verify.summary import TestSet

    split: Literal["test"] = "test"
    dataset = load_dataset(request.data, split, request.data_root)
    if request.samples is not None and request.samples < 1:
        raise InputError(f"--samples is {request.samples}; expected at least 1")
    kept = slice(request.samples)
    return TestSet(dataset.name, dataset.images[kept], dataset.labels[kept])


def _write_npz(path: Path, arrays: Any) -> None:
    import numpy as np

    from linfdeploy.files import write_bytes

    buffer = BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_bytes(path, buffer.getvalue())
