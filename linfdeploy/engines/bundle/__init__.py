# SPDX-License-Identifier: Apache-2.0
"""The edge bundle: a folder with everything that a device needs to build a net's engine and to check its bits."""
