# SPDX-License-Identifier: Apache-2.0
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, numpy_helper

from linfdeploy.errors import GraphError
from linfdeploy.onnx.tensors import array_from_tensor

VALUES = np.array([[1, -2, 3], [0.5, 0, -0.0]], np.float32)


def tensor(**fields: Any) -> TensorProto:
    made = numpy_helper.from_array(VALUES, "t")
    for name, value in fields.items():
        made.ClearField(name)
        if isinstance(value, list):
            getattr(made, name).extend(value)
        else:
            setattr(made, name, value)
    return made


def external(location: str | bytes, **entries: object) -> TensorProto:
    made = tensor(raw_data=b"", data_location=TensorProto.EXTERNAL)
    made.ClearField("raw_data")
    for key, value in {"location": location, **entries}.items():
        entry = made.external_data.add()
        entry.key, entry.value = key, str(value)
    return made


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_reads_bits(dtype: Any) -> None:
    values = VALUES.astype(dtype)
    found = array_from_tensor(numpy_helper.from_array(values, "t"), None)
    assert (found.dtype, found.shape, found.tobytes()) == (values.dtype, values.shape, values.tobytes())


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"data_type": TensorProto.DOUBLE}, "has dtype DOUBLE; expected FLOAT or FLOAT16"),
        ({"data_type": 9999}, "has dtype 9999; expected"),
        (
            {"dims": [2**40]},
            r"claims shape \(1099511627776,\); expected positive sizes, at most 2147483648 elements",
        ),
        ({"dims": [2**20, 2**20]}, "at most 2147483648 elements"),
        ({"dims": [-2, -3]}, r"claims shape \(-2, -3\); expected positive sizes"),
        ({"dims": [0]}, r"claims shape \(0,\)"),
        ({"dims": [1] * 10000}, r"claims shape \(1, 1, 1, 1, 1, 1, 1, 1\); expected"),
        ({"raw_data": b"abc"}, r"claims shape \(2, 3\), so 24 bytes of raw data, but has 3"),
        ({"raw_data": b""}, "24 bytes of raw data, but has 0"),
        ({"raw_data": b"", "float_data": [1.0] * 6}, "24 bytes of raw data, but has 0"),
        ({"raw_data": np.full(6, np.nan, np.float32).tobytes()}, "infinite or NaN"),
        ({"raw_data": np.full(6, -np.inf, np.float32).tobytes()}, "infinite or NaN"),
        ({"data_location": TensorProto.EXTERNAL}, "where its data is"),
    ],
)
def test_refuses(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(GraphError, match=text):
        array_from_tensor(tensor(**fields), None)


def test_external_data_beside_the_model(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "data").write_bytes(b"1234" + VALUES.tobytes() + b"tail")
    for entries in ({"offset": 4}, {"offset": 4, "length": 24}):
        assert array_from_tensor(external("sub/data", **entries), tmp_path).tobytes() == VALUES.tobytes()
    assert array_from_tensor(external("./sub/../sub/data"), tmp_path).shape == (2, 3)


@pytest.mark.parametrize(
    ("location", "entries", "text"),
    [
        ("../../etc/passwd", {}, "outside the model's folder"),
        ("/etc/passwd", {}, "outside the model's folder"),
        ("sub/../../outside", {}, "outside the model's folder"),
        ("link", {}, "outside the model's folder"),
        ("linked/outside", {}, "outside the model's folder"),
        ("", {}, "outside the model's folder"),
        (".", {}, "does not hold them"),
        ("missing", {}, "needs 24 bytes at offset 0 of 'missing', which does not hold them"),
        ("short", {}, "does not hold them"),
        ("good", {"offset": 10}, "does not hold them"),
        ("good", {"offset": 10**17}, "does not hold them"),
        ("good", {"length": 4}, "does not hold them"),
        ("good", {"offset": -4}, "offset '-4'; expected a number of bytes"),
        ("good", {"offset": "9" * 400}, "expected a number of bytes"),
        ("good", {"length": "x"}, "length 'x'; expected a number of bytes"),
        ("fifo", {}, "does not hold them"),
        ("circle", {}, "external data of 't'"),
        ("no\0name", {}, "cannot be read: .*null"),
        ("n" * 5000, {}, "cannot be read: .*too long"),
    ],
)
def test_external_data_that_is_refused(
    location: str, entries: dict[str, object], text: str, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "outside").write_bytes(VALUES.tobytes())
    (folder / "good").write_bytes(VALUES.tobytes())
    (folder / "short").write_bytes(b"123")
    (folder / "link").symlink_to(tmp_path / "outside")
    (folder / "linked").symlink_to(tmp_path)
    (folder / "circle").symlink_to("circle")
    os.mkfifo(folder / "fifo")
    with pytest.raises(GraphError, match=text):
        array_from_tensor(external(location, **entries), folder)


def test_external_data_where_none_is_allowed() -> None:
    with pytest.raises(GraphError, match="expected a model without external data"):
        array_from_tensor(external("data"), None)


def test_data_in_two_places(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(VALUES.tobytes())
    both = external("data")
    both.raw_data = VALUES.tobytes()
    # A reader that goes by data_location and one that goes by external_data would see different weights.
    unmarked = external("data")
    unmarked.data_location = TensorProto.DEFAULT
    for made in (both, unmarked):
        with pytest.raises(GraphError, match="where its data is"):
            array_from_tensor(made, tmp_path)
