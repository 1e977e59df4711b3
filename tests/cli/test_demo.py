# SPDX-License-Identifier: Apache-2.0
"""The way of the demo, step by step, with a net that trains in seconds."""

from pathlib import Path
from unittest.mock import patch

import click
from command_line import call

from linfdeploy.cli import build, demo, export, train, verify
from linfdeploy.nets.checkpoint import load_checkpoint
from linfdeploy.onnx.read import read_graph

TINY = ("epochs=2", "hidden=[16]", "p_from_epoch=0", "p_until_epoch=1")


def test_train_export_build_verify(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    names = ("ckpt.pt", "model.onnx", "model.engine")
    checkpoint, model, engine = (out / name for name in names)
    overrides = [part for text in TINY for part in ("--set", text)]
    trained = call("train", "digits-0.1", "-o", checkpoint, *overrides)
    assert trained.code == 0, trained.err
    assert f"wrote {checkpoint}: clean " in trained.out
    exported = call("export", checkpoint, model, "--radius")
    assert exported.code == 0, exported.err
    built = call("build", model, engine, "--device", "cpu")
    assert built.code == 0, built.err
    audited = call(
        *("verify", engine, "--reference", checkpoint, "--data", "digits", "--eps", "0.1"),
        *("--attack", "fast", "--samples", "8", "--report", out / "report"),
    )
    assert audited.code == 0, audited
    assert "verdict: pass" in audited.out
    files = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert {*names, "model.engine.json", "report/report.json", "report/report.html", "report/samples.csv"} <= files
    assert not [name for name in files if name.endswith((".part", ".state"))]
    assert load_checkpoint(checkpoint).net.spec.layers[0].outputs == 16
    assert read_graph(engine).options.radius


def test_demo_calls_the_four_steps_with_the_contracts_names(tmp_path: Path) -> None:
    seen: list[tuple[str, dict[str, object]]] = []

    def note(name: str, command: click.Command) -> click.Command:
        return click.Command(name, params=command.params, callback=lambda **given: seen.append((name, given)))

    steps = {"train": train, "export": export, "build": build, "verify": verify}
    patches = [patch.object(module, "command", note(name, module.command)) for name, module in steps.items()]
    for step in patches:
        step.start()
    try:
        outcome = call("demo", "-o", tmp_path / "d")
    finally:
        for step in patches:
            step.stop()
    assert outcome.code == 0, outcome
    assert [name for name, _ in seen] == list(steps)
    assert outcome.out.splitlines() == [f"{index}/4 {name}" for index, name in enumerate(steps, 1)]
    given = dict(seen)
    folder = tmp_path / "d"
    assert given["train"]["output"] == given["export"]["checkpoint"] == given["verify"]["reference"]
    assert given["train"]["output"] == folder / "ckpt.pt"
    assert given["export"]["model"] == given["build"]["model"] == folder / "model.onnx"
    assert given["build"]["engine"] == given["verify"]["engine"] == folder / "model.engine"
    assert given["verify"]["report"] == folder / "report"
    assert given["train"]["recipe"] == demo.RECIPE
