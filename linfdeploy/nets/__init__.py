# SPDX-License-Identifier: Apache-2.0
"""l_inf-distance nets: their specification, layers and checkpoints. `spec` needs no torch; the rest does."""
