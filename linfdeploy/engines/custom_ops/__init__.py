# SPDX-License-Identifier: Apache-2.0
"""LinfDist and LinfDistConv as a library for ONNX Runtime: C++ on the CPU kernels, and who finds and loads it."""
