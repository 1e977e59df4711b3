# SPDX-License-Identifier: Apache-2.0
"""Run by test_parser.py with a model and the plugins' library or nothing: what TensorRT-RTX does, as JSON.

Its parser ends the process when it has made a plugin, so the log is what is read then.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

from linfdeploy.engines.trt.library import load_library


def main(model: str, library: str) -> None:
    """Parses the model and builds an engine, and prints how that went."""
    trt: Any = importlib.import_module("tensorrt_rtx_bindings")
    logger = trt.Logger(trt.Logger.VERBOSE)
    if library:
        load_library(trt, Path(library))
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse(Path(model).read_bytes())
    errors = [str(parser.get_error(k)) for k in range(parser.num_errors)]
    built = parsed and _built(trt, builder, network)
    print(json.dumps({"parsed": parsed, "errors": errors, "built": bool(built)}))  # noqa: T201  # it is a program


def _built(trt: Any, builder: Any, network: Any) -> Any:
    """The engine's bytes, for batches of 1 to 16; None where the builder fails."""
    image, profile, config = (
        network.get_input(0),
        builder.create_optimization_profile(),
        builder.create_builder_config(),
    )
    shapes = [(batch, *image.shape[1:]) for batch in (1, 4, 16)]
    profile.set_shape(image.name, *shapes)
    config.add_optimization_profile(profile)
    return builder.build_serialized_network(network, config)


main(*sys.argv[1:])
