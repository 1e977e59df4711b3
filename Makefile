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

# Runtimes of TensorRT for the tests: none needs a GPU to load plugins, and rtx has a parser and a builder; full is
# the bindings alone. Each lies in a folder of its own, since no two can be loaded in one process.
RUNTIMES := lean-10.16.1.11 lean-11.4.0.106 rtx-1.7.1.116 full-10.3.0 full-11.4.0.106

.PHONY: demo test test-all lint format clean
.DELETE_ON_ERROR:

demo: $(VENV)/train.stamp  ## trains, exports, builds and verifies a net on real digits
	$(BIN)/linfdeploy demo -o demo

test: $(VENV)/dev.stamp $(VENV)/tensorrt.stamp  ## runs the test suite
	$(BIN)/python -m pytest

test-all: $(VENV)/dev.stamp $(VENV)/tensorrt.stamp  ## runs the test suite, and its repetitions at length
	$(BIN)/python -m pytest --thorough

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

# Everything of train is in dev: one resolution and one build do for both.
$(VENV)/dev.stamp: $(VENV)/build.stamp $(SOURCES)
	$(PIP) install --no-build-isolation --editable '.[dev]'
	touch $(VENV)/train.stamp $@

# Never fails: tests whose runtime is missing skip and say so. There is no stamp then, so that it is tried again.
$(VENV)/tensorrt.stamp: $(VENV)/build.stamp
	@if [ "$$(uname -sm)" != "Linux x86_64" ]; then \
	  echo "no runtimes of TensorRT for the tests: they are for x86-64 Linux"; exit; \
	fi; \
	missing=; \
	for runtime in $(RUNTIMES); do \
	  to=$(VENV)/tensorrt/$$runtime kind=$${runtime%%-*} version=$${runtime#*-}; \
	  [ -d $$to ] && continue; \
	  rm -rf $$to.part; \
	  case $$runtime in \
	    full-10.3*) wheels=tensorrt_cu12_bindings==$$version;; \
	    full-*) wheels=tensorrt_cu13_bindings==$$version;; \
	    *) wheels="tensorrt_$${kind}_cu13_libs==$$version tensorrt_$${kind}_cu13_bindings==$$version";; \
	  esac; \
	  $(PIP) install --no-deps --only-binary :all: --retries 1 --target $$to.part $$wheels && \
	  mv $$to.part $$to || missing="$$missing $$runtime"; \
	done; \
	if [ -z "$$missing" ]; then touch $@; \
	else echo "no runtimes of TensorRT for some tests, which skip:$$missing"; fi
