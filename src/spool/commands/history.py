"""`history`: what happened to a spool, and what came and went by the hour."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from spool.commands.open_spool import existing
from spool.commands.output import say
from spool.errors import SettingsError
from spool.report import page, timeline
from spool.report.report import Report
from spool.store import history as kept

if TYPE_CHECKING:
    from spool.store.history import Event, Hour
    from spool.store.store import Store

_UNITS: Final = {"s": 1, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_AGO: Final = re.compile(rf"(\d+(?:\.\d+)?) ?({'|'.join(_UNITS)})")
_OLDER: Final = (
    "a version that kept no history wrote this spool; it is kept from the next program on that "
    "writes to it"
)


class _Since(click.ParamType[float]):
    """A time in the past: so long ago, or a date."""

    name = "time"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if found := _AGO.fullmatch(value.strip()):
            return max(0.0, time.time() - float(found[1]) * _UNITS[found[2]])
        try:
            since = datetime.fromisoformat(value.strip().replace("Z", "+00:00")).timestamp()
        except (ValueError, OverflowError, OSError):
            self.fail(
                f"{value!r} is neither as 30min, 12h or 7d, nor a date as 2026-11-29", param, ctx
            )
        if since > time.time():
            self.fail(f"{value!r} is still to come", param, ctx)
        return max(0.0, since)


@click.command()
@click.option(
    "--since",
    type=_Since(),
    default="7d",
    metavar="T",
    help="From when on: 30min, 12h, 7d, or a date (7d).",
)
@click.option("--json", "as_json", is_flag=True, help="Print the history as JSON.")
@click.option(
    "--html",
    "file",
    metavar="FILE",
    help="Write the page of `run --listen`, with the last month, to FILE; - is standard output.",
)
@click.pass_obj
def history(path: str | None, since: float, file: str | None, *, as_json: bool) -> None:
    """Show what happened: outages, what was lost, who drained.

    On a terminal also a chart of what waited and was delivered; --json has that by the hour.
    """
    with existing(path) as spool:
        if spool is None:
            if as_json:
                click.echo(json.dumps({"events": [], "hours": []}, indent=2))
            return
        now = time.time()
        if file is not None:
            settings = spool.settings
            report = Report.of(spool.store, spool.drainer.routes, settings.max_bytes, now)
            _write(file, page.read(spool.store, report), settings.path)
            return
        is_kept, events, hours = _read(spool.store, since, now)
        told = timeline.told(events, routes := spool.store.routes())
    if not is_kept:
        say(_OLDER, err=True)
    if as_json:
        shape = {
            "events": [_event_json(*one) for one in told],
            "hours": [_hour_json(hour) for hour in hours],
        }
        click.echo(json.dumps(shape, indent=2))
        return
    if is_kept and not events:
        _say(f"nothing happened since {timeline.local(since):%Y-%m-%d %H:%M}")
    for line in timeline.lines(events, routes, now):
        _say(line)
    if sys.stdout.isatty() and hours:
        _say("")
        for line in timeline.chart(hours, since, now, is_plain=not _can_show("▁█")):
            _say(line)


def _write(file: str, text: str, spool: Path) -> None:
    """Write a file so that who reads it meanwhile finds the old one or the new one, whole."""
    if file == "-":
        click.echo(text, nl=False)
        return
    target = Path(file)
    where, its = target.resolve(), spool.resolve()
    if where.parent == its.parent and where.name.startswith(its.name):
        raise SettingsError(
            f"--html {file}: is the spool, or may be one of its files; name another"
        )
    draft = target.parent / f".{target.name}.{os.getpid()}"
    try:
        with draft.open("x", encoding="utf-8") as written:
            written.write(text)
        draft.replace(target)
    except OSError as error:
        with contextlib.suppress(OSError):
            draft.unlink()
        words = f"{error.strerror}; name a file that you may write"
        raise SettingsError(f"--html {file}: {words}") from error


def _read(
    store: Store, since: float, now: float
) -> tuple[bool, tuple[Event, ...], tuple[Hour, ...]]:
    with store.database.reading() as connection:
        return (
            kept.is_kept(connection),
            kept.events(connection, since),
            kept.hours(connection, since, now),
        )


def _can_show(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeError:
        return False
    return True


def _say(line: str) -> None:
    """Print a line, whatever the terminal can show."""
    if not _can_show(line):
        line = (
            line.replace("…", "...")
            .encode(sys.stdout.encoding or "ascii", "backslashreplace")
            .decode()
        )
    say(line)


def _event_json(event: Event, words: str) -> dict[str, Any]:
    return {
        "kind": event.kind,
        "route": event.route or None,
        **_times(event.begin_at, event.end_at),
        "times": event.times,
        "spans": event.spans,
        "words": event.words,
        "told": words,
    }


def _hour_json(hour: Hour) -> dict[str, Any]:
    return {
        **_times(hour.begin_at, hour.end_at),
        "accepted": hour.accepted,
        "delivered": hour.delivered,
        "pending_spans": hour.pending_spans,
        "pending_bytes": hour.pending_bytes,
    }


def _times(begin: float, end: float | None) -> dict[str, Any]:
    return {
        "begin": begin,
        "begin_iso": _iso(begin),
        "end": end,
        "end_iso": None if end is None else _iso(end),
    }


def _iso(at: float) -> str:
    return timeline.local(at).isoformat(timespec="seconds")
