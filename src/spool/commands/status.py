"""`status`: what waits, and what a person should see to; how a report is printed."""

from __future__ import annotations

import json
import sys
import time

import click

from spool.commands.open_spool import existing
from spool.commands.output import say
from spool.commands.zero_code import what_is_missing
from spool.report.report import Report


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the state as JSON.")
@click.option(
    "--max-age",
    type=click.FloatRange(min=0),
    default=3600,
    metavar="S",
    help="The age in seconds from which a waiting span is a concern (3600).",
)
@click.pass_obj
def status(path: str | None, max_age: float, *, as_json: bool) -> None:
    """Show what waits, how old it is, and what each route is doing.

    Exits with 1 if a person should look.
    """
    with existing(path) as spool:
        if spool is None:
            return
        report = Report.of(spool.store, spool.drainer.routes, spool.settings.max_bytes, time.time())
    if as_json:
        click.echo(json.dumps(report.as_json(), indent=2))
    else:
        for line in _lines(report):
            say(line)
    concerns = list(map(str, report.concerns(max_age)))
    if not report.ledger.accepted and (missing := what_is_missing()):
        concerns.append(missing)
    for concern in concerns:
        say(f"! {concern}", err=as_json)
    if concerns:
        sys.exit(1)


def _lines(report: Report) -> list[str]:
    said = report.as_json()
    ledger = "  ".join(f"{name} {count}" for name, count in said["ledger"].items())
    oldest = (
        "" if report.oldest_seconds is None else f", the oldest for {report.oldest_seconds:.0f} s"
    )
    running = f"running (pid {report.pid})" if report.is_running else "not running"
    waiting = said["pending"]
    lines = [
        f"spool    {report.path} ({report.file_bytes} bytes)",
        f"pending  {waiting['spans']} spans in {waiting['batches']} batches{oldest}",
        f"ledger   {ledger}",
        f"drainer  {running}",
    ]
    for route in said["routes"]:
        error = f"  {route['last_error']}" if route["last_error"] else ""
        lines.append(f"route    {route['route']} → {route['endpoint']}")
        lines.append(
            f"         {route['state']}  {route['pending_spans']} pending  "
            f"{route['attempts']} attempts{error}"
        )
    return lines
