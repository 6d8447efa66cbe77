"""What commands print: lines without control characters, tables, local times."""

from __future__ import annotations

import os
from datetime import datetime
from typing import TYPE_CHECKING

import click

from spool.system.redaction import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def say(line: str, *, err: bool = False, colour: str | None = None) -> None:
    """Print a line. What spans, keys and servers say is escaped, as JSON does it by itself.

    The `colour` is for terminals only, and not where NO_COLOR is set (https://no-color.org).
    """
    text = printable(line)
    if colour is not None and not os.environ.get("NO_COLOR"):
        text = click.style(text, fg=colour)
    click.echo(text, err=err)


def say_table(header: Sequence[str], rows: Iterable[Sequence[str]], otherwise: str) -> None:
    """Print lines in columns, each as wide as what stands in it; where there are none, that."""
    lines = [header, *([printable(cell) for cell in row] for row in rows)]
    if len(lines) == 1:
        say(otherwise, err=True)
        return
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        say("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip())


def local_time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="seconds")
