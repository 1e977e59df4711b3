# SPDX-License-Identifier: Apache-2.0
"""ONNX: the op, the deployable graph, writing it from a checkpoint, reading it back. Only `trace` needs torch."""
