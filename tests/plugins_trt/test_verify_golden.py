# SPDX-License-Identifier: Apache-2.0
"""verify_golden, linked with a mock of TensorRT whose engines compute through the real plugin."""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import mock_nvinfer
import numpy as np
import pytest
from emulated import Emulated, run
from golden_device import IMAGES, Device
from trt_headers import HEADERS, HOW, PLUGINS, cuda_headers
from trt_runtimes import needs_runtime, runtime

pytestmark = [
    pytest.mark.skipif(not HEADERS, reason=f"there are no headers of TensorRT: {HOW}"),
    pytest.mark.skipif(cuda_headers() is None, reason="there are no headers of CUDA: install its toolkit"),
]

USAGE = "usage: verify_golden PLAN GOLDEN_DIR [--plugin LIBRARY] [--batch N] [--repeat R] [--host-code]"


def identical(count: int = IMAGES, *nouns: str) -> str:
    nouns = nouns or ("logits", "labels", "radii")
    return "".join(f"{count} of {count} images: all {noun} bit-identical\n" for noun in nouns)


class TestIdentical:
    """Exit code 0."""

    def test_all(self, device: Device) -> None:
        assert device.run() == (0, device.head() + identical(), "")

    @pytest.mark.parametrize("batch", [1, 3, 8])
    def test_batches_with_a_remainder(self, device: Device, batch: int) -> None:
        assert device.run("--batch", str(batch)) == (0, device.head(batch=batch) + identical(), "")

    def test_runs_again(self, device: Device) -> None:
        assert device.run("--repeat", "3") == (0, device.head() + identical(), "")

    def test_a_profile_larger_than_the_images(self, device: Device) -> None:
        device.change(most=64)
        assert device.run() == (0, device.head(most=64, batch=IMAGES) + identical(), "")

    def test_a_fixed_batch_and_a_least_batch_overlap(self, device: Device) -> None:
        device.change(fixed=1, least=8)
        assert device.run() == (0, device.head(least=8) + identical(), "")
        device.change(least=6)
        assert device.run("--batch", "7") == (0, device.head(least=6, batch=7) + identical(), "")

    def test_a_plan_without_certificates(self, device: Device) -> None:
        for name in ("label", "radius"):
            (device.golden / f"{name}.npy").unlink()
        device.change(outputs=0)
        assert device.run() == (0, device.head() + identical(IMAGES, "logits"), "")

    def test_what_is_not_compared_is_said(self, device: Device) -> None:
        (device.golden / "label.npy").unlink()
        said = "label: not compared, there is no label.npy\n"
        assert device.run() == (0, device.head() + said + identical(IMAGES, "logits", "radii"), "")
        (device.golden / "radius.npy").unlink()
        said += "radius: not compared, there is no radius.npy\n"
        assert device.run() == (0, device.head() + said + identical(IMAGES, "logits"), "")

    def test_a_plan_with_code_inside(self, device: Device) -> None:
        device.change(host_code=1)
        assert device.run("--host-code") == (0, device.head() + identical(), "")

    def test_help(self, device: Device) -> None:
        assert device.call("--help") == (0, USAGE + "\n", "")


def as_shown(value: np.float32) -> str:
    return f"{float(value):.9g} (0x{value.view(np.uint32):08x})"


