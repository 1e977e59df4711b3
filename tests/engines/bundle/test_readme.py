# SPDX-License-Identifier: Apache-2.0
"""Every command of every README, against what its program takes."""

import re
import shlex
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import trtexec_flags
from bundles import bundle_at, commands
from packaging.requirements import Requirement
from trt_headers import PLUGINS

import linfdeploy
from linfdeploy.cli import group
from linfdeploy.engines.bundle.readme import readme
from linfdeploy.engines.bundle.record import BUILT, BundleRecord
from linfdeploy.engines.bundle.targets import TARGETS
from linfdeploy.onnx.write import Form

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# Both numbers of TensorRT for each target, oldest and newest; CUDA's first release.
RELEASES = {
    "jetpack6": ((10, 3), (10, 3), (12, 6)),
    "jetpack7": ((10, 13), (10, 13), (13, 0)),
    "jetpack7.2": ((10, 16), (10, 16), (13, 2)),
    "tensorrt10": ((10, 7), (10, 16), (12, 0)),
    "tensorrt11": ((11, 0), (11, 1), (13, 0)),
}
# Where nvcc learnt each architecture; 110 was 101 before.
ARCHITECTURES = {80: (11, 0), 86: (11, 1), 87: (11, 4), 89: (11, 8), 90: (11, 8), 110: (13, 0)}

RUNNER_OPTIONS = {"--plugin": True, "--batch": True, "--repeat": True, "--host-code": False}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, Form], tuple[Path, BundleRecord]]:
    """A bundle of every target in every form that it takes."""
    found = {}
    forms: tuple[Form, ...] = ("function", "op", "standard")
    for target in TARGETS:
        for form in forms:
            if (target, form) != ("jetpack6", "function"):
                folder = tmp_path_factory.mktemp("bundles") / f"{target}-{form}"
                found[target, form] = folder, bundle_at(folder, target, form=form, radius=False)
    return found


PAIRS = [
    (target, form)
    for target in RELEASES
    for form in ("function", "op", "standard")
    if (target, form) != ("jetpack6", "function")
]
WITH_PLUGIN = [pair for pair in PAIRS if pair[1] != "standard"]


def command(folder: Path, start: str) -> str:
    (found,) = [line for line in commands(folder) if start in line]
    return found


def assert_in_bundle(folder: Path, record: BundleRecord, place: str) -> None:
    """A file or a folder of the bundle, or what is built in it."""
    path = Path(place)
    assert not path.is_absolute()
    built = path.parts[0] in BUILT
    assert built or place in record.files or (folder / place).is_dir(), place


def test_the_tables_are_about_the_same_targets() -> None:
    assert set(RELEASES) == set(TARGETS)
    assert all(TARGETS[name].tensorrt == oldest for name, (oldest, _, _) in RELEASES.items())


@pytest.mark.parametrize(("target", "form"), PAIRS)
def test_three_commands_each_way(target: str, form: Form, made: Any) -> None:
    folder, _ = made[target, form]
    assert len(commands(folder)) == (4 if form == "standard" else 6)


