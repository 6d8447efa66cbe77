"""`python -m spool [--path FILE] COMMAND`, also installed as `spool`: the group, and exit codes.

0: all is well; 1: it is not (each command says what); 2: wrong usage or settings.
"""

from __future__ import annotations

import errno
import sys
from typing import Any, Final

import click

from spool.__about__ import __version__
from spool.commands.adopt import adopt
from spool.commands.check import check
from spool.commands.dead import dead
from spool.commands.drain import drain
from spool.commands.history import history
from spool.commands.output import say
from spool.commands.peek import peek
from spool.commands.run import run
from spool.commands.status import status
from spool.errors import SpoolBusyError, SpoolError, SpoolUnavailableError

_MISPLACED: Final = "put --path before the command: `python -m spool --path FILE COMMAND`"


class _Commands(click.Group):
    """The group; what goes wrong in a command is one line on standard error, and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.NoSuchOption as error:
            if error.option_name == "--path":
                raise click.UsageError(_MISPLACED, error.ctx) from error
            raise
        except SpoolError as error:
            say(f"spool: {error}", err=True)
            is_passing = isinstance(error, (SpoolBusyError, SpoolUnavailableError))
            sys.exit(1 if is_passing else 2)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            say("spool: the output cannot be written: the disk that it goes to is full", err=True)
            sys.exit(1)


def main() -> None:
    """Run a command and exit with its code."""
    commands(prog_name="spool")


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--path", metavar="FILE", help="The spool file; else SPOOL_PATH counts.")
@click.version_option(__version__, prog_name="langfuse-spool")
@click.pass_context
def commands(context: click.Context, path: str | None) -> None:
    """Look after a spool: spans that wait on disk for their way to Langfuse."""
    context.obj = path


for command in (drain, run, status, history, check, peek, adopt, dead):
    commands.add_command(command)
