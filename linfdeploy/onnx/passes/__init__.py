# SPDX-License-Identifier: Apache-2.0
"""Passes from a traced net to the deployable one: fold into pixel units, snap or round, prove the ranges.

Each is a pure function of numbers; none knows ONNX or torch.
"""
