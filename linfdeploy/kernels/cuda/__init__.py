# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels: compiled for the card at hand when they are first needed, and kept on disk.

Importing this package imports neither torch nor CUDA.
"""
