# SPDX-License-Identifier: Apache-2.0
"""The steps of deployment as functions, which the commands and the demo share. Nothing here prints.

Where a step takes a model or an engine, it takes the folder of an edge bundle as well.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal, cast

from linfdeploy.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from linfdeploy.engines.bundle.read import Bundle
    from linfdeploy.engines.manifest import Manifest
    from linfdeploy.nets.net import LinfNet
    from linfdeploy.onnx.pixel_net import Precision
    from linfdeploy.ranks import Ranks
    from linfdeploy.report import ReportPaths
    from linfdeploy.report.model import AuditReport
    from linfdeploy.training.data import Dataset
    from linfdeploy.training.evaluation import Exported
    from linfdeploy.verify.audit import AttackName, AuditOptions, AuditResult
    from linfdeploy.verify.shards import Progress
    from linfdeploy.verify.summary import Subject, TestSet
    from linfdeploy.verify.threat import ThreatModel
    from linfdeploy.verify.vnnlib import VnnlibFormat

__all__ = [
    "BundleRequest",
    "VerifyRequest",
    "VnnlibRequest",
    "build",
    "bundle",
    "certify_exported",
    "export",
    "places_of_build",
    "refit",
    "verify",
    "write_instances",
]

DATA, EPS = "digits", "0.1"
"""What `verify` takes where neither the command nor a bundle says it."""


def export(
    checkpoint: Path, model: Path, *, precision: str, grid: int | None, form: str, radius: bool, opset: int
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
    if form == "auto":
        form = "standard" if precision == "fp16" and net.spec.convolves else "function"
    graph = GraphOptions(cast(Form, form), radius, opset)
    options = ExportOptions(cast(Precision, precision), grid, graph)
    onnx_model = model_from_checkpoint_net(net, options, sha256_of(checkpoint.read_bytes()))
    data = onnx_model.SerializeToString(deterministic=True)
    write_bytes(model, data)
    chosen = next((entry.value for entry in onnx_model.metadata_props if entry.key == "grid"), None)
    exactly = precision if chosen is None else f"every operation exact on a grid of 2^-{chosen} pixel"
    exactly += " in front of the head" if precision == "exact" and net.spec.head else ""
    return f"{len(net.spec.layers)} layers, {exactly}, form {graph.form}, {len(data):,} bytes"


def certify_exported(net: LinfNet, test: Dataset, eps: float) -> Exported:
    """Exports a net in memory and certifies that one, exactly, as `verify` would at the same eps.

    Args:
        net: In evaluation mode at p = inf.
        test: With images of the net's input shape.
        eps: A fraction of the pixel range, such as 0.1 or 8/255 as a float.

    Raises:
        LinfDeployError: The net cannot be exported exactly, or certificate E does not apply to it.
    """
    from fractions import Fraction

    from linfdeploy.engines.reference import ReferenceEngine
    from linfdeploy.errors import ExportError
    from linfdeploy.onnx.export import pixel_net_from_net
    from linfdeploy.training.evaluation import Exported
    from linfdeploy.verify.certificates import Certifier
    from linfdeploy.verify.determinism import run_batched
    from linfdeploy.verify.threat import Threat

    # The float nearest to 8/255 is a little less, and 7 levels; every fraction that one writes is meant exactly.
    levels = Threat("pixels", f"{eps:g}", Fraction(eps).limit_denominator(10**6)).levels
    pixel_net = pixel_net_from_net(net, "exact", None)
    assert pixel_net.grid is not None
    logits = run_batched(ReferenceEngine(pixel_net), test.images)
    certified = Certifier(pixel_net, None, None, logits).at(levels).exact
    if certified is None:
        raise ExportError("its margins are not exact; expected a net of distances alone: see linfdeploy verify")
    correct = logits.argmax(1) == test.labels
    return Exported(
        len(logits), pixel_net.grid, levels, float(correct.mean()), float((correct & certified).mean())
    )


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


def places_of_build(model: Path, engine: Path | None, backend: str | None) -> tuple[Path, Path, str | None]:
    """Returns the ONNX file to build from, the engine to write, and the backend; a bundle knows all three.

    Raises:
        LinfDeployError: The folder is no whole bundle, or no engine was named for a file.
    """
    if model.is_dir():
        from linfdeploy.engines.bundle.read import BACKEND, read_bundle

        found = read_bundle(model)
        return found.model, engine or found.engine, backend or BACKEND
    if engine is None:
        raise InputError(f"no engine to write is named for {model}; expected linfdeploy build {model} ENGINE")
    return model, engine, backend


@dataclass(frozen=True)
class BundleRequest:
    """What `bundle` is asked for."""

    model: Path
    output: Path
    data: str
    data_root: Path | None
    samples: int
    eps: str
    target: str
    seed: int


def bundle(request: BundleRequest) -> list[str]:
    """Writes an edge bundle; returns what it holds, in words, a line each.

    Raises:
        LinfDeployError: The model or the data cannot be used, or the folder cannot be written.
    """
    from linfdeploy.engines.bundle.record import record_bytes, record_of
    from linfdeploy.engines.bundle.write import BundleOptions, edge_model, write_bundle
    from linfdeploy.files import check_new_folder
    from linfdeploy.verify.golden import golden_images
    from linfdeploy.verify.threat import Threat, parse_eps

    check_new_folder(request.output)
    threat = Threat("pixels", request.eps, parse_eps(request.eps))
    model = edge_model(request.model, request.target)
    data = _test_set(request.data, request.data_root, request.samples)
    net = model.graph.net
    data.check_fits(net.input_shape, net.classes, "the net")
    golden = golden_images(net, data, threat.levels, request.seed)
    options = BundleOptions(request.target, request.eps.strip(), request.seed)
    record = write_bundle(request.output, model, golden, options)
    grid = "" if record.grid is None else f" on a grid of 2^-{record.grid} pixel"
    return [
        f"{record.target}, {record.precision}{grid}, form {record.form}; {record.images} golden images, "
        f"{record.labelled} of them labelled; {len(record.files) + 1} files",
        f"bundle.json has the SHA-256 {record_of(record_bytes(record)).sha256}",
    ]


@dataclass(frozen=True)
class VerifyRequest:
    """What `verify` is asked for; without data and eps they are the bundle's."""

    engine: Path
    reference: Path | None
    data: str | None
    data_root: Path | None
    eps: str | None
    threat_model: ThreatModel
    attack: AttackName
    samples: int | None
    seed: int
    precision: Precision | None
    report: Path
    rebuild: bool = False


