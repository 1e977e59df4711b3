# SPDX-License-Identifier: Apache-2.0
"""What an audit found, as data (`model`), and its three faces: `report.json`, `report.html`, `samples.csv`."""
