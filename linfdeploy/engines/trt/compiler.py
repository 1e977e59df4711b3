# SPDX-License-Identifier: Apache-2.0
"""Compiles the library of the TensorRT plugins on the user's device and keeps it on disk.

A library is found again by everything that it was made of: the sources, the architecture, the processor, the
release of TensorRT's headers and nvcc's version. Whoever changes one of these compiles anew; nothing that is kept
has to be deleted.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import linfdeploy.kernels
import linfdeploy.plugins_trt
from linfdeploy import __version__
from linfdeploy.errors import EngineError, InputError, brief
from linfdeploy.files import cache_folder, read_bytes, sha256_of, write_bytes

__all__ = ["MANIFEST", "NAME", "compiled_library"]

NAME = "liblinfdeploy_tensorrt.so"
MANIFEST = "the manifest of a library of TensorRT plugins"
FORMAT = "linfdeploy.tensorrt-plugins/1"
LEAST_HEADERS = (10, 3)
RELEASE_NAMES = ("NV_TENSORRT_MAJOR", "NV_TENSORRT_MINOR")

OPTIONS = {"CMAKE_BUILD_TYPE": "Release"}

PLUGINS = Path(linfdeploy.plugins_trt.__file__).parent
KERNELS = Path(linfdeploy.kernels.__file__).parent

# Where JetPack and Debian's packages, an unpacked release and the tests have TensorRT's headers.
USUAL_ROOTS = ("/usr", "/usr/local", "/usr/local/tensorrt", "~/.cache/linfdeploy/tensorrt")
CUDA_ROOT = Path("/usr/local")
# Whoever sets these would get a library that its place on disk does not tell from others.
UNWANTED = {"CXXFLAGS", "CUDAFLAGS", "LDFLAGS", "NVCC_APPEND_FLAGS", "NVCC_PREPEND_FLAGS"}


@dataclass(frozen=True)
class _Recipe:
    """What a library is made of, and with."""

    architecture: int
    headers: Path
    release: str
    cmake: Path
    nvcc: Path
    version: str

    def key(self) -> str:
        """A name of its own for all that goes into the library."""
        named = (self.architecture, self.release, self.version, platform.machine(), OPTIONS)
        digest = hashlib.sha256(repr(named).encode())
        for path in _sources():
            data = path.read_bytes()
            # With sizes, no two lists of files make one stream of bytes.
            digest.update(f"{path.name} {len(data)}\n".encode() + data)
        return digest.hexdigest()


def compiled_library(architecture: int, tensorrt_root: Path | None) -> Path:
    """Returns the library for a GPU of an architecture such as 87: kept from before, or compiled now.

    A kept library that was damaged is made again. Processes may do this at once: each keeps a whole one.

    Raises:
        EngineError: The headers, nvcc or cmake are missing or too old, or the sources do not compile.
        InputError: The folder of what is kept cannot be written to.
    """
    headers, release = _headers(tensorrt_root)
    cmake, nvcc = _cmake(), _nvcc()
    version = _nvcc_version(nvcc)
    _check_architecture(architecture, nvcc, version)
    recipe = _Recipe(architecture, headers, release, cmake, nvcc, version)
    place = cache_folder("tensorrt-plugins") / recipe.key()
    if not _is_whole(place):
        with _alone(place.parent):
            # Another process may have made it meanwhile.
            if not _is_whole(place):
                _make(recipe, place)
    return place / NAME


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Waits until no other process makes something in this folder."""
    import fcntl

    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError as error:
        raise InputError(
            f"cannot keep TensorRT plugins in {folder}: {error.strerror}; set LINFDEPLOY_CACHE to a folder that "
            "you can write to"
        ) from None
    with lock:
        yield


def _make(recipe: _Recipe, place: Path) -> None:
    """Compiles beside the place, then renames a whole folder to it; what a killed process left is removed."""
    for left in place.parent.glob(".*.part"):
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=".", suffix=".part", dir=place.parent) as name:
        log, made = place.with_suffix(".log"), Path(name) / "made"
        library = _compile(recipe, Path(name) / "build", log).read_bytes()
        write_bytes(made / NAME, library)
        write_bytes(made / f"{NAME}.json", _manifest(recipe, library))
        shutil.rmtree(place, ignore_errors=True)
        made.rename(place)
        log.unlink(missing_ok=True)


def _compile(recipe: _Recipe, folder: Path, log: Path) -> Path:
    options = {
        **OPTIONS,
        "CMAKE_CUDA_ARCHITECTURES": recipe.architecture,
        "CMAKE_CUDA_COMPILER": recipe.nvcc,
        "KERNELS": KERNELS,
        "TENSORRT_INCLUDE": recipe.headers,
    }
    configure = ["-S", PLUGINS, "-B", folder, *(f"-D{name}={value}" for name, value in options.items())]
    environment = {name: value for name, value in os.environ.items() if name not in UNWANTED}
    text = ""
    for arguments in (configure, ["--build", folder, "--parallel", os.cpu_count() or 1]):
        command = [str(recipe.cmake), *map(str, arguments)]
        code, said = _said_by(command, environment)
        text += said
        if code:
            write_bytes(log, text.encode())
            raise EngineError(
                f"the TensorRT plugins do not compile for sm_{recipe.architecture}: {_first_error(text)}; "
                f"all of the compiler's words are in {log}"
            )
    return folder / NAME


