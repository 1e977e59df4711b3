# SPDX-License-Identifier: Apache-2.0
"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["PATH", "parse_options"]

PATH = click.Path(path_type=Path)


def parse_options(**options: object) -> dict[str, object]:
    """Returns the options that were given; the rest is left to the backend's defaults."""
    return {name: value for name, value in options.items() if value is not None}
