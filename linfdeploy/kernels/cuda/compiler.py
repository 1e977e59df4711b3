# SPDX-License-Identifier: Apache-2.0
"""Compiles the kernels' sources with NVRTC, to machine code or PTX, and keeps the results on disk.

A result is found again by everything that it was made of: the source, all headers, the options, the architecture
and the compiler's version. Whoever changes one of these compiles anew; nothing that is kept has to be deleted.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from linfdeploy.errors import InputError, KernelError, MissingExtraError
from linfdeploy.files import cache_folder, write_bytes

__all__ = [
    "OPTIONS",
    "SOURCES",
    "check_architecture",
    "compile_ptx",
    "compile_source",
    "compiler_version",
    "cubin",
    "kept",
    "ptx",
]

SOURCES = Path(__file__).parent
INCLUDE = SOURCES.parent / "include"

# What rounds is as IEEE says, and denormals are numbers: the bits are those of the CPU kernels.
OPTIONS: dict[str, Any] = {
    "std": "c++17",
    "ftz": False,
    "prec_div": True,
    "prec_sqrt": True,
    "fma": True,
    "use_fast_math": False,
    # What headers have for the host too, NVRTC takes for the device alone.
    "device_as_default_execution_space": True,
}

LEAST_ARCHITECTURE = 75
HASH_BYTES = hashlib.sha256().digest_size


def cubin(file: str, architecture: int) -> bytes:
    """Returns the kernels of a source as a card of this architecture runs them: kept from before, or compiled now.

    A kept result that was damaged is made again. Where nothing can be kept everything works, only slower the next
    time. Processes may do this at once: each keeps a whole file.

    Args:
        file: The source's name in this folder, without `.cu`.
        architecture: Of the card, such as 90 for compute capability 9.0.

    Raises:
        KernelError: The card is too old or too new for the compiler, or the source does not compile.
        MissingExtraError: The compiler is not installed.
    """
    check_architecture(architecture)
    place = kept(file, architecture, compiler_version())
    return _kept_or_made(place, lambda: compile_source(file, architecture)[0])


def ptx(file: str, entry: str, architecture: int) -> str:
    """Returns one kernel of a source as PTX for cards of this architecture or a later one.

    The source's other kernels are left out: whoever loads PTX compiles all of it. Kept like `cubin`.

    Args:
        file: The source's name in this folder, without `.cu`.
        entry: The kernel's name.
        architecture: The least that it is for, such as 87 for compute capability 8.7.

    Raises:
        KernelError: The compiler does not know the architecture, or the source does not compile.
        MissingExtraError: The compiler is not installed.
    """
    check_architecture(architecture, "build for a later card")
    place = kept(file, architecture, compiler_version(), "ptx")
    code = _kept_or_made(place, lambda: compile_ptx(file, architecture)[0]).decode()
    head, *entries = re.split(r"^(?=\.visible \.entry )", code, flags=re.MULTILINE)
    return head + next(text for text in entries if text.startswith(f".visible .entry {entry}("))


def compile_source(file: str, architecture: int) -> tuple[bytes, str]:
    """Returns what NVRTC makes of a source, and its warnings.

    Raises:
        KernelError: The source does not compile: its first error, caused by an error with NVRTC's whole log.
        MissingExtraError: The compiler is not installed.
    """
    _require()
    from cuda.core import Program

    source, log = (SOURCES / f"{file}.cu").read_text(encoding="utf-8"), io.StringIO()
    try:
        program = Program(source, "c++", _options(file, f"sm_{architecture}"))
        code: bytes = program.compile("cubin", logs=log).code
    # cuda-core has errors of many kinds here, and none that is documented.
    except Exception as error:
        raise _failure(file, f"sm_{architecture}", str(error)) from error
    return code, log.getvalue()


def compile_ptx(file: str, architecture: int) -> tuple[bytes, str]:
    """Returns a source as PTX, and NVRTC's warnings.

    Not through cuda-core, which compiles to PTX only where there is a driver.

    Raises:
        KernelError: The source does not compile: its first error, caused by an error with NVRTC's whole log.
        MissingExtraError: The compiler is not installed.
    """
    _require()
    from cuda.bindings import nvrtc

    source, options = (SOURCES / f"{file}.cu").read_bytes(), _options(file, f"compute_{architecture}")
    arguments = options.as_bytes("nvrtc")
    _, program = nvrtc.nvrtcCreateProgram(source, f"{file}.cu".encode(), 0, None, None)
    try:
        (failed,) = nvrtc.nvrtcCompileProgram(program, len(arguments), arguments)
        log = _text(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog, program).decode()
        if int(failed):
            raise _failure(file, f"compute_{architecture}", f"{failed}\n{log}") from KernelError(log)
        return _text(nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX, program), log
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def check_architecture(architecture: int, instead: str = "use CPU tensors") -> None:
    """Checks that the compiler makes kernels for an architecture.

    Args:
        architecture: Such as 90 for compute capability 9.0.
        instead: What to do where the card is too old.

    Raises:
        KernelError: It is too old or too new.
        MissingExtraError: The compiler is not installed.
    """
    version = compiler_version()
    if architecture < LEAST_ARCHITECTURE:
        raise KernelError(
            f"the card has compute capability {_capability(architecture)}; expected 7.5 (Turing) or later: "
            f"{instead}"
        )
    from cuda.bindings import nvrtc

    _, known = nvrtc.nvrtcGetSupportedArchs()
    if architecture not in known:
        raise KernelError(
            f"the card has compute capability {_capability(architecture)}, which NVRTC {version[0]}.{version[1]} "
            "does not know; expected a later one: pip install --upgrade cuda-bindings nvidia-cuda-nvrtc"
        )


def compiler_version() -> tuple[int, int]:
    """Returns NVRTC's version, such as (13, 0).

    Raises:
        MissingExtraError: It is not installed.
    """
    _require()
    from cuda.bindings import nvrtc

    _, major, minor = nvrtc.nvrtcVersion()
    return int(major), int(minor)


def kept(file: str, architecture: int, version: tuple[int, int], form: str = "cubin") -> Path:
    """Returns where the kernels of a source are kept: a place of their own for all that they are made of."""
    digest = hashlib.sha256(repr((version, architecture, sorted(OPTIONS.items()))).encode())
    for path in (SOURCES / f"{file}.cu", *_headers()):
        data = path.read_bytes()
        # With sizes, no two lists of files make one stream of bytes.
        digest.update(f"{path.name} {len(data)}\n".encode() + data)
    return cache_folder("kernels") / f"{file}-sm_{architecture}-{digest.hexdigest()}.{form}"


def _headers() -> Iterator[Path]:
    """All that a source can include; those that it does not include are few."""
    for folder in (SOURCES, INCLUDE / "linf"):
        yield from sorted(path for path in folder.iterdir() if path.suffix in {".h", ".cuh"})


def _kept_or_made(place: Path, make: Callable[[], bytes]) -> bytes:
    if (found := _read(place)) is None:
        found = make()
        # It serves this process all the same.
        with suppress(InputError):
            write_bytes(place, hashlib.sha256(found).digest() + found)
    return found


def _read(place: Path) -> bytes | None:
    """What is kept, if it is whole."""
    try:
        data = place.read_bytes()
    except OSError:
        return None
    digest, code = data[:HASH_BYTES], data[HASH_BYTES:]
    return code if code and hashlib.sha256(code).digest() == digest else None


def _options(file: str, architecture: str) -> Any:
    from cuda.core import ProgramOptions

    folders = [str(INCLUDE), str(SOURCES)]
    return ProgramOptions(name=f"{file}.cu", arch=architecture, include_path=folders, **OPTIONS)


def _text(size_of: Any, read: Any, program: Any) -> bytes:
    """What NVRTC has to say, without the zero at its end."""
    _, size = size_of(program)
    text = bytes(size)
    # It is written to, though it is bytes: so the bindings have it.
    read(program, text)
    return text.rstrip(b"\0")


def _require() -> None:
    """Checks that the compiler and its bindings are there."""
    try:
        import cuda.core  # noqa: F401  # is it there?
        from cuda.bindings import nvrtc

        nvrtc.nvrtcVersion()
    # A library that is not found is an error of a kind of its own, which changed its place between releases.
    except Exception as error:
        raise MissingExtraError("compiling the kernels for CUDA", "cuda") from error


def _capability(architecture: int) -> str:
    return f"{architecture // 10}.{architecture % 10}"


def _failure(file: str, architecture: str, log: str) -> KernelError:
    # The first line of a log is NVRTC's code, which says nothing.
    found = [line.strip() for line in log.splitlines()[1:] if "error" in line] or log.splitlines() or ["no log"]
    return KernelError(f"{file}.cu does not compile for {architecture}: {found[0]}; please report this")
