"""Consent: what is about to be done for good is said first, and asked where somebody can answer."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from spool.commands.output import say

if TYPE_CHECKING:
    from collections.abc import Callable


def consent_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command `--dry-run` and `--yes`."""
    yes = click.option("--yes", "is_yes", is_flag=True, help="Do not ask.")
    dry = click.option(
        "--dry-run", "is_dry", is_flag=True, help="Say what would be done, and do nothing."
    )
    return dry(yes(command))


def has_consent(will_be: str, *, is_dry: bool, is_yes: bool) -> bool:
    """Say what will be done, and whether it may be; without anybody to ask it is wrong usage."""
    say(will_be)
    if is_dry:
        say("nothing was done: --dry-run")
        return False
    if is_yes:
        return True
    if not sys.stdin.isatty():
        raise click.UsageError("nothing was done: nobody can be asked here, so give --yes")
    if click.confirm("Go on?"):
        return True
    say("nothing was done")
    sys.exit(1)