@pytest.mark.parametrize(("target", "form"), PAIRS)
def test_trtexec(target: str, form: Form, made: Any) -> None:
    folder, record = made[target, form]
    text = command(folder, "trtexec")
    for release in RELEASES[target][:2]:
        assert trtexec_flags.faults(text, release) == []
    words = dict(word.partition("=")[::2] for word in shlex.split(text)[1:])
    assert ("--dynamicPlugins" in words) == (form != "standard")
    assert ("--stronglyTyped" in words) == (RELEASES[target][0] < (11, 0))
    for flag in ("--onnx", "--saveEngine", "--dynamicPlugins"):
        if flag in words:
            assert_in_bundle(folder, record, words[flag])
    assert words["--onnx"] in record.files
    sizes = [[int(n) for n in words[f"--{name}Shapes"].split(":")[1].split("x")] for name in ("min", "opt", "max")]
    assert all(tuple(size[1:]) == record.input_shape for size in sizes)
    assert 1 == sizes[0][0] <= sizes[1][0] <= sizes[2][0]
    assert all(words[f"--{name}Shapes"].startswith("image:") for name in ("min", "opt", "max"))


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (("--onnx=", "--onnx "), "--onnx: lacks its value"),
        (("--skipInference", "--skipInferences"), "--skipInferences is no flag that we know"),
        (("--skipInference", "--skipInference=1"), "--skipInference: takes no value"),
        (("--skipInference", "--enablePluginOverride"), "--enablePluginOverride is not in (10, 3)"),
        (("--optShapes=image:64x1x3x3", ""), "some shapes are given and others are not"),
        (("image:64x1x3x3", "64x1x3x3"), "--optShapes: 64x1x3x3 is no shape"),
        (("build/lib", "lib"), "--dynamicPlugins: the loader looks for a bare name in its own folders"),
        (("--stronglyTyped", ""), "the types of the file are not kept"),
        (("--maxShapes", "--minShapes"), "--minShapes is given twice"),
    ],
)
def test_the_check_of_trtexec_finds_faults(change: tuple[str, str], fault: str, made: Any) -> None:
    text = command(made["jetpack6", "op"][0], "trtexec")
    assert change[0] in text
    assert fault in trtexec_flags.faults(text.replace(*change), (10, 3))


def test_fp16_is_gone_in_11(made: Any) -> None:
    text = command(made["tensorrt11", "op"][0], "trtexec")
    assert trtexec_flags.faults(f"{text} --fp16", (11, 1)) == ["--fp16 is not in (11, 1)"]


@pytest.mark.parametrize(("target", "form"), WITH_PLUGIN)
def test_cmake(target: str, form: Form, made: Any) -> None:
    folder, record = made[target, form]
    first, second = command(folder, "cmake -S").split(" && ")
    words = shlex.split(first)
    assert words[:2] == ["cmake", "-S"]
    assert words[3:5] == ["-B", "build"]
    assert f"{words[2]}/CMakeLists.txt" in record.files
    assert shlex.split(second) == ["cmake", "--build", "build"]
    options = dict(word.removeprefix("-D").split("=") for word in words[5:])
    assert set(options) == {"LINFDEPLOY_RUNNER", "CMAKE_CUDA_ARCHITECTURES"}
    numbers = [int(number) for number in options["CMAKE_CUDA_ARCHITECTURES"].split(";")]
    assert numbers == list(TARGETS[target].boards.values())
    assert all(ARCHITECTURES[number] <= RELEASES[target][2] for number in numbers)
    rows = re.findall(r"^\| (.+?) \| (\d+) \|$", (folder / "README.md").read_text("utf-8"), re.MULTILINE)
    assert {name: int(number) for name, number in rows} == TARGETS[target].boards


def test_cmake_knows_the_options() -> None:
    lists = (PLUGINS / "CMakeLists.txt").read_text("utf-8")
    known = set(re.findall(r"^(?:option|set)\((\w+) ", lists, re.MULTILINE))
    assert "TENSORRT_ROOT" in known
    if not (PLUGINS / "runner").is_dir():
        pytest.skip("there is no verify_golden in plugins_trt/runner, whose option is checked here")
    assert "LINFDEPLOY_RUNNER" in known


@pytest.mark.parametrize(("target", "form"), WITH_PLUGIN)
def test_verify_golden(target: str, form: Form, made: Any) -> None:
    folder, record = made[target, form]
    program, *words = shlex.split(command(folder, "verify_golden "))
    assert program == "build/verify_golden"
    paths, options = [], {}
    while words:
        word = words.pop(0)
        if word.startswith("--"):
            options[word] = words.pop(0) if RUNNER_OPTIONS[word] else ""
        else:
            paths.append(word)
    assert len(paths) == 2
    for place in (*paths, options["--plugin"]):
        assert_in_bundle(folder, record, place)
    trtexec = command(folder, "trtexec --onnx").split()
    assert f"--saveEngine={paths[0]}" in trtexec
    assert f"--dynamicPlugins={options['--plugin']}" in trtexec
    assert {f"{paths[1]}/images.npy", f"{paths[1]}/logits.npy"} <= set(record.files)