def verify(request: VerifyRequest, progress: Progress, ranks: Ranks) -> tuple[AuditReport, ReportPaths]:
    """Audits an engine and writes the report with its evidence; the first rank writes.

    What is finished is kept in the report's folder until the report is written; an interrupted audit goes on
    from it.

    Raises:
        LinfDeployError: Something from outside cannot be used; a failed verdict is no error.
    """
    from linfdeploy.verify.audit import run_audit
    from linfdeploy.verify.kept import FOLDER, Kept
    from linfdeploy.verify.shards import Shards

    audited = ranks.together(lambda: _audited(request))
    shards = Shards(ranks, Kept(request.report / FOLDER), progress)
    result = run_audit(*audited, shards)
    paths = ranks.from_first(lambda: _written(result, request.report))
    shards.forget()
    return result.report, paths


def _audited(request: VerifyRequest) -> tuple[Subject, TestSet, AuditOptions]:
    from linfdeploy.engines.build import open_engine
    from linfdeploy.verify.audit import AuditOptions
    from linfdeploy.verify.summary import Subject
    from linfdeploy.verify.threat import Threat, parse_eps

    found = _built_bundle(request.engine) if request.engine.is_dir() else None
    eps = request.eps or (found.record.eps if found else EPS)
    threat = Threat(request.threat_model, eps, parse_eps(eps))
    engine = found.engine if found else request.engine
    subject = Subject(engine, open_engine(engine), _reference(request.reference), found)
    precision = request.precision or (found.record.precision if found else None)
    options = AuditOptions(threat, request.attack, request.seed, precision, request.rebuild)
    return subject, _audited_images(request, found), options


