# SPDX-License-Identifier: Apache-2.0
"""Reading a bundle: what was written comes back, and nothing else is taken for one."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import bundle_at, change_record, images

from linfdeploy.engines.bundle.golden import npy_from_array
from linfdeploy.engines.bundle.read import read_bundle
from linfdeploy.engines.bundle.record import record_of
from linfdeploy.errors import InputError
from linfdeploy.files import sha256_of

Change = Callable[[Any], None]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    bundle_at(tmp_path / "bundle")
    return tmp_path / "bundle"


def refused(bundle: Path) -> str:
    with pytest.raises(InputError) as refusal:
        read_bundle(bundle)
    text = str(refusal.value)
    assert "\n" not in text
    assert text.startswith(str(bundle))
    return text.removeprefix(str(bundle)).removeprefix("/bundle.json").removeprefix(": ")


def test_what_was_written_comes_back(tmp_path: Path) -> None:
    record = bundle_at(tmp_path / "b")
    found = read_bundle(tmp_path / "b")
    assert found.record == record
    assert np.array_equal(found.golden.images, images().images)
    assert np.array_equal(found.golden.labels, images().labels)
    assert set(found.golden.answers) == {"logits", "label", "radius"}
    assert found.golden.answers["logits"].shape == (record.images, 3)
    assert found.model.read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert found.model_sha256 == sha256_of(found.model.read_bytes())
    assert found.engine == tmp_path / "b" / "model.engine"


def test_the_folder_may_be_a_link_and_may_be_moved(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(bundle)
    assert read_bundle(tmp_path / "link").record == read_bundle(bundle).record
    bundle.rename(tmp_path / "moved")
    read_bundle(tmp_path / "moved")


def test_what_was_built_is_no_stranger(bundle: Path) -> None:
    for name in ("model.engine", "model.engine.json", "model.engine.onnx", "model.plan"):
        (bundle / name).write_bytes(b"anything")
    for name in ("build", "report"):
        (bundle / name / "deeper").mkdir(parents=True)
        (bundle / name / "deeper" / "file").write_bytes(b"anything")
        (bundle / name / "link").symlink_to("/")
    read_bundle(bundle)


def test_a_changed_byte_in_any_file_is_found(bundle: Path) -> None:
    places = [path for path in sorted(bundle.rglob("*")) if path.is_file() and path.name != "bundle.json"]
    assert len(places) > 40
    for path in places:
        data = path.read_bytes()
        changed = bytearray(data)
        changed[len(data) // 2] ^= 1
        path.write_bytes(changed)
        place = path.relative_to(bundle)
        assert refused(bundle) == (
            f"{place} was changed: its SHA-256 is {sha256_of(bytes(changed))}; expected {sha256_of(data)}: "
            "copy it again"
        )
        path.write_bytes(data[:-1])
        assert refused(bundle) == f"{place} has {len(data) - 1} bytes; expected {len(data)}: copy it again"
        path.unlink()
        assert refused(bundle) == f"{place} is missing; expected a whole bundle: copy it again"
        path.write_bytes(data)
    read_bundle(bundle)


def test_a_changed_byte_of_the_record_changes_its_meaning_or_is_found(bundle: Path) -> None:
    path = bundle / "bundle.json"
    data, before = path.read_bytes(), read_bundle(bundle).record
    for place in range(0, len(data), 7):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        try:
            # What is no hash of a file is information, and cannot be checked by one.
            found = read_bundle(bundle).record
        except InputError:
            continue
        assert found != before or data[place : place + 1].isspace()
        assert found.files == before.files


@pytest.mark.parametrize("place", ["more", ".hidden", "golden/more.npy", "plugin/new/file", "venv/bin/python"])
def test_a_file_more_is_refused(place: str, bundle: Path) -> None:
    (bundle / place).parent.mkdir(parents=True, exist_ok=True)
    (bundle / place).write_bytes(b"")
    assert refused(bundle) == f"{place} is not of the bundle; expected its own files alone: remove it"


def test_a_pipe_is_no_file(bundle: Path) -> None:
    (bundle / "model.onnx").unlink()
    os.mkfifo(bundle / "model.onnx")
    assert refused(bundle).startswith("model.onnx is no file; expected ")
    (bundle / "model.onnx").unlink()
    (bundle / "model.onnx").mkdir()
    assert refused(bundle).startswith("model.onnx is no file; expected ")


@pytest.mark.parametrize("place", ["model.onnx", "golden/logits.npy", "golden", "plugin", "bundle.json"])
def test_a_link_to_the_very_same_is_refused(place: str, bundle: Path, tmp_path: Path) -> None:
    (bundle / place).rename(tmp_path / "elsewhere")
    (bundle / place).symlink_to(tmp_path / "elsewhere")
    text = refused(bundle)
    if (tmp_path / "elsewhere").is_dir():
        assert text == f"{place} is not of the bundle; expected its own files alone: remove it"
    else:
        assert text == f"{place} is or lies behind a link; expected the file itself: copy it there"


def test_no_bundle(tmp_path: Path) -> None:
    expected = "no bundle.json in it; expected a folder that linfdeploy bundle made"
    assert refused(tmp_path) == expected
    (tmp_path / "bundle.json").mkdir()
    assert refused(tmp_path) == expected


def test_a_record_without_end_is_not_read(bundle: Path) -> None:
    (bundle / "bundle.json").write_bytes(b" " * (2**20 + 1))
    assert "has 1048577 bytes; expected the record of an edge bundle of at most 1048576" in refused(bundle)


# --- golden arrays that the hashes allow


def replace_golden(bundle: Path, name: str, array: Any) -> None:
    place, data = f"golden/{name}.npy", npy_from_array(array)
    (bundle / place).write_bytes(data)
    change_record(bundle, lambda data_: data_["files"].update({place: vars(record_of(data))}))


def test_golden_arrays_of_other_shapes_and_types(bundle: Path) -> None:
    golden = read_bundle(bundle).golden
    count = len(golden.images)
    arrays: dict[str, tuple[Any, str]] = {
        "images": (golden.images[1:], f"|u1 ({count}, 1, 3, 3)"),
        "labels": (golden.labels.astype(np.int32), f"<i8 ({count},)"),
        "logits": (golden.answers["logits"].astype(np.float64), f"<f4 ({count}, 3)"),
        "label": (golden.answers["label"][:, None], f"<i8 ({count},)"),
        "radius": (golden.answers["radius"].astype(np.float16), f"<f4 ({count},)"),
    }
    before = {name: (bundle / "golden" / f"{name}.npy").read_bytes() for name in arrays}
    record = (bundle / "bundle.json").read_bytes()
    for name, (array, expected) in arrays.items():
        replace_golden(bundle, name, array)
        text = f"golden/{name}.npy holds something else; expected {expected}: make the bundle again"
        assert refused(bundle) == text
        (bundle / "golden" / f"{name}.npy").write_bytes(before[name])
        (bundle / "bundle.json").write_bytes(record)
    read_bundle(bundle)


@pytest.mark.parametrize(("index", "value"), [(0, 3), (0, -1), (20, 0), (-1, 2)])
def test_labels_out_of_range_and_out_of_place(index: int, value: int, bundle: Path) -> None:
    labels = read_bundle(bundle).golden.labels
    labels[index] = value
    replace_golden(bundle, "labels", labels)
    assert refused(bundle) == (
        "golden/labels.npy holds other labels; expected 20 of 0 to 2, then -1: make the bundle again"
    )


@pytest.mark.parametrize("name", ["logits", "radius"])
def test_answers_that_are_no_numbers(name: str, bundle: Path) -> None:
    array = np.array(read_bundle(bundle).golden.answers[name])
    array[3] = np.nan
    replace_golden(bundle, name, array)
    assert (
        refused(bundle) == "golden holds infinite or NaN answers; expected finite numbers: make the bundle again"
    )


def test_an_unreadable_folder(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", fail)
    with pytest.raises(InputError, match=f"^cannot read {re.escape(str(bundle))}: Permission denied; expected an"):
        read_bundle(bundle)
