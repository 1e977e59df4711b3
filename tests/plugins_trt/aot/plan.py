# SPDX-License-Identifier: Apache-2.0
"""Plans kernels as TensorRT's builder does, with TensorRT's own Python package, in a process of its own.

    python plan.py LIBRARY REQUEST

LIBRARY is `host.cpp`; REQUEST a JSON text with `architecture` and `nodes`. Prints what was found for every node.
"""

from __future__ import annotations

import ctypes
import json
import sys
from typing import Any

import numpy as np
import tensorrt_bindings

# As the package `tensorrt` does, which needs the whole of TensorRT.
sys.modules["tensorrt"] = tensorrt_bindings

RANK, INPUTS, LAUNCH, MOST = 4, 3, 7, 64
FIELD_TYPES = {"str": 6, "int": 5}
Shape = ctypes.c_int64 * RANK


class Tensor(ctypes.Structure):
    """Of `host.cpp`."""

    _fields_ = (
        ("type", ctypes.c_int32),
        ("rank", ctypes.c_int32),
        ("least", Shape),
        ("best", Shape),
        ("most", Shape),
    )


def tensor(given: dict[str, Any]) -> Tensor:
    shapes = (Shape(*given[name]) for name in ("least", "best", "most"))
    return Tensor(given["type"], len(given["least"]), *shapes)


class RefusedError(Exception):
    """The plugin said no."""


def checked(code: int, what: str) -> int:
    if code < 0:
        raise RefusedError(f"{what}: {code}")
    return code


def create(host: ctypes.CDLL, node: dict[str, Any]) -> None:
    """As the parser does: integers have 32 bits, texts no zero at their end."""
    names, kinds, values = [], [], []
    for name, value in node["attributes"].items():
        names.append(name.encode())
        kinds.append(FIELD_TYPES["str" if isinstance(value, str) else "int"])
        values.append(
            np.frombuffer(value.encode(), np.int8)
            if isinstance(value, str)
            else np.array([value], np.int32).ravel()
        )
    count = len(names)
    code = host.host_create(
        node["name"].encode(),
        node.get("request", 0),
        count,
        (ctypes.c_char_p * count)(*names),
        (ctypes.c_int32 * count)(*kinds),
        (ctypes.c_void_p * count)(*(value.ctypes.data for value in values)),
        (ctypes.c_int32 * count)(*map(len, values)),
    )
    checked(code, "create")


def kernel(host: ctypes.CDLL, tactic: int, sizes: list[Any]) -> dict[str, Any]:
    name, code, size = ctypes.c_char_p(), ctypes.c_char_p(), ctypes.c_int32()
    found = host.host_kernel(tactic, ctypes.byref(name), ctypes.byref(code), ctypes.byref(size))
    count = checked(found, "kernel")
    text = ctypes.string_at(code, size.value).decode()
    return {
        "name": (name.value or b"").decode(),
        "code": text,
        "launches": [evaluate(host, count, each) for each in sizes],
    }


def evaluate(host: ctypes.CDLL, count: int, sizes: list[list[int]]) -> dict[str, list[int]]:
    flat = [size for shape in sizes for size in [*shape, *[0] * (RANK - len(shape))]]
    output, launch, numbers = (ctypes.c_int64 * RANK)(), (ctypes.c_int64 * LAUNCH)(), (ctypes.c_int64 * count)()
    host.host_evaluate((ctypes.c_int64 * len(flat))(*flat), output, launch, numbers)
    return {"output": list(output), "launch": list(launch), "numbers": list(numbers)}


def plan(host: ctypes.CDLL, node: dict[str, Any]) -> dict[str, Any]:
    tensors = (Tensor * (INPUTS + 1))(*map(tensor, node["tensors"]))
    try:
        create(host, node)
        of_output = checked(host.host_type(tensors), "type")
        tactics = (ctypes.c_int32 * MOST)()
        count = checked(host.host_tactics(tensors, tactics, MOST), "tactics")
        kernels = {tactic: kernel(host, tactic, node["sizes"]) for tactic in tactics[:count]}
    except RefusedError as refusal:
        return {"refused": str(refusal)}
    return {"type": of_output, "kernels": kernels}


def main() -> None:
    from linfdeploy.plugins_trt.aot import register

    host, request = ctypes.CDLL(sys.argv[1]), json.loads(sys.argv[2])
    register(request["architecture"])
    sys.stdout.write(json.dumps([plan(host, node) for node in request["nodes"]]) + "\n")


if __name__ == "__main__":
    main()