def test_verify_golden_knows_the_options() -> None:
    source = PLUGINS / "runner" / "options.h"
    if not source.is_file():
        pytest.skip("there is no verify_golden in plugins_trt/runner, whose options are checked here")
    (usage,) = re.findall(r'"usage: verify_golden (.*)"', source.read_text("utf-8"))
    options = {name: bool(value) for name, value in re.findall(r"\[(--[a-z-]+)( [A-Z]+)?\]", usage)}
    assert options == RUNNER_OPTIONS
    assert usage.startswith("PLAN GOLDEN_DIR [")


@pytest.mark.parametrize(("target", "form"), PAIRS)
def test_linfdeploy(target: str, form: Form, made: Any) -> None:
    folder, record = made[target, form]
    lines = [line for line in commands(folder) if line.startswith("linfdeploy ")]
    assert len(lines) == 2
    for line in lines:
        _, verb, *words = shlex.split(line)
        found = group.get_command(click.Context(group), verb)
        assert found is not None
        # Parses as the command line does, and refuses what it does not know.
        values = found.make_context(verb, words).params
        assert values["model" if verb == "build" else "engine"] == Path()
        if verb == "verify":
            assert_in_bundle(folder, record, str(values["report"]))
            assert values["attack"] == "none"


@pytest.mark.parametrize(("target", "form"), PAIRS)
def test_pip(target: str, form: Form, made: Any) -> None:
    *words, ours, other = shlex.split(command(made[target, form][0], "pip install"))
    assert words == ["python3", "-m", "pip", "install"]
    assert ours == f"linfdeploy[tensorrt]=={linfdeploy.__version__}"
    tables = tomllib.loads((PLUGINS.parent / "pyproject.toml").read_text("utf-8"))
    extra = [Requirement(text) for text in tables["project"]["optional-dependencies"]["tensorrt"]]
    wanted = Requirement(other)
    oldest, newest, cuda = RELEASES[target]
    if wanted.name == "tensorrt":
        assert f"{oldest[0]}.{oldest[1]}.0" in wanted.specifier
        assert f"{newest[0]}.99" in wanted.specifier
        assert f"{oldest[0] + 1}.0" not in wanted.specifier
        return
    (ranges,) = [requirement.specifier for requirement in extra if requirement.name == wanted.name]
    # No release for 12.6 is on the index.
    release = "12.8.0" if target == "jetpack6" else f"{cuda[0]}.{cuda[1]}.0"
    assert release in wanted.specifier
    assert release in ranges
    assert f"{cuda[0] + 1}.0.0" not in wanted.specifier


@pytest.mark.parametrize(("target", "form"), PAIRS)
def test_the_page_is_whole(target: str, form: Form, made: Any) -> None:
    folder, record = made[target, form]
    page = (folder / "README.md").read_text("utf-8")
    assert readme(record).decode() == page
    assert TARGETS[target].title in page
    assert not re.search(r"{[{%]|\n\n\n|undefined|None", page)
    assert page.endswith("printed it.\n")
    assert ("`plugin/`" in page) == (form != "standard")
    for name in ("model.onnx", "golden/logits.npy"):
        assert f"    {record.files[name].sha256}  {name}\n" in page


def test_the_golden_bits_of_a_float_graph_are_a_definition(tmp_path: Path) -> None:
    must = "every engine must answer every golden logit bit by bit"
    may = "an engine that rounds elsewhere may differ and be right"
    exact, half = (tmp_path / name for name in ("exact", "fp16"))
    assert bundle_at(exact).golden_bits == "required"
    assert bundle_at(half, precision="fp16").golden_bits == "definition"
    assert must in (exact / "README.md").read_text("utf-8")
    page = (half / "README.md").read_text("utf-8")
    assert must not in page
    assert may in page
