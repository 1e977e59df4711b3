# SPDX-License-Identifier: Apache-2.0
"""The command line: one file a verb, and the only place that prints.

A command's module imports nothing heavy at its top, so that `linfdeploy --help` answers at once.
"""

from __future__ import annotations

import importlib
import keyword
import os
import signal
import sys
from types import FrameType
from typing import NoReturn

import click

from linfdeploy import __version__
from linfdeploy.cli.options import one_line
from linfdeploy.errors import LinfDeployError

__all__ = ["main"]

COMMANDS = ("demo", "train", "import", "export", "build", "bundle", "verify", "vnnlib", "inspect")


class Commands(click.Group):
    """Finds each command in the module of its name, when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Returns the commands in the order in which a user meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports the command's module and returns its command."""
        if cmd_name not in COMMANDS:
            raise click.UsageError(f"there is no command {cmd_name!r}; expected one of {', '.join(COMMANDS)}")
        # `import` cannot be the name of a module.
        module = f"{cmd_name}_" if keyword.iskeyword(cmd_name) else cmd_name
        command: click.Command = importlib.import_module(f"linfdeploy.cli.{module}").command
        return command


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="linfdeploy")
def group() -> None:
    """Train l_inf-distance nets, deploy them, and prove that the certificate still holds."""


def main() -> NoReturn:
    """Runs the command line; errors are one line on stderr, with the exit code of their class."""
    # torch's idle threads would spin and keep the cores from ours: on two cores training took twice as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    signals: list[int] = []

    def interrupt(number: int, _frame: FrameType | None) -> NoReturn:
        signals.append(number)
        raise KeyboardInterrupt

    # A terminated command unwinds like an interrupted one, so that no half-written file stays.
    signal.signal(signal.SIGTERM, interrupt)
    try:
        code = group.main(standalone_mode=False)
    except (Exception, KeyboardInterrupt) as error:
        # A signal within the import of native code surfaces as ImportError, which is not the cause.
        sys.exit(_report(KeyboardInterrupt() if signals else error))
    sys.exit(code if isinstance(code, int) else 0)


def _report(error: Exception | KeyboardInterrupt) -> int:
    """Prints an error as one line; returns the exit code. What nobody foresaw is raised again."""
    match error:
        case LinfDeployError():
            click.echo(f"error: {one_line(str(error))}", err=True)
            return error.exit_code
        case click.exceptions.NoArgsIsHelpError():
            click.echo(error.format_message(), err=True)
            return 2
        case click.ClickException():
            click.echo(f"error: {one_line(error.format_message())}", err=True)
            return 2
        case BrokenPipeError():
            # Who reads our output has seen enough; what is still buffered has nowhere to go.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        case click.Abort() | KeyboardInterrupt():
            click.echo("interrupted: nothing half-written was left behind", err=True)
            return 130
    raise error
