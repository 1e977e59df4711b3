# SPDX-License-Identifier: Apache-2.0
# `make demo` and `make test` need nothing but Python >= 3.10 with pip and a C++17 compiler.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/pip --disable-pip-version-check --quiet

# What the build reads: when one of these is newer than the stamp, the package is installed again.
SOURCES := pyproject.toml CMakeLists.txt \
           $(wildcard linfdeploy/kernels/cpu/* linfdeploy/kernels/cuda/*.h linfdeploy/kernels/cuda/*.cpp) \
           $(wildcard linfdeploy/kernels/include/linf/* linfdeploy/engines/custom_ops/*)

.PHONY: demo test lint format clean
.DELETE_ON_ERROR:

demo: $(VENV)/train.stamp  ## trains, exports, builds and verifies a net on real digits
	$(BIN)/linfdeploy demo -o demo

test: $(VENV)/dev.stamp  ## runs the test suite
	$(BIN)/python -m pytest

lint: $(VENV)/dev.stamp  ## checks style, types and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	git ls-files '*.h' '*.cpp' '*.cu' '*.cuh' | xargs $(BIN)/clang-format --dry-run --Werror

format: $(VENV)/dev.stamp  ## rewrites the sources in the house's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	git ls-files '*.h' '*.cpp' '*.cu' '*.cuh' | xargs $(BIN)/clang-format -i

clean:  ## removes everything that was built or installed here
	rm -rf $(VENV) build demo .mypy_cache .ruff_cache .pytest_cache .hypothesis

# Build tools first, so that the editable install needs no isolated environment and its build folder stays warm.
$(VENV)/build.stamp:
	$(PYTHON) -m venv $(VENV)
	$(PIP) install 'scikit-build-core>=0.11' 'nanobind>=2.4' 'cmake>=3.20' ninja
	touch $@

$(VENV)/train.stamp: $(VENV)/build.stamp $(SOURCES)
	$(PIP) install --no-build-isolation --editable '.[train]'
	touch $@

$(VENV)/dev.stamp: $(VENV)/train.stamp
	$(PIP) install --no-build-isolation --editable '.[dev]'
	touch $@