def _written(result: AuditResult, folder: Path) -> ReportPaths:
    from linfdeploy.files import write_bytes
    from linfdeploy.report import write_report
    from linfdeploy.report.png import png_bytes

    for name, arrays in result.evidence.items():
        _write_npz(folder / name, arrays)
    for name, picture in result.pictures.items():
        write_bytes(folder / name, png_bytes(picture))
    return write_report(result.report, folder)


@dataclass(frozen=True)
class VnnlibRequest:
    """What `vnnlib` is asked for."""

    model: Path
    out: Path
    data: str
    data_root: Path | None
    eps: str
    threat_model: ThreatModel
    samples: int
    version: VnnlibFormat
    timeout: int


def write_instances(request: VnnlibRequest) -> str:
    """Writes instances for other verifiers; returns what the folder holds, in words.

    Raises:
        LinfDeployError: The model or the data cannot be used, or the folder cannot be written.
    """
    from linfdeploy.files import check_new_folder, write_folder
    from linfdeploy.onnx.read import read_graph
    from linfdeploy.verify.threat import Threat, parse_eps
    from linfdeploy.verify.vnnlib import InstanceForm, instance_files

    check_new_folder(request.out)
    threat = Threat(request.threat_model, request.eps, parse_eps(request.eps))
    net, data = read_graph(request.model).net, _test_set(request.data, request.data_root, request.samples)
    data.check_fits(net.input_shape, net.classes, "the net")
    files = instance_files(net, data, threat, InstanceForm(request.version, request.timeout))
    write_folder(request.out, files)
    known = files["known.csv"].decode()
    return (
        f"{known.count(chr(10)) - 1} instances of {len(data.images)} images, VNN-LIB {request.version}, within "
        f"{threat.levels} of 255 levels; {known.count(',unsat')} are known to be unsat"
    )


def _built_bundle(path: Path) -> Bundle:
    from linfdeploy.engines.bundle.read import read_bundle

    found = read_bundle(path)
    if not found.engine.exists():
        raise InputError(f"{path}: its engine was not built yet; expected {found.engine}: linfdeploy build {path}")
    return found


def _reference(path: Path | None) -> Any:
    if path is None:
        return None
    try:
        from linfdeploy.verify.reference import load_reference
    except ModuleNotFoundError:
        raise MissingExtraError("--reference", "train") from None
    return load_reference(path)


def _audited_images(request: VerifyRequest, found: Bundle | None) -> TestSet:
    """Returns the images of the data set that was named, else the bundle's own."""
    if found is None or request.data is not None:
        return _test_set(request.data or DATA, request.data_root, request.samples)
    kept, golden = slice(min(found.record.labelled, _count(request.samples))), found.golden
    from linfdeploy.verify.summary import TestSet

    return TestSet(f"{found.record.data} of the bundle", golden.images[kept], golden.labels[kept])


def _test_set(data: str, root: Path | None, samples: int | None) -> TestSet:
    from linfdeploy.training.data import load_dataset
    from linfdeploy.verify.summary import TestSet

    split: Literal["test"] = "test"
    dataset = load_dataset(data, split, root)
    kept = slice(_count(samples))
    return TestSet(dataset.name, dataset.images[kept], dataset.labels[kept])


def _count(samples: int | None) -> int:
    if samples is not None and samples < 1:
        raise InputError(f"--samples is {samples}; expected at least 1")
    return sys.maxsize if samples is None else samples


def _write_npz(path: Path, arrays: Any) -> None:
    import numpy as np

    from linfdeploy.files import write_bytes

    buffer = BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_bytes(path, buffer.getvalue())
