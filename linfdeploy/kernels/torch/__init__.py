# SPDX-License-Identifier: Apache-2.0
"""The kernels as torch custom ops, with autograd and fake kernels. Importing this package imports torch."""
