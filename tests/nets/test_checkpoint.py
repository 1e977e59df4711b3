# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: bits survive, damage is found, nothing is executed."""

from __future__ import annotations

import math
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import oracles
import pytest
import torch

from linfdeploy.errors import CheckpointError, InputError
from linfdeploy.nets.checkpoint import FORMAT, Checkpoint, load_checkpoint, load_plain, save_checkpoint, save_plain
from linfdeploy.nets.net import LinfNet
from linfdeploy.nets.spec import NetSpec

SPEC = NetSpec.mlp((1, 2, 2), (0.1,), 0.3, (3,), 2)
PROVENANCE = {"recipe": {"name": "x", "eps": 0.3}, "seed": 1, "metrics": [0.5, None, True], "note": "é"}
STATE = {
    "layers.0.weight": (3, 4),
    "layers.0.mean_shift.running_mean": (3,),
    "layers.1.weight": (2, 3),
    "layers.1.bias": (2,),
}
Fields = dict[str, Any]
Contents = tuple[NetSpec, Fields, dict[str, bytes]]


def _net() -> LinfNet:
    """Every tensor holds awkward numbers."""
    net = LinfNet(SPEC)
    rng = np.random.default_rng(0)
    for tensor in net.state_dict().values():
        tensor.copy_(torch.from_numpy(oracles.awkward_float32(rng, tuple(tensor.shape))))
    return net


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "net.pt", _net(), PROVENANCE)
    return tmp_path / "net.pt"


def _contents(checkpoint: Checkpoint) -> Contents:
    state = {name: tensor.numpy().tobytes() for name, tensor in checkpoint.net.state_dict().items()}
    return checkpoint.net.spec, dict(checkpoint.provenance), state


def _rewritten(path: Path, change: Callable[[Fields], object]) -> str:
    """The refusal of the checkpoint after a change of its fields, without the path."""
    data = dict(torch.load(path, weights_only=True))
    change(data)
    torch.save(data, path)
    with pytest.raises(CheckpointError) as refused:
        load_checkpoint(path)
    text = str(refused.value)
    assert "\n" not in text
    assert text.startswith(str(path))
    return text[len(str(path)) :].removeprefix(": ").removeprefix(" ")


def test_round_trip_keeps_every_bit(path: Path) -> None:
    spec, provenance, state = _contents(load_checkpoint(path))
    assert (spec, provenance) == (SPEC, PROVENANCE)
    assert state == {name: tensor.numpy().tobytes() for name, tensor in _net().state_dict().items()}
    assert list(state) == list(STATE)


def test_loads_ready_for_evaluation(path: Path) -> None:
    net = load_checkpoint(path).net
    assert not any(module.training for module in net.modules())
    assert not any(parameter.requires_grad for parameter in net.parameters())
    assert all(math.isinf(layer.p) for layer in net.layers)  # type: ignore[arg-type]


def test_loading_draws_no_random_numbers(path: Path) -> None:
    before = torch.get_rng_state()
    load_checkpoint(path)
    assert torch.equal(torch.get_rng_state(), before)


def test_saving_leaves_the_net_alone(tmp_path: Path) -> None:
    net = _net().train()
    save_checkpoint(tmp_path / "net.pt", net, {})
    assert net.training
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_provenance_becomes_json(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "net.pt", _net(), {"accuracy": np.float64(0.5), "sizes": (1, 2)})
    assert load_checkpoint(tmp_path / "net.pt").provenance == {"accuracy": 0.5, "sizes": [1, 2]}


@pytest.mark.parametrize("value", [np.float32(1), torch.zeros(1), Path("x"), {1, 2}])
def test_provenance_that_could_not_be_read_back_is_not_written(tmp_path: Path, value: object) -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        save_checkpoint(tmp_path / "net.pt", _net(), {"value": value})
    assert not (tmp_path / "net.pt").exists()


