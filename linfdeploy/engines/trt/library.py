# SPDX-License-Identifier: Apache-2.0
"""The library of our TensorRT plugins: built for the GPU at hand, kept on disk, and checked before it is loaded.

TensorRT answers a library that it cannot use with nothing, or with a crash. The library therefore says in one line
of its bytes what it was made for, and that is read before anything is loaded.
"""

from __future__ import annotations

import ctypes
import platform
import re
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from linfdeploy.engines.trt.compiler import MANIFEST, NAME, compiled_library
from linfdeploy.errors import EngineError, InputError
from linfdeploy.files import read_bytes, sha256_of
from linfdeploy.plugins_trt import PLUGIN_NAMESPACE, PLUGIN_VERSION

__all__ = ["PLUGINS", "PluginLibrary", "built_library", "check_library", "load_library", "read_library"]

PLUGINS = ("LinfDist", "LinfDistConv")

MAX_BYTES = 2**28
WHAT = f"the TensorRT plugins' library, {NAME}"
MADE_FOR = re.compile(
    rb"linfdeploy-plugins/1 architectures=([0-9a-z,-]{1,400}) tensorrt=(\d{1,3}\.\d{1,3}) "
    rb"registration=(none|static)\0"
)
# What ELF calls the processors on which TensorRT runs.
MACHINES = {62: "x86-64", 183: "aarch64"}
OWN_MACHINES = {"x86_64": 62, "AMD64": 62, "aarch64": 183, "arm64": 183}
# The modules of TensorRT that come with libnvinfer itself.
FULL_MODULES = {"tensorrt", "tensorrt_bindings"}
# Systems on a chip: they run machine code of their own architecture, and no other with the same first digit.
TEGRA = {53, 62, 72, 87, 101, 110}

_loaded: dict[str, PluginLibrary] = {}


@dataclass(frozen=True)
class PluginLibrary:
    """A library of the plugins, and what it says that it was made for.

    Attributes:
        path: The file.
        architectures: What it has code for, in CMake's words: `87-real` is machine code for compute capability
            8.7, `87-virtual` is PTX, which a driver translates for that capability and later ones, `87` is both.
        headers: The release of TensorRT whose headers it was compiled with, such as `10.3`.
        static: Whether it registers its plugins by itself when it is opened, and so depends on one libnvinfer.
        sha256: Of the file.
    """

    path: Path
    architectures: tuple[str, ...]
    headers: str
    static: bool
    sha256: str

    @property
    def architecture(self) -> int:
        """The first architecture, such as 87."""
        return _number(self.architectures[0])

    def runs_on(self, architecture: int) -> bool:
        """Whether it has code for a GPU of an architecture such as 87, by CUDA's rules of compatibility."""
        return any(_runs(word, architecture) for word in self.architectures)


def built_library(architecture: int, tensorrt_root: Path | None = None) -> PluginLibrary:
    """Returns the library for a GPU: kept from before, or compiled now, which takes about half a minute.

    Args:
        architecture: Of the GPU, such as 87 for compute capability 8.7.
        tensorrt_root: Where TensorRT's headers are; None looks at TENSORRT_ROOT, or else at the usual places.

    Raises:
        EngineError: The headers, nvcc or cmake are missing or too old, or the sources do not compile.
        InputError: The folder of what is kept cannot be written to.
    """
    return read_library(compiled_library(architecture, tensorrt_root))


def read_library(path: Path) -> PluginLibrary:
    """Reads what a library was made for, without loading it.

    Args:
        path: A library that `built_library` or CMake built.

    Raises:
        InputError: The file is missing, unreadable, no library, for another processor, not ours, or no longer what
            its manifest says, where it has one.
    """
    data = read_bytes(path, MAX_BYTES, WHAT)
    _check_elf(path, data)
    found = set(MADE_FOR.findall(data))
    if len(found) != 1:
        raise InputError(f"{path} does not say what it was made for; expected {WHAT}: build it again")
    ((architectures, headers, registration),) = found
    words = tuple(architectures.decode().split(","))
    library = PluginLibrary(path, words, headers.decode(), registration == b"static", sha256_of(data))
    _check_manifest(library)
    return library


def check_library(library: PluginLibrary, architecture: int) -> None:
    """Checks that a library has code for a GPU.

    PTX counts: CMake's `87` runs on GPUs of 9.0 too, where the driver translates it when it is first used. Whether
    that driver is as new as the compiler that wrote the PTX, no file says.

    Args:
        library: The library.
        architecture: Of the GPU, such as 87 for compute capability 8.7.

    Raises:
        EngineError: It has none.
    """
    if not library.runs_on(architecture):
        raise EngineError(
            f"{library.path} was built for {_words(library)}; this GPU is sm_{architecture}: build it again with "
            f"-DCMAKE_CUDA_ARCHITECTURES={architecture}"
        )


