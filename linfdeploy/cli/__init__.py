# SPDX-License-Identifier: Apache-2.0
"""The command line: one file a verb, and the only place that prints.

A command's module imports nothing heavy at its top, so that `linfdeploy --help` answers at once.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from types import FrameType
from typing import NoReturn

import click

from linfdeploy import __version__
from linfdeploy.errors import LinfDeployError

__all__ = ["main"]

COMMANDS = ("demo", "train", "export", "build", "verify", "inspect")


class Commands(click.Group):
    """Finds each command in the module of its name, when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Returns the commands in the order in which a user meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports the command's module and returns its command."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"linfdeploy.cli.{cmd_name}").command
        return command


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="linfdeploy")
def group() -> None:
    """Train l_inf-distance nets, deploy them, and prove that the certificate still holds."""


def main() -> NoReturn:
    """Runs the command line; errors are one line on stderr, with the exit code of their class."""
    # torch's idle threads would spin and keep the cores from ours: on two cores training took twice as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # A terminated command unwinds like an interrupted one, so that no half-written file stays.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = group.main(standalone_mode=False)
    except LinfDeployError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        sys.exit(2)
    except click.ClickException as error:
        click.echo(f"error: {error.format_message()}", err=True)
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted: nothing half-written was left behind", err=True)
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)


def _interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
