# SPDX-License-Identifier: Apache-2.0
from pathlib import Path
from typing import Any

import pytest
from command_line import assert_refused, call
from small_nets import FORMS, NET, exported, traced

from linfdeploy.files import sha256_of
from linfdeploy.nets.checkpoint import save_checkpoint
from linfdeploy.onnx.read import read_graph


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a net whose trace is already there."""
    monkeypatch.setattr("linfdeploy.onnx.export.chain_from_net", lambda _net: traced(NET))
    path = tmp_path / "ckpt.pt"
    save_checkpoint(path, NET, {})
    return path


def test_default_is_exact_with_a_function(files: Any) -> None:
    out = files.folder / "new" / "model.onnx"
    outcome = call("export", files.checkpoint, out)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out == (
        f"wrote {out}: 3 layers, every operation exact on a grid of 2^-12 pixel, form function, "
        f"{out.stat().st_size:,} bytes\n"
    )
    graph = read_graph(out)
    assert graph.departures == ()
    assert graph.metadata["checkpoint_sha256"] == sha256_of(files.checkpoint.read_bytes())
    assert len(out.read_bytes()) == len(exported())
    assert [path.name for path in out.parent.iterdir()] == ["model.onnx"]
    assert out.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("precision", ["exact", "fp32", "fp16"])
@pytest.mark.parametrize("form", [*FORMS, "auto"])
def test_options(precision: str, form: str, checkpoint: Path) -> None:
    out = checkpoint.with_name("m.onnx")
    options = ("--precision", precision, "--form", form, "--radius", "--opset", "20", "--grid", "10")
    outcome = call("export", checkpoint, out, *options)
    assert outcome.code == 0, outcome.err
    graph = read_graph(out)
    assert graph.departures == ()
    assert graph.net.precision == graph.claimed_precision == precision
    assert graph.net.grid == (10 if precision == "exact" else None)
    assert (graph.options.form, graph.options.radius, graph.options.opset) == (
        "function" if form == "auto" else form,
        True,
        20,
    )


def test_too_fine_a_grid(checkpoint: Path) -> None:
    out = checkpoint.with_name("m.onnx")
    line = assert_refused(
        call("export", checkpoint, out, "--grid", "20"), "values reach", "allows 16: use --grid "
    )
    assert not out.exists()
    fits = line.split("--grid ")[1].split()[0]
    assert call("export", checkpoint, out, "--grid", fits).code == 0


def test_overwrites(checkpoint: Path) -> None:
    out = checkpoint.with_name("m.onnx")
    out.write_bytes(b"old")
    assert call("export", checkpoint, out).code == 0
    assert read_graph(out).departures == ()