class TestDifferent:
    """Exit code 1."""

    def test_one_bit_of_the_golden_logits(self, device: Device) -> None:
        logits = np.load(device.golden / "logits.npy")
        found = logits[17, 3]
        logits.view(np.uint32)[17, 3] ^= 4
        np.save(device.golden / "logits.npy", logits)
        line = f"image 17, logit 3: expected {as_shown(logits[17, 3])}, found {as_shown(found)}, 4 ulp apart"
        count = "19 of 20 images: all logits bit-identical; 1 of 200 numbers differ, by at most 4 ulp\n"
        expected = (
            device.head() + f"{line}, in a batch of 4, run 1\n" + count + identical(IMAGES, "labels", "radii")
        )
        assert device.run("--repeat", "2") == (1, expected, "")

    def test_labels_and_radii(self, device: Device) -> None:
        label, radius = (np.load(device.golden / f"{name}.npy") for name in ("label", "radius"))
        found = label[2], radius[5]
        label[2] = -(2**40)
        radius[5] = np.nan
        np.save(device.golden / "label.npy", label)
        np.save(device.golden / "radius.npy", radius)
        code, output, errors = device.run()
        assert (code, errors) == (1, "")
        assert output == device.head() + (
            f"image 2, label: expected {-(2**40)}, found {found[0]}, in a batch of 8, run 1\n"
            f"image 5, radius: expected nan (0x7fc00000), found {as_shown(found[1])}, in a batch of 8, run 1\n"
            "20 of 20 images: all logits bit-identical\n"
            "19 of 20 images: all labels bit-identical; 1 of 20 numbers differ\n"
            "19 of 20 images: all radii bit-identical; 1 of 20 numbers differ, by at most 0 ulp\n"
        )

    def test_both_zeros_are_two_numbers(self, device: Device) -> None:
        radius = np.load(device.golden / "radius.npy")
        place = int(np.flatnonzero(radius == 0)[0])
        radius[place] = -0.0
        np.save(device.golden / "radius.npy", radius)
        code, output, _ = device.run()
        assert code == 1
        assert f"image {place}, radius: expected -0 (0x80000000), found 0 (0x00000000), 1 ulp apart" in output

    @pytest.mark.parametrize("layer", [0, 1])
    def test_any_flipped_weight_bit(self, device: Device, layer: int) -> None:
        """As many images and numbers are found as the net of these weights changes."""
        rng = random.Random(layer)
        found = 0
        for _ in range(6):
            weight, bias = (values.copy() for values in device.plan.layers[layer])
            weight.view(np.uint32).flat[rng.randrange(weight.size)] ^= 1 << rng.randrange(16, 30)
            layers = [*device.plan.layers[:layer], (weight, bias), *device.plan.layers[layer + 1 :]]
            changed = replace(device.plan, layers=layers)
            device.write(changed)
            before, after = device.plan.answers(device.images)["logits"], changed.answers(device.images)["logits"]
            differ = before.view(np.uint32) != after.view(np.uint32)
            code, output, errors = device.run()
            assert (code, errors) == (int(differ.any()), "")
            assert f"{(~differ.any(axis=1)).sum()} of 20 images: all logits bit-identical" in output
            assert f"; {differ.sum()} of 200 numbers differ, by at most" in output or not differ.any()
            found += bool(differ.any())
        assert found >= 2

    def test_a_flipped_bias_bit_and_ten_lines_at_most(self, device: Device) -> None:
        weight, bias = (values.copy() for values in device.plan.layers[1])
        bias.view(np.uint32)[4] ^= 1 << 31
        device.change(layers=[device.plan.layers[0], (weight, bias)])
        code, output, _ = device.run()
        assert code == 1
        assert "0 of 20 images: all logits bit-identical; 20 of 200 numbers differ, by at most " in output
        assert output.count("logit 4: expected") == 10

    def test_a_fault_of_one_batch_size(self, device: Device) -> None:
        """The remainder of 20 images in batches of 8 has 4."""
        code, output, _ = device.run(faults="flips_batch=4")
        assert code == 1
        assert re.search(r"image 19, logit 9: expected .*, 1 ulp apart, in a batch of 4, run 1\n", output)
        code, output, _ = device.run(faults="flips_batch=1")
        assert code == 1
        assert output.count("in a batch of 1, run 1\n") == 16

    def test_an_engine_that_is_not_deterministic(self, device: Device) -> None:
        """One run is eleven batches: three, and eight single images."""
        assert device.run(faults="flips=14")[0] == 0
        code, output, _ = device.run("--repeat", "2", faults="flips=14")
        logits = device.plan.answers(device.images)["logits"]
        good, bad = (np.uint32(logits[19, 9].view(np.uint32) ^ bit).view(np.float32) for bit in (0, 1))
        end = f"{as_shown(good)}, found {as_shown(bad)}, 1 ulp apart, in a batch of 4, run 2\n"
        assert (code, output) == (
            1,
            device.head()
            + f"image 19, logit 9: expected {end}image 19, logit 9: earlier {end}"
            + "19 of 20 images: all logits bit-identical; 1 of 200 numbers differ, by at most 1 ulp\n"
            + "not deterministic: 1 of the logits changed between runs of the same image\n"
            + identical(IMAGES, "labels", "radii"),
        )

    def test_an_engine_that_writes_nothing(self, device: Device) -> None:
        """What an earlier batch left is not taken for an answer."""
        code, output, _ = device.run(faults="writes_nothing_from=12")
        assert code == 0
        code, output, _ = device.run("--repeat", "2", faults="writes_nothing_from=12")
        assert code == 1
        assert "0 of 20 images: all logits bit-identical; 200 of 200 numbers differ" in output
        assert "found nan (0xffffffff), in a batch of 8, run 2" in output
        assert "found -1, in a batch of 8, run 2" in output


