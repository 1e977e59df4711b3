# SPDX-License-Identifier: Apache-2.0
"""Tensors of a foreign ONNX file: claims are checked against bytes before anything is allocated."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from onnx import TensorProto

from linfdeploy.errors import GraphError
from linfdeploy.onnx.pixel_net import Floats

__all__ = ["MAX_ELEMENTS", "array_from_tensor"]

MAX_ELEMENTS = 2**31
"""The most elements a tensor may claim; beyond it a file is taken for hostile."""
MAX_DIMS = 8

FLOATS: dict[int, np.dtype[np.float32] | np.dtype[np.float16]] = {
    TensorProto.FLOAT: np.dtype(np.float32),
    TensorProto.FLOAT16: np.dtype(np.float16),
}


def array_from_tensor(tensor: TensorProto, folder: Path | None) -> Floats:
    """Returns a tensor's values.

    Args:
        tensor: An initializer of dtype float32 or float16.
        folder: Where external data may lie; None where no external data is allowed.

    Raises:
        GraphError: Dtype, size, data or finiteness is not as it should be, or external data leaves the folder.
    """
    what = f"tensor {tensor.name!r}"
    dtype = FLOATS.get(tensor.data_type)
    if dtype is None:
        raise GraphError(f"{what} has dtype {_dtype_name(tensor)}; expected FLOAT or FLOAT16")
    shape = tuple(tensor.dims)
    if len(shape) > MAX_DIMS or any(size < 1 for size in shape) or math.prod(shape) > MAX_ELEMENTS:
        raise GraphError(
            f"{what} claims shape {shape[:MAX_DIMS]}; expected positive sizes, at most {MAX_ELEMENTS} elements"
        )
    external = tensor.data_location == TensorProto.EXTERNAL
    if external != bool(tensor.external_data) or (external and tensor.raw_data):
        raise GraphError(f"{what} says twice or wrongly where its data is; expected raw data or one external file")
    size = math.prod(shape) * dtype.itemsize
    data: bytes = _external(tensor, folder, size) if external else tensor.raw_data
    if len(data) != size:
        raise GraphError(f"{what} claims shape {shape}, so {size} bytes of raw data, but has {len(data)}")
    array = np.frombuffer(data, dtype).reshape(shape)
    if not np.isfinite(array).all():
        raise GraphError(f"{what} holds infinite or NaN values; expected finite numbers")
    return array


def _external(tensor: TensorProto, folder: Path | None, size: int) -> bytes:
    """Reads external data, which must be a regular file inside the model's folder."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location, what = entries.get("location", ""), f"external data of {tensor.name!r}"
    if folder is None:
        raise GraphError(f"{what} is in {location!r}; expected a model without external data")
    offset, length = _count(entries, "offset", 0, what), _count(entries, "length", size, what)
    try:
        path = (folder / location).resolve()
        if not location or Path(location).is_absolute() or not path.is_relative_to(folder.resolve()):
            raise GraphError(
                f"{what} is in {location!r}, outside the model's folder; expected a file beside the model"
            )
        if path.is_file() and length == size and path.stat().st_size >= offset + length:
            with path.open("rb") as file:
                file.seek(offset)
                return bytes(file.read(length))
    # Besides OSError: a NUL byte in the name, a circle of links.
    except (OSError, ValueError, RuntimeError) as error:
        raise GraphError(f"{what} cannot be read: {error}; expected a file beside the model") from None
    raise GraphError(
        f"{what} needs {size} bytes at offset {offset} of {location!r}, which does not hold them: copy it again"
    )


def _count(entries: dict[str, str], key: str, default: int, what: str) -> int:
    text = entries.get(key, str(default))
    if not text.isdecimal() or len(text) > 18:
        raise GraphError(f"{what} has {key} {text!r}; expected a number of bytes")
    return int(text)


def _dtype_name(tensor: TensorProto) -> str:
    known = tensor.data_type in TensorProto.DataType.values()
    return TensorProto.DataType.Name(tensor.data_type) if known else str(tensor.data_type)