def test_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write"):
        save_checkpoint(tmp_path / "file" / "net.pt", _net(), {})


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError) as refused:
        load_checkpoint(tmp_path / "net.pt")
    assert str(refused.value) == f"{tmp_path / 'net.pt'}: no such file; expected a linfdeploy checkpoint"


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"PK\3\4", b"not a checkpoint at all", b"\x80\x02}q\0."])
def test_not_a_checkpoint(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "net.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match="; expected"):
        load_checkpoint(tmp_path / "net.pt")


def _loads_the_same_or_is_refused(path: Path, raw: bytes, expected: Contents) -> bool:
    path.write_bytes(raw)
    try:
        found = _contents(load_checkpoint(path))
    except CheckpointError:
        return False
    assert found == expected
    return True


def test_truncated(path: Path) -> None:
    raw, expected = path.read_bytes(), _contents(load_checkpoint(path))
    for size in [*range(0, len(raw), 37), *range(len(raw) - 40, len(raw))]:
        assert not _loads_the_same_or_is_refused(path, raw[:size], expected)


def test_flipped_bits(path: Path) -> None:
    raw, expected = path.read_bytes(), _contents(load_checkpoint(path))
    refused = 0
    # 37 and 8 have no common divisor: all positions in a byte occur.
    for bit in range(0, 8 * len(raw), 37):
        damaged = bytearray(raw)
        damaged[bit // 8] ^= 1 << bit % 8
        refused += not _loads_the_same_or_is_refused(path, bytes(damaged), expected)
    assert refused > 100


def test_every_byte_of_every_tensor_is_guarded(path: Path) -> None:
    raw, expected = path.read_bytes(), _contents(load_checkpoint(path))
    for values in expected[2].values():
        start = raw.index(values)
        for offset in range(len(values)):
            damaged = bytearray(raw)
            damaged[start + offset] ^= 1
            assert not _loads_the_same_or_is_refused(path, bytes(damaged), expected)


def test_record_marked_as_a_folder(path: Path) -> None:
    # torch does not fill the memory of such a record.
    raw = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        name = next(entry.filename for entry in archive.infolist() if entry.filename.endswith("data/0"))
    entry = raw.index(b"PK\1\2", raw.rindex(name.encode()) - 46)
    damaged = bytearray(raw)
    damaged[entry + 38] |= 0x10
    path.write_bytes(damaged)
    with pytest.raises(CheckpointError, match=re.escape(f"the record {name} is not what was written")):
        load_checkpoint(path)


def test_bytes_of_chance(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for size in (1, 10, 100, 5000):
        for head in (b"", b"PK\3\4", b"\x80\x02"):
            (tmp_path / "net.pt").write_bytes(head + rng.bytes(size))
            with pytest.raises(CheckpointError):
                load_checkpoint(tmp_path / "net.pt")


class Payload:
    """Writes a file when it is unpickled by something less careful."""

    def __init__(self, marker: Path, call: str) -> None:
        self.marker, self.call = marker, call

    def __reduce__(self) -> tuple[Any, ...]:
        import os

        if self.call == "system":
            return os.system, (f"touch {self.marker}",)
        if self.call == "exec":
            return exec, (f"open({str(self.marker)!r}, 'w').close()",)
        return open, (str(self.marker), "w")


@pytest.mark.parametrize("call", ["system", "exec", "open"])
@pytest.mark.parametrize("where", ["provenance", "spec", "state_dict", "format", "all"])
@pytest.mark.parametrize("zipped", [True, False])
def test_code_is_never_executed(path: Path, tmp_path: Path, call: str, where: str, zipped: bool) -> None:
    payload: object = Payload(tmp_path / "marker", call)
    data = payload if where == "all" else {**torch.load(path, weights_only=True), where: payload}
    torch.save(data, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError) as refused:
        load_checkpoint(path)
    assert not (tmp_path / "marker").exists()
    assert str(refused.value) == (
        f"{path} holds code or objects, which are never executed; expected plain data and tensors: "
        "write it with linfdeploy"
    )


def test_plain_pickles_are_not_executed(tmp_path: Path) -> None:
    (tmp_path / "net.pt").write_bytes(pickle.dumps(Payload(tmp_path / "marker", "open")))
    with pytest.raises(CheckpointError):
        load_checkpoint(tmp_path / "net.pt")
    assert not (tmp_path / "marker").exists()


def test_the_payloads_work(tmp_path: Path) -> None:
    for call in ("system", "exec", "open"):
        result = pickle.loads(pickle.dumps(Payload(tmp_path / call, call)))
        if hasattr(result, "close"):
            result.close()
        assert (tmp_path / call).exists()


def test_modules_and_arrays_are_objects(path: Path) -> None:
    for value in (_net(), np.zeros(3), Path("x")):
        torch.save({"provenance": value}, path)
        with pytest.raises(CheckpointError, match="holds code or objects, which are never executed"):
            load_checkpoint(path)


def test_not_a_mapping(path: Path) -> None:
    torch.save([1, 2], path)
    with pytest.raises(CheckpointError, match=r"net\.pt holds a list; expected a linfdeploy checkpoint$"):
        load_checkpoint(path)


@pytest.mark.parametrize("field", ["format", "spec", "state_dict", "provenance"])
def test_missing_field(path: Path, field: str) -> None:
    fields = [name for name in ("format", "spec", "state_dict", "provenance") if name != field]
    found = None if field == "format" else FORMAT
    assert _rewritten(path, lambda data: data.pop(field)) == (
        f"has format {found!r} and fields {fields}; "
        f"expected format {FORMAT!r} and fields ['format', 'provenance', 'spec', 'state_dict']"
    )


def test_another_format(path: Path) -> None:
    text = _rewritten(path, lambda data: data.update(format="linfdeploy.checkpoint/2"))
    assert text.startswith("has format 'linfdeploy.checkpoint/2' and fields")
    save_checkpoint(path, _net(), {})
    assert _rewritten(path, lambda data: data.update(extra=1)).startswith(f"has format {FORMAT!r} and fields")


def test_provenance_is_json(path: Path) -> None:
    assert _rewritten(path, lambda data: data.update(provenance=[1])) == "provenance is list; expected a mapping"
    save_checkpoint(path, _net(), {})
    assert _rewritten(path, lambda data: data.update(provenance={"x": torch.zeros(1)})) == (
        "provenance holds more than text, numbers and lists; expected JSON data"
    )


@pytest.mark.parametrize("name", STATE)
@pytest.mark.parametrize(
    ("value", "found"),
    [
        (torch.zeros(7), "torch.float32 (7,)"),
        (torch.zeros(3, 4, dtype=torch.float64), "torch.float64 (3, 4)"),
        (torch.zeros(3, dtype=torch.float16), "torch.float16 (3,)"),
        ([1.0, 2.0], "list"),
        (None, "NoneType"),
        (torch.zeros(2, 3).to_sparse(), "not plainly stored torch.float32 (2, 3)"),
        (torch.zeros(2, 3, device="meta"), "not plainly stored torch.float32 (2, 3)"),
        (torch.zeros(1, 1).expand(2, 3), "not plainly stored torch.float32 (2, 3)"),
    ],
)
def test_wrong_tensor(path: Path, name: str, value: object, found: str) -> None:
    text = _rewritten(path, lambda data: data["state_dict"].update({name: value}))
    assert text == f"{name} is {found}; expected torch.float32 {STATE[name]}"


@pytest.mark.parametrize("name", STATE)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_no_numbers(path: Path, name: str, value: float) -> None:
    text = _rewritten(path, lambda data: data["state_dict"][name].view(-1).__setitem__(-1, value))
    assert text == f"{name} holds infinite or NaN values; expected finite numbers: train again"


def test_state_of_another_net(path: Path) -> None:
    assert _rewritten(
        path, lambda data: data["state_dict"].update({"x": data["state_dict"].pop("layers.1.bias")})
    ) == (
        "the state lacks ['layers.1.bias'] and has the unknown ['x']; expected the tensors that the spec describes"
    )
    save_checkpoint(path, _net(), {})
    assert _rewritten(path, lambda data: data.update(state_dict=3)).startswith(
        "the state lacks ['layers.0.mean_shift"
    )


def test_wrong_class_count(path: Path) -> None:
    assert _rewritten(path, lambda data: data["spec"].update(classes=10)) == (
        "the spec claims 10 classes but its last layer has 2 outputs; expected the same number"
    )
    save_checkpoint(path, _net(), {})
    assert _rewritten(path, lambda data: data["spec"].update(classes=torch.tensor([2, 2]))).startswith(
        "the spec claims tensor([2, 2]) classes"
    )


def test_claims_more_than_the_file_holds(path: Path) -> None:
    # One float, said to be 2^48 of them: nothing of that size may be made.
    size = 2**24
    layer = {"type": "linf_dist", "inputs": size, "outputs": size, "mean_shift": False, "bias": False}
    spec = {"input_shape": [1, 4096, 4096], "mean": [0.0], "std": 1.0, "classes": size, "layers": [layer]}
    state = {"layers.0.weight": torch.zeros(1, 1).expand(size, size)}
    assert _rewritten(path, lambda data: data.update(spec=spec, state_dict=state)) == (
        f"layers.0.weight is not plainly stored torch.float32 ({size}, {size}); "
        f"expected torch.float32 ({size}, {size})"
    )


def test_plain_data_round_trip(tmp_path: Path) -> None:
    data = {"step": 3, "nested": {"x": torch.arange(5)}, "none": None}
    save_plain(tmp_path / "state.pt", data)
    again = load_plain(tmp_path / "state.pt", "a state")
    assert again["step"] == 3
    assert torch.equal(again["nested"]["x"], torch.arange(5))
