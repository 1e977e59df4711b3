# SPDX-License-Identifier: Apache-2.0
"""TensorRT: the library of our plugins, and engines that use it."""
