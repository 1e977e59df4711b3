# SPDX-License-Identifier: Apache-2.0
"""The C++ sources of the TensorRT plugins, found in the installed package."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import linfdeploy
from linfdeploy.errors import InputError

__all__ = ["plugin_sources"]

FOLDER = "plugin"
SUFFIXES = {".cpp", ".h", ".cu", ".cuh", ".txt", ".cmake", ".map"}
UNUSED = ("CMakeLists", "linf_dist_argmax", "lp_", "module.")
REQUIRED = (
    "plugins_trt/CMakeLists.txt",
    "plugins_trt/library.cpp",
    "linfdeploy/kernels/cuda/runtime.cu",
    "linfdeploy/kernels/cuda/linf_dist_launcher.cpp",
    "linfdeploy/kernels/include/linf/linf_dist.cuh",
)


def plugin_sources(package: Path = Path(linfdeploy.__file__).parent) -> dict[str, bytes]:
    """Returns the files to build the plugins' library from, by their places in a bundle.

    Their folders lie to each other as in the repository, so that the CMakeLists.txt finds the kernels.

    Args:
        package: The folder of the installed package.

    Raises:
        InputError: The package was installed without them, or they cannot be read.
    """
    try:
        found = {place: path.read_bytes() for place, path in _files(package)}
    except OSError as error:
        raise InputError(f"cannot read the plugins' sources in {package}: {error.strerror}") from None
    if missing := [name for name in REQUIRED if f"{FOLDER}/{name}" not in found]:
        raise InputError(
            f"{package} lacks the plugins' source {missing[0]}; expected a package that ships them: "
            "install linfdeploy again, or export with --form standard, which needs no plugin"
        )
    return dict(sorted(found.items()))


def _files(package: Path) -> Iterator[tuple[str, Path]]:
    for path in _sources(package / "plugins_trt"):
        yield f"{FOLDER}/plugins_trt/{path.relative_to(package / 'plugins_trt').as_posix()}", path
    kernels = package / "kernels"
    for folder in (kernels / "cuda", kernels / "include"):
        for path in _sources(folder):
            # Not those of training and of the module that Python imports.
            if not path.name.startswith(UNUSED):
                yield f"{FOLDER}/linfdeploy/kernels/{path.relative_to(kernels).as_posix()}", path


def _sources(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.suffix in SUFFIXES and path.is_file()]
