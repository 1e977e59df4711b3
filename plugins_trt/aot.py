# SPDX-License-Identifier: Apache-2.0
"""The plugins ahead of time: an engine holds their kernels as PTX and needs neither Python nor a library of ours.

`register` makes the operators known to this process's TensorRT, 10.9 or later; a network that is parsed and built
afterwards uses them. At run time the engine is all that there is.
"""

from __future__ import annotations

import re
from typing import Any

from linfdeploy.errors import EngineError
from linfdeploy.kernels.cuda.compiler import check_architecture
from linfdeploy.kernels.cuda.driver import check_ptx
from linfdeploy.plugins_trt import PLUGIN_NAMESPACE, PLUGIN_VERSION, linf_dist_aot, linf_dist_conv_aot
from linfdeploy.plugins_trt.aot_launch import Target

__all__ = ["check_version", "register"]

LEAST_VERSION = (10, 9)
_PLUGINS = {linf_dist_aot.NAME: linf_dist_aot.register, linf_dist_conv_aot.NAME: linf_dist_conv_aot.register}
_target = Target()


def register(architecture: int) -> None:
    """Makes `LinfDist` and `LinfDistConv` known to TensorRT, once a process, and says what to build them for.

    Needs no GPU: kernels are compiled when an engine is built, for the architecture of the latest call.

    Args:
        architecture: The least that the engine's kernels are for, such as 87 for compute capability 8.7.

    Raises:
        EngineError: TensorRT is not installed or older than 10.9, or has other plugins of these names.
        KernelError: NVRTC does not know the architecture, or this machine's driver does not take its PTX.
        MissingExtraError: NVRTC is not installed.
    """
    trt = _tensorrt()
    check_version(trt)
    check_architecture(architecture, "build for a later card")
    check_ptx()
    if not _target.architecture:
        _refuse_others(trt)
        for add in _PLUGINS.values():
            add(_target)
    _target.architecture = architecture


def check_version(trt: Any) -> None:
    """Checks that a `tensorrt` module has ahead-of-time plugins.

    Raises:
        EngineError: It is older than 10.9.
    """
    found = re.match(r"(\d+)\.(\d+)", trt.__version__)
    if not found or (int(found[1]), int(found[2])) < LEAST_VERSION:
        raise EngineError(
            f"TensorRT {trt.__version__} has no ahead-of-time plugins; expected 10.9 or later: "
            "use --plugin library"
        )


def _tensorrt() -> Any:
    try:
        import tensorrt
    except ImportError as error:
        raise EngineError(
            "TensorRT's Python package is not here; expected version 10.9 or later: pip install tensorrt, "
            "or on Jetson use the system's Python"
        ) from error
    return tensorrt


def _refuse_others(trt: Any) -> None:
    """TensorRT keeps the first plugin of a name, without a word."""
    for name in _PLUGINS:
        if trt.get_plugin_registry().get_creator(name, PLUGIN_VERSION, PLUGIN_NAMESPACE) is not None:
            raise EngineError(
                f"TensorRT has a plugin {PLUGIN_NAMESPACE}::{name} already; expected none: load the library or "
                "register ahead-of-time plugins in a process, not both"
            )