def _said_by(command: list[str], environment: dict[str, str]) -> tuple[int, str]:
    """What a program answers, and what it prints on either stream."""
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, check=False
        )
    except OSError as error:
        raise EngineError(f"{command[0]} does not start: {error.strerror}; install it again") from None
    return done.returncode, done.stdout.decode(errors="replace")


def _first_error(text: str) -> str:
    """The first line of a compiler that says what is wrong, or else CMake's."""
    lines = [line.strip() for line in text.splitlines()]
    compilers = [line for line in lines if re.search(r"\b(error|fatal)\b[^:]{0,20}:|undefined reference", line)]
    # CMake says where in one line, and what in the next that is not empty.
    cmakes = [
        next((line for line in lines[index + 1 :] if line), here)
        for index, here in enumerate(lines)
        if here.startswith("CMake Error")
    ]
    found = [line for line in compilers if not line.startswith("CMake Error")] + cmakes
    return found[0][:300] if found else "no error is named"


def _manifest(recipe: _Recipe, library: bytes) -> bytes:
    data = {
        "format": FORMAT,
        "sha256": sha256_of(library),
        "architecture": recipe.architecture,
        "headers": recipe.release,
        "nvcc": recipe.version,
        "linfdeploy": __version__,
    }
    return (json.dumps(data, indent=2) + "\n").encode()


def _is_whole(place: Path) -> bool:
    """Whether a library is kept there that is still the one that was made."""
    try:
        manifest = json.loads((place / f"{NAME}.json").read_bytes())
        return bool(manifest["sha256"] == sha256_of((place / NAME).read_bytes()))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _sources() -> Iterator[Path]:
    """All that the library can be made of; those that it is not made of are few."""
    for folder in (PLUGINS, KERNELS / "cuda", KERNELS / "include" / "linf"):
        for path in sorted(folder.iterdir()):
            if path.suffix in {".cpp", ".cu", ".cuh", ".h"} or path.name == "CMakeLists.txt":
                yield path


def _headers(root: Path | None) -> tuple[Path, str]:
    """The folder of TensorRT's headers, and their release, such as 10.3."""
    given = root or os.environ.get("TENSORRT_ROOT")
    roots = [Path(given)] if given else [Path(usual).expanduser() for usual in USUAL_ROOTS]
    triplet = f"{platform.machine()}-linux-gnu"
    searched = [root / place for root in roots for place in (f"include/{triplet}", "include", "")]
    found = next((folder for folder in searched if (folder / "NvInferRuntime.h").is_file()), None)
    if found is None:
        raise EngineError(
            f"there is no include/NvInferRuntime.h in {', '.join(map(str, roots))}; expected TensorRT's "
            "headers to build the plugins with: sudo apt install libnvinfer-headers-dev, or give TensorRT's "
            "folder as TENSORRT_ROOT"
        )
    release = _release(found / "NvInferVersion.h")
    if release < LEAST_HEADERS:
        raise EngineError(
            f"{found} has the headers of TensorRT {release[0]}.{release[1]}; expected 10.3 or later, as JetPack "
            "6.1 has: give the folder of a later TensorRT as TENSORRT_ROOT"
        )
    return found.absolute(), f"{release[0]}.{release[1]}"


def _release(file: Path) -> tuple[int, int]:
    text = read_bytes(file, 2**20, "TensorRT's header of that name").decode(errors="replace")
    values: dict[str, str] = dict(re.findall(r"#define (\w+) (\w+)", text))
    # In 11.x the numbers have names of their own.
    named = [values.get(name, "") for name in RELEASE_NAMES]
    major, minor = (values.get(value, value) for value in named)
    if not (major.isdecimal() and minor.isdecimal()):
        raise EngineError(f"{file} names no release; expected TensorRT's header of that name: install it again")
    return int(major), int(minor)


def _cmake() -> Path:
    folders = [str(Path(sys.prefix) / "bin"), os.environ.get("PATH", "")]
    if found := shutil.which("cmake", path=os.pathsep.join(folders)):
        return Path(found)
    raise EngineError(
        "there is no cmake; expected CMake 3.20 or later to build the TensorRT plugins with: "
        "sudo apt install cmake"
    )


def _nvcc() -> Path:
    """CUDA's compiler, which JetPack does not put on the PATH."""
    installed = [CUDA_ROOT / "cuda", *sorted(CUDA_ROOT.glob("cuda-*"), reverse=True)]
    folders = [os.environ.get("PATH", ""), *(str(root / "bin") for root in installed)]
    if found := shutil.which("nvcc", path=os.pathsep.join(folders)):
        return Path(found)
    raise EngineError(
        f"there is no nvcc on the PATH nor in {CUDA_ROOT}/cuda*/bin; expected CUDA's compiler to build the "
        "TensorRT plugins with: sudo apt install nvidia-jetpack on a Jetson, cuda-toolkit elsewhere"
    )


def _nvcc_version(nvcc: Path) -> str:
    _, said = _said_by([str(nvcc), "--version"], dict(os.environ))
    if found := re.search(r"release \d+\.\d+, V([\d.]+)", said):
        return found[1]
    raise EngineError(f"{nvcc} --version says {brief(said)}; expected CUDA's compiler: install CUDA again")


def _check_architecture(architecture: int, nvcc: Path, version: str) -> None:
    _, said = _said_by([str(nvcc), "--list-gpu-arch"], dict(os.environ))
    known = sorted(set(re.findall(r"compute_(\d+)", said)), key=int)
    if known and str(architecture) not in known:
        raise EngineError(
            f"nvcc {version} does not compile for sm_{architecture}; expected one of {', '.join(known)}: install "
            "a CUDA that knows this GPU"
        )
