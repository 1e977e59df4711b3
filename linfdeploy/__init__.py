# SPDX-License-Identifier: Apache-2.0
"""Certified-robust l_inf-distance nets that keep their certificate after deployment."""

__version__ = "0.1.0"

__all__ = ["__version__"]
