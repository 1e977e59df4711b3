# SPDX-License-Identifier: Apache-2.0
"""What verify_golden cannot use: one line each, to the letter."""

from __future__ import annotations

import os
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from emulated import run
from golden_device import IMAGES, Device
from trt_headers import HEADERS, HOW, cuda_headers

pytestmark = [
    pytest.mark.skipif(not HEADERS, reason=f"there are no headers of TensorRT: {HOW}"),
    pytest.mark.skipif(cuda_headers() is None, reason="there are no headers of CUDA: install its toolkit"),
]

FAILED = "[runtime.cpp::deserializeCudaEngine::65] Error Code 4: Internal Error (Engine deserialization failed.)"
GRAPH = (
    "expected image uint8 (N, C, H, W) and logits float32 (N, K), perhaps label int64 (N) and radius float32 (N): "
    "build it from a file of linfdeploy export"
)


class TestPlan:
    """Exit code 2: plans and plugins that TensorRT refuses."""

    def refusal(self, device: Device, why: str, mend: str) -> str:
        said = f"IRuntime::deserializeCudaEngine: {why} | {FAILED}"
        return f"{device.path}: TensorRT refuses this plan: {said}; expected {mend}"

    def test_files(self, device: Device) -> None:
        end = "; expected a plan of TensorRT: build it on this device"
        device.path.write_bytes(b"")
        assert device.refused() == f"{device.path}: an empty file{end}"
        device.path.unlink()
        assert device.refused() == f"{device.path}: there is no such file{end}"
        device.path.mkdir()
        assert device.refused() == f"{device.path}: no regular file{end}"

    def test_a_damaged_plan(self, device: Device) -> None:
        mend = "an undamaged plan: copy it again, or build it on this device"
        device.path.write_bytes(b"\x08\x08\x12\nlinfdeploy" * 20)
        tag = "Error Code 1: Serialization (magicTagRead == kMAGIC_TAG failed.Magic tag does not match)"
        assert device.refused() == self.refusal(device, tag, mend)
        for size in (1, 40, 200, -4):
            device.path.write_bytes(device.plan.written()[:size])
            why = "Error Code 1: Serialization (the plan ends too early)"
            assert device.refused() == self.refusal(device, why, mend)

    def test_of_another_release(self, device: Device) -> None:
        device.change(version=100000)
        why = (
            "Error Code 6: API Usage Error (The engine plan file is not compatible with this version of TensorRT, "
            f"expecting library version {device.plan.version} got 100000, please rebuild.)"
        )
        mend = f"a plan for TensorRT {device.release}: build it on this device"
        assert device.refused() == self.refusal(device, why, mend)

    def test_of_another_gpu(self, device: Device) -> None:
        device.change(compute=90)
        why = (
            "Error Code 6: API Usage Error (The engine plan file is generated on an incompatible device, "
            "expecting compute 8.7 got compute 9.0, please rebuild.)"
        )
        assert device.refused() == self.refusal(device, why, "a plan for this GPU: build it on this device")

    def test_with_code_inside(self, device: Device) -> None:
        device.change(host_code=1)
        why = "Error Code 3: API Usage Error (engine host code is not allowed)"
        mend = "--host-code, if you trust the plan: it holds a library that would run"
        assert device.refused() == self.refusal(device, why, mend)

    def test_without_its_plugin(self, device: Device) -> None:
        line = device.refused(plugin=False)
        assert line == (
            f"{device.path}: TensorRT refuses this plan: IPluginRegistry::getCreator: Error Code 4: API Usage "
            "Error (Cannot find plugin: LinfDist, version: 1, namespace:linfdeploy.) | "
            "IRuntime::deserializeCudaEngine: "
            f"Error Code 4: Internal Error (a plugin layer has no creator) | {FAILED}; "
            "expected the library of its plugins: give it with --plugin"
        )

    def test_libraries_that_are_none_of_plugins(self, device: Device, tmp_path: Path) -> None:
        end = "; expected liblinfdeploy_tensorrt.so, built for this machine"
        library, source = tmp_path / "libother.so", tmp_path / "other.cpp"
        start = f"{library}: TensorRT does not load this library of plugins: Error Code 3: API Usage Error "
        assert device.refused("--plugin", library) == f"{start}(Unable to open library){end}"
        source.write_text("int nothing = 0;\n")
        assert run("g++", "-shared", "-fPIC", source, "-o", library).returncode == 0
        why = "(SymbolAddress for getCreators could not be loaded)"
        assert device.refused("--plugin", library) == f"{start}{why}{end}"
        source.write_text('extern "C" void* getCreators(int& count) { count = 0; return nullptr; }\n')
        assert run("g++", "-shared", "-fPIC", source, "-o", library).returncode == 0
        assert device.refused("--plugin", library) == (
            f"{library}: a library without the plugin linfdeploy::LinfDist, version 1; expected "
            "liblinfdeploy_tensorrt.so"
        )

    def test_a_library_beside_us_is_found(self, device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(device.plugin.parent)
        assert device.run("--plugin", device.plugin.name, plugin=False)[0] == 0


class TestInterface:
    """Exit code 2: engines and golden arrays that do not fit."""

    @pytest.mark.parametrize(
        ("fields", "found"),
        [
            ({"oddity": 1}, "a tensor pixels of shape (N, 1, 4, 4) and type 5"),
            ({"oddity": 2}, "a tensor image of shape (N, 1, 4, 4) and type 0"),
            ({"oddity": 3}, "a tensor logits of shape (N, 10) and type 1"),
            ({"oddity": 4}, "no image or no logits"),
            ({"oddity": 5}, "a tensor image of shape (N, 1, 4, 4) and type 5"),
            ({"oddity": 6}, "a tensor extra [31m of shape (N, 2) and type 3"),
            ({"oddity": 7}, "a tensor image of shape (N, 1, 4, N) and type 5"),
            ({"least": 0}, "batches of 0 to 8 and 10 classes"),
            ({"least": -3}, "batches of -3 to 8 and 10 classes"),
            ({"least": 9}, "batches of 9 to 8 and 10 classes"),
            ({"image": (1, -4, 4)}, "a tensor image of shape (N, 1, -4, 4) and type 5"),
        ],
    )
    def test_engines_of_other_graphs(self, device: Device, fields: dict[str, Any], found: str) -> None:
        device.change(**fields)
        assert device.refused() == f"{device.path}: an engine with {found}; {GRAPH}"

    def test_golden_arrays_of_another_net(self, device: Device) -> None:
        end = "; expected those of one net: copy the golden folder that belongs to the plan"
        device.change(image=(1, 2, 8))
        assert device.refused() == f"{device.golden}: images of shape (1, 4, 4) for a plan of (1, 2, 8){end}"
        device.change(outputs=1)
        assert (
            device.refused() == f"{device.golden}: label.npy or radius.npy for a plan without such an output{end}"
        )
        device.write(device.plan)
        np.save(device.golden / "logits.npy", np.zeros((IMAGES, 11), np.float32))
        assert device.refused() == f"{device.golden}: logits of 11 classes for a plan of 10{end}"

    def test_arrays_that_do_not_fit_each_other(self, device: Device) -> None:
        end = ": copy the golden folder again"
        rows = "expected one row for each of 20 images"
        arrays: dict[str, Any] = {
            "logits": np.zeros((19, 10), np.float32),
            "label": np.zeros(21, np.int64),
            "radius": np.zeros(0, np.float32),
        }
        for name, values in arrays.items():
            path = device.golden / f"{name}.npy"
            before = path.read_bytes()
            np.save(path, values)
            shape = str(values.shape).replace(",)", ")")
            assert device.refused() == f"{path}: shape {shape}; {rows}{end}"
            path.write_bytes(before)
        np.save(device.golden / "logits.npy", np.zeros((20, 0), np.float32))
        path = device.golden / "logits.npy"
        assert device.refused() == f"{path}: shape (20, 0); expected at least one class{end}"
        np.save(device.golden / "images.npy", device.images[:0])
        path = device.golden / "images.npy"
        assert device.refused() == (
            f"{path}: shape (0, 1, 4, 4); expected at least one image of at least one pixel{end}"
        )


class TestGolden:
    """Exit code 2: golden arrays that are damaged."""

    def test_the_program_with_damaged_files(self, device: Device) -> None:
        rng = random.Random(4)
        for name in ("images", "logits", "label", "radius"):
            path = device.golden / f"{name}.npy"
            good = path.read_bytes()
            for _ in range(8):
                content = bytearray(good[: rng.choice([len(good), rng.randrange(1, len(good))])])
                content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
                path.write_bytes(content)
                code, _, errors = device.run()
                assert code in {0, 1, 2}
                assert code == 2 or not errors
                assert (
                    re.fullmatch(rf"verify_golden: {re.escape(str(path))}: .*; expected .*\n", errors) or code < 2
                )
            path.write_bytes(good)

    def test_what_is_no_file(self, device: Device) -> None:
        end = "; expected a .npy file of {}, little-endian and in C order: copy the golden folder again"
        (device.golden / "label.npy").unlink()
        (device.golden / "label.npy").symlink_to(device.golden / "nowhere")
        path = device.golden / "label.npy"
        assert device.refused() == f"{path}: there is no such file" + end.format("int64 (N)")
        (device.golden / "images.npy").unlink()
        path = device.golden / "images.npy"
        assert device.refused() == f"{path}: there is no such file" + end.format("uint8 (N, C, H, W)")
        os.mkfifo(path)
        assert device.refused() == f"{path}: no regular file" + end.format("uint8 (N, C, H, W)")


class TestMachine:
    """Exit code 2: what TensorRT and CUDA fail at."""

    @pytest.mark.parametrize(("version", "text"), [(120000, "12.0.0"), (90500, "90.5.0"), (8601, "8.6.1")])
    def test_a_library_of_another_major_version(self, device: Device, version: int, text: str) -> None:
        assert device.refused(faults=f"version={version},no_registry=1,no_runtime=0") == (
            f"libnvinfer is of TensorRT {text}, this program of {device.release}; expected the same major "
            "version: build verify_golden with the headers of this TensorRT"
        )

    @pytest.mark.parametrize(
        ("faults", "line"),
        [
            (
                "no_device=1",
                "CUDA finds no GPU: no CUDA-capable device is detected (error 100); expected one with its driver: "
                "run this where the plan is to run",
            ),
            (
                "no_runtime=0",
                "TensorRT does not start: CUDA initialization failure with error: 35. Please check your CUDA "
                "installation; expected a GPU with a driver for this TensorRT",
            ),
            (
                "no_runtime=552",
                "TensorRT does not start: CUDA initialization failure with error: 35. Please check your CUDA "
                "installation; expected a GPU with a driver for this TensorRT",
            ),
            (
                "no_registry=1",
                "TensorRT has no plugin registry; expected one: install TensorRT again",
            ),
            (
                "no_stream=1",
                "CUDA makes no stream: out of memory (error 2); expected one: restart the device",
            ),
            (
                "host_bytes=10",
                "CUDA gives no 128 bytes of pinned host memory: out of memory (error 2); expected room for a "
                "batch: choose a smaller --batch, or end other programs",
            ),
            (
                "enqueue=3",
                "TensorRT does not run images 16 to 19: IExecutionContext::enqueueV3: Error Code 1: Cuda Runtime "
                "(invalid device function) (a plugin's reason is in the lines above); expected results: build the "
                "plan and the plugins on this device",
            ),
            (
                "synchronize=2",
                "CUDA does not run images 8 to 15: an illegal memory access was encountered (error 700); expected "
                "results: build the plan and the plugins on this device",
            ),
        ],
    )
    def test_faults(self, device: Device, faults: str, line: str) -> None:
        assert device.refused(faults=faults) == line

    def test_memory_that_ends(self, device: Device) -> None:
        """Wherever it ends, there is a line; and what was taken is given back."""
        lines = {device.refused(faults=f"device_bytes={limit}") for limit in range(0, 3000, 100)}
        plan = "{}: TensorRT refuses this plan: IRuntime::deserializeCudaEngine: Error Code 2: OutOfMemory "
        ends = {
            plan.format(device.path)
            + f"(Requested size was 768 bytes.) | {FAILED}; expected room for the engine: end other "
            "programs that use the GPU",
            "TensorRT makes no execution context: ICudaEngine::createExecutionContext: Error Code 2: OutOfMemory "
            "(Requested size was 512 bytes.); expected room for the engine's memory: end other programs that use "
            "the GPU",
            "CUDA gives no 320 bytes of device memory: out of memory (error 2); expected room for a batch: choose "
            "a smaller --batch, or end other programs",
        }
        assert ends <= lines
        assert len(lines) >= 6
