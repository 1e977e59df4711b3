# SPDX-License-Identifier: Apache-2.0
"""Device code compiled for the emulator of `kernels/cuda/emulator`, so that it runs where there is no GPU."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

KERNELS = Path(__file__).parents[1] / "linfdeploy" / "kernels"
EMULATOR = Path(__file__).parent / "kernels" / "cuda" / "emulator"
JOBS = 2
WAITING = 60
"""How many times its processor time a command may take, in case that it waits for ever."""

FLAGS = [
    *("-std=c++17", "-march=native", "-pthread", "-fPIC", "-ftls-model=initial-exec"),
    *("-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fno-strict-aliasing"),
    *("-Wall", "-Wextra", "-Wno-unknown-pragmas", "-Wno-psabi"),
]


def run(
    *command: str | Path, seconds: int = 300, environment: Mapping[str, str] = MappingProxyType({})
) -> subprocess.CompletedProcess[str]:
    """Runs a command with these variables besides the process's own.

    The time that it may take is the processor's: on a busy machine a build of a minute can last an hour.
    """
    limited = ["sh", "-c", 'ulimit -t "$0" && exec "$@"', str(seconds), *map(str, command)]
    env = {**os.environ, **environment}
    return subprocess.run(limited, capture_output=True, text=True, check=False, timeout=WAITING * seconds, env=env)


def compile_with(*arguments: str | Path) -> str:
    """What g++ prints; fails with its message."""
    done = run("g++", *FLAGS, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def cpu_objects(folder: Path) -> list[Path]:
    """The CPU kernels for this machine, as linf::machine::kernels, and what they need."""

    def compiled(name: str) -> Path:
        includes = [f"-I{KERNELS / 'cpu'}", f"-I{KERNELS / 'include'}"]
        source = KERNELS / "cpu" / f"{name}.cpp"
        compile_with("-O2", "-DLINF_ISA=machine", *includes, "-c", source, "-o", folder / f"{name}.o")
        return folder / f"{name}.o"

    with ThreadPoolExecutor(JOBS) as pool:
        return list(pool.map(compiled, ["variant", "linf_dist_conv", "parallel"]))


@dataclass
class Emulated:
    """Compiles one folder of kernels, and programs that launch them; each source once.

    Attributes:
        folder: Where objects and programs are put.
        device: The folder with entries.h, aot_entries.h and the .cu files.
        include: The folder with the kernels' headers, linf/*.cuh.
        sanitize: What -fsanitize= is given: "address,undefined", "thread" or nothing.
        flags: Further flags for all sources.
    """

    folder: Path
    device: Path = KERNELS / "cuda"
    include: Path = KERNELS / "include"
    sanitize: str = ""
    flags: tuple[str, ...] = ("-O2",)
    _objects: dict[Path, Path] = field(default_factory=dict)

    def program(self, name: str, sources: Iterable[Path], objects: Iterable[Path] = ()) -> Path:
        """A program of these sources, objects that were compiled elsewhere, and the emulated kernels."""
        return self._linked(name, [*self.compiled(sources), *objects])

    def library(self, name: str = "libemulated.so", sources: Iterable[Path] = ()) -> Path:
        """The shared library of the emulated kernels, what starts them, and these sources."""
        return self._linked(name, self.compiled([*self.launchers(), *sources]), "-shared")

    def program_without_kernels(self, name: str, sources: Iterable[Path], objects: Iterable[Path] = ()) -> Path:
        """A program of these sources, and objects or libraries that were made elsewhere, alone."""
        with ThreadPoolExecutor(JOBS) as pool:
            return self._linked(name, [*pool.map(self._object, sources), *objects])

    def launchers(self) -> list[Path]:
        return sorted(self.device.glob("*launcher*.cpp"))

    def compiled(self, sources: Iterable[Path]) -> list[Path]:
        """The objects of these sources, of all kernels and of the emulator."""
        emulator = sorted(EMULATOR.glob("*.cpp"))
        with ThreadPoolExecutor(JOBS) as pool:
            return list(pool.map(self._object, [*self.kernels(), *sources, *emulator]))

    def kernels(self) -> list[Path]:
        """The files with kernels, the largest first."""
        paths = {self.device / f"{file}.cu" for _, file in self._entries()}
        return sorted(paths, key=lambda path: -path.stat().st_size)

    def forget(self, name: str) -> None:
        """Has a file of the device folder compiled again."""
        self._objects.pop(self.device / name)

    def adopt(self, other: Emulated) -> None:
        """Takes the objects of a build with the same flags over, its kernels under this build's names."""
        for source, compiled in other._objects.items():
            inside = source.is_relative_to(other.device)
            self._objects[self.device / source.name if inside else source] = compiled

    def _linked(self, name: str, objects: Iterable[Path], *flags: str) -> Path:
        compile_with(*self._sanitizer(), *objects, *flags, "-o", self.folder / name)
        return self.folder / name

    def _sanitizer(self) -> list[str]:
        # Frames stay findable; the first finding ends the program.
        kept = ["-fno-omit-frame-pointer", "-fno-sanitize-recover=all", "-g1"]
        return [f"-fsanitize={self.sanitize}", *kept] if self.sanitize else []

    def _includes(self) -> list[str]:
        folders = [EMULATOR, self.device, self.include, KERNELS / "cuda", KERNELS / "cpu"]
        return [f"-I{folder}" for folder in folders]

    def _object(self, source: Path) -> Path:
        if source not in self._objects:
            compiled = self.folder / f"{source.parent.name}_{source.stem}.o"
            given = self._wrapped(source) if source.suffix == ".cu" else source
            compile_with(*self._flags(source), *self._includes(), "-c", given, "-o", compiled)
            self._objects[source] = compiled
        return self._objects[source]

    def _flags(self, source: Path) -> list[str]:
        # The emulator's own bookkeeping is shared by all threads of a block without a barrier in between.
        if self.sanitize == "thread" and source.parent == EMULATOR:
            return ["-O2", "-DEMULATOR_RACES=1"]
        return [*self.flags, *self._sanitizer()]

    def _wrapped(self, source: Path) -> Path:
        """A file with the kernels of a .cu file and their entries."""
        wrapped = self.folder / f"{source.stem}_entries.cpp"
        lines = [
            '#include "words.h"',
            f'#include "{source}"',
            '#include "launch.h"',
            "using namespace linf::device;",
        ]
        bounds = self._launch_bounds(source)
        lines += [f"EMULATED_ENTRY({name}, {bounds[name]})" for name in self.entries(source.stem)]
        wrapped.write_text("\n".join(lines) + "\n")
        return wrapped

    def entries(self, file: str) -> list[str]:
        """The names of the kernels that the lists of entries say are in a .cu file."""
        return [name for name, where in self._entries() if where == file]

    def _entries(self) -> list[tuple[str, str]]:
        lists = "".join((self.device / name).read_text() for name in ("entries.h", "aot_entries.h"))
        return re.findall(r"\bEntry\((\w+), (\w+)(?:, [\w<>]+)?\)", "".join(re.split("//.*", lists)))

    def _launch_bounds(self, source: Path) -> dict[str, str]:
        """The most threads of each kernel of a .cu file, as the source has it."""
        text = compile_with(
            *("-E", "-P", "-x", "c++", "-DEMULATOR_KEEPS_BOUNDS=1", "-include", "words.h"),
            *self._includes(),
            source,
        )
        return {name: bound for bound, name in re.findall(r"__launch_bounds__\((.+?),.+?\)\s*(\w+)\s*\(", text)}


class Library:
    """The shared library, loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.handle = ctypes.CDLL(str(path))
        self.handle.emulated_function.restype = ctypes.c_void_p
        self.handle.emulated_function.argtypes = [ctypes.c_char_p]
        self.handle.emulated_schedule.argtypes = [ctypes.c_int, ctypes.c_uint32, ctypes.c_int]
        self.handle.emulated_launcher.restype = ctypes.c_void_p
        self.handle.emulated_launcher.argtypes = [ctypes.c_int]

    def function(self, name: str) -> int | None:
        """What cuLaunchKernel's stand-in takes for the kernel of that name; None where there is none."""
        address: int | None = self.handle.emulated_function(name.encode())
        return address

    def launch_kernel(self) -> int:
        """The address of a function with the signature of cuLaunchKernel."""
        address = ctypes.cast(self.handle.emulated_cuLaunchKernel, ctypes.c_void_p).value
        assert address
        return address