def load_library(trt: ModuleType, path: Path) -> None:
    """Loads a library into TensorRT's registry and checks that its plugins are there; a second time does nothing.

    Args:
        trt: `tensorrt`, `tensorrt_lean_bindings` or `tensorrt_rtx_bindings`.
        path: The library.

    Raises:
        InputError: As `read_library`.
        EngineError: The library or TensorRT is of a release that does not fit, another library of the plugins is
            loaded, or TensorRT does not take this one.
    """
    library = read_library(path)
    _check_host(library, trt)
    registry = trt.get_plugin_registry()
    if not _missing(registry):
        _check_same(library, _loaded.get(trt.__name__))
        return
    if registry.load_library(str(path)) is None:
        raise EngineError(f"TensorRT {trt.__version__} does not load {path}: {_why_not(path)}")
    if missing := _missing(registry):
        raise EngineError(
            f"TensorRT {trt.__version__} loaded {path} and has no plugin {' and '.join(missing)} of version "
            f"{PLUGIN_VERSION} in namespace {PLUGIN_NAMESPACE}: build the library again"
        )
    _loaded[trt.__name__] = library


def _check_elf(path: Path, data: bytes) -> None:
    # A 64-bit little-endian file, and the processor.
    if data[:6] != b"\x7fELF\2\1" or len(data) < 64:
        raise InputError(f"{path} is no 64-bit ELF file; expected {WHAT}")
    machine = int.from_bytes(data[18:20], "little")
    own = OWN_MACHINES.get(platform.machine())
    if own and machine != own:
        raise InputError(
            f"{path} is for the processor {MACHINES.get(machine, f'{machine} in ELF')}; this computer's is "
            f"{MACHINES[own]}: build the library on this computer"
        )


def _check_manifest(library: PluginLibrary) -> None:
    """A library that was built by hand has none, which is fine."""
    path = library.path.with_name(f"{library.path.name}.json")
    if path.exists() and library.sha256.encode() not in read_bytes(path, 2**16, MANIFEST):
        raise InputError(f"{library.path} is not the file that {path.name} was written for: build it again")


def _check_host(library: PluginLibrary, trt: ModuleType) -> None:
    """Refuses what TensorRT would answer with a crash."""
    name, version = trt.__name__, trt.__version__
    major, made_for = int(version.split(".")[0]), int(library.headers.split(".")[0])
    # TensorRT-RTX counts from 1 again.
    if major < 10 and "rtx" not in name:
        raise EngineError(f"{name} is of release {version}; expected 10.0 or later, which has plugins of our kind")
    if library.static and (name not in FULL_MODULES or major != made_for):
        raise EngineError(
            f"{library.path} registers its plugins in the libnvinfer of TensorRT {made_for}, and this is {name} "
            f"{version}: build it again without -DLINFDEPLOY_STATIC_REGISTRATION=ON"
        )


def _check_same(library: PluginLibrary, loaded: PluginLibrary | None) -> None:
    if loaded and loaded.sha256 != library.sha256:
        raise EngineError(
            f"{library.path} cannot be loaded: this process has the plugins of {loaded.path}; start another one"
        )


def _missing(registry: Any) -> list[str]:
    """The plugins that a registry does not have."""
    return [name for name in PLUGINS if registry.get_creator(name, PLUGIN_VERSION, PLUGIN_NAMESPACE) is None]


def _why_not(path: Path) -> str:
    """What a library lacks that TensorRT has answered with nothing."""
    try:
        opened = ctypes.CDLL(str(path))
    except OSError as error:
        return " ".join(str(error).split())
    lacking = [entry for entry in ("getCreators", "setLoggerFinder") if not hasattr(opened, entry)]
    if lacking:
        return f"it does not export {' and '.join(lacking)}; expected {WHAT}"
    return "it exports what is expected, so TensorRT's log says why"


def _number(word: str) -> int:
    found = re.match(r"\d+", word)
    return int(found[0]) if found else 0


def _runs(word: str, architecture: int) -> bool:
    number, _, kind = word.partition("-")
    made_for = _number(number)
    if not made_for:
        return False
    # With a letter behind it, code is for that architecture alone.
    if not number.isdecimal() or made_for in TEGRA or architecture in TEGRA:
        machine_code = made_for == architecture
    else:
        machine_code = made_for // 10 == architecture // 10 and made_for <= architecture
    ptx = made_for <= architecture if number.isdecimal() else made_for == architecture
    return (machine_code and kind != "virtual") or (ptx and kind != "real")


def _words(library: PluginLibrary) -> str:
    """Its architectures as CUDA calls them."""
    words = []
    for word in library.architectures:
        number, _, kind = word.partition("-")
        if not _number(word):
            continue
        words += [f"sm_{number}"] * (kind != "virtual") + [f"compute_{number}"] * (kind != "real")
    return ", ".join(words) or "no GPU"
