# SPDX-License-Identifier: Apache-2.0
"""The plugins' library, built once for all tests of this folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from trt_headers import HEADERS, HOW, build_library


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not HEADERS:
        pytest.skip(f"there are no headers of TensorRT: {HOW}")
    if not (shutil.which("nvcc") and shutil.which("cmake")):
        pytest.skip("there is no nvcc or no cmake to build the library with")
    return build_library(tmp_path_factory.mktemp("library"), HEADERS[0])