class TestUse:
    """Exit code 2: what is asked for."""

    @pytest.mark.parametrize(
        ("arguments", "line"),
        [
            ([], f"0 paths; expected PLAN and GOLDEN_DIR; {USAGE}"),
            (["a", "b", "c"], f"3 paths; expected PLAN and GOLDEN_DIR; {USAGE}"),
            (["a", "b", "--fast"], f"there is no option --fast; {USAGE}"),
            (["a", "b", "--batch"], f"--batch is given without a value; {USAGE}"),
            (["a", "b", "--batch", "0"], "--batch is 0; expected a whole number of 1 to 2147483647"),
            (["a", "b", "--batch", "1e3"], "--batch is 1e3; expected a whole number of 1 to 2147483647"),
            (
                ["a", "b", "--batch", "9" * 50],
                f"--batch is {'9' * 40}...; expected a whole number of 1 to 2147483647",
            ),
            (["a", "b", "--repeat", "-1"], "--repeat is -1; expected a whole number of 1 to 1000000"),
            (["a", "b", "--repeat", ""], "--repeat is ; expected a whole number of 1 to 1000000"),
            (["a", "/b"], "/b: no folder; expected one with images.npy and logits.npy"),
        ],
    )
    def test_arguments(self, device: Device, arguments: list[str], line: str) -> None:
        assert device.call(*arguments) == (2, "", f"verify_golden: {line}\n")

    def test_a_batch_outside_the_profile(self, device: Device) -> None:
        line = (
            "expected {} to 8, the batches of the plan's profile: choose one of these, or build the plan with "
            "another profile"
        )
        assert device.refused("--batch", "9") == "--batch is 9; " + line.format(1)
        device.change(least=4)
        assert device.refused("--batch", "3") == "--batch is 3; " + line.format(4)

    def test_a_batch_of_more_than_the_images(self, device: Device) -> None:
        device.change(most=64)
        assert device.refused("--batch", "21") == "--batch is 21, more than the 20 images; expected at most 20"
        device.change(most=64, least=32)
        assert device.refused() == (
            f"{device.golden}: 20 images for a plan that takes batches of at least 32; expected as many: build "
            "the plan with a smaller least batch"
        )


class TestBuild:
    """The program as a user builds it, and with a library of TensorRT's own."""

    def test_cmake_builds_it(self, tmp_path: Path) -> None:
        if not (shutil.which("nvcc") and shutil.which("cmake")):
            pytest.skip("there is no nvcc or no cmake to build the program with")
        major, minor, patch = mock_nvinfer.release_of(HEADERS[0])
        source, build = tmp_path / "nvinfer.cpp", tmp_path / "build"
        (tmp_path / "lib").mkdir()
        source.write_text(
            'extern "C" int getInferLibVersion() { return 120304; }\n'
            'extern "C" void getPluginRegistry() {}\n'
            'extern "C" void createInferRuntime_INTERNAL() {}\n'
        )
        assert run("g++", "-shared", "-fPIC", source, "-o", tmp_path / "lib" / "libnvinfer.so").returncode == 0
        where = f"-DTENSORRT_INCLUDE={HEADERS[0]}", f"-DTENSORRT_ROOT={tmp_path}"
        options = "-DLINFDEPLOY_RUNNER=ON", "-DCMAKE_CUDA_ARCHITECTURES=87"
        compiler = f"-DCMAKE_CUDA_COMPILER={shutil.which('nvcc')}"
        for command in (
            ("cmake", "-S", PLUGINS, "-B", build, compiler, *options, *where),
            ("cmake", "--build", build, "--target", "verify_golden"),
        ):
            done = run(*command)
            assert done.returncode == 0, done.stdout + done.stderr
            assert "warning" not in done.stderr
        done = run(build / "verify_golden", "a", "b")
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == (
            f"verify_golden: libnvinfer is of TensorRT 12.3.4, this program of {major}.{minor}.{patch}; expected "
            "the same major version: build verify_golden with the headers of this TensorRT\n"
        )

    @pytest.mark.parametrize(
        "release", [pytest.param(name, marks=needs_runtime(name)) for name in ("lean-10", "lean-11")]
    )
    def test_with_a_real_runtime(self, release: str, runner: Emulated, headers: Path, device: Device) -> None:
        """One of another major version is not called; one of the same refuses to start, or the plan."""
        root = runtime(release)
        assert root is not None
        folder = root / "tensorrt_lean_libs"
        library = next(folder.glob("libnvinfer_lean.so.*"))
        program = mock_nvinfer.program_with_tensorrt(runner, library)
        environment = {**os.environ, "LD_LIBRARY_PATH": str(folder)}
        done = subprocess.run(
            [program, device.path, device.golden], capture_output=True, text=True, check=False, env=environment
        )
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.count("\n") == 1
        if library.name.endswith(f".{mock_nvinfer.release_of(headers)[0]}"):
            path = re.escape(str(device.path))
            expected = f"(TensorRT does not start|{path}: TensorRT refuses this plan): .+; expected"
        else:
            expected = "libnvinfer is of TensorRT .*; expected the same major version: "
        assert re.match(f"verify_golden: {expected}", done.stderr), done.stderr
