# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of the papers' repositories: read without executing anything, recognised, made ours."""
