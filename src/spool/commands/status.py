"""`status`: the one screen: what waits, why, until when, and what a person should see to.

How fast a spool empties is told by two looks, half a second apart, where something is being sent;
otherwise one look is enough.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import click

from spool.commands.open_spool import OpenSpool, existing
from spool.commands.output import say
from spool.commands.zero_code import what_is_missing
from spool.delivery.route_state import RouteState
from spool.errors import SpoolBusyError, SpoolFileError
from spool.report import concerns, prometheus, sentences, situations
from spool.report.concerns import Concern
from spool.report.report import Report, none_json
from spool.settings.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from spool.report.facts import Pace
    from spool.report.situations import Situation

# Between two looks, in seconds: for the pace, and with `--watch`.
_A_MOMENT: Final = 0.5
_WATCH: Final = 2.0
# So many routes that are well, and for which nothing waits, are shown.
_FEW_WELL: Final = 5
_COLOURS: Final = {
    RouteState.OK: "green",
    RouteState.WAITING: "yellow",
    RouteState.HELD: "red",
    RouteState.NO_SECRET: "red",
}
_CLEAR: Final = "\033[H\033[2J"


@dataclass(frozen=True, slots=True)
class _Look:
    """What one look at a spool has found; without a pace nothing is being sent."""

    report: Report
    concerns: list[Concern]
    pace: Pace | None


@click.command()
@click.option("--json", "shape", flag_value="json", help="Print the state as JSON.")
@click.option(
    "--prometheus",
    "shape",
    flag_value="prometheus",
    help="Print it as Prometheus' textfile collector reads it.",
)
@click.option("-w", "--watch", is_flag=True, help="Look again every 2 s, until Ctrl-C.")
@click.option("-v", "--verbose", is_flag=True, help="All of the ledger, and all routes.")
@click.option(
    "--max-age",
    type=click.FloatRange(min=0),
    default=concerns.MAX_AGE,
    metavar="S",
    help="The age in seconds from which a waiting span is a concern (3600).",
)
@click.pass_obj
def status(
    path: str | None, max_age: float, shape: str | None, *, watch: bool, verbose: bool
) -> None:
    """Show what waits, why, until when, and what to do.

    Exits with 1 if a person should look: lines with `!` say why.
    """
    with _errors_in(shape, path), existing(path) as spool:
        if spool is None:
            _show_none(shape, path, _of_none(path), exists=False)
            return
        look = _look(spool, max_age)
        _show(look, shape, verbose=verbose)
        try:
            while watch:
                time.sleep(_WATCH)
                look = _look(spool, max_age, look.report)
                _clear(shape)
                _show(look, shape, verbose=verbose)
        except KeyboardInterrupt:
            pass
    if look.concerns:
        sys.exit(1)


def _look(spool: OpenSpool, max_age: float, earlier: Report | None = None) -> _Look:
    report = _report(spool)
    if report.is_under_way and earlier is None:
        earlier = report
        time.sleep(_A_MOMENT)
        report = _report(spool)
    pace = report.pace(earlier) if earlier is not None and report.is_under_way else None
    found = report.concerns(max_age)
    if not report.ledger.accepted and (missing := what_is_missing()):
        found.append(_of_zero_code(missing))
    return _Look(report, found, pace)


def _report(spool: OpenSpool) -> Report:
    return Report.of(spool.store, spool.drainer.routes, spool.settings.max_bytes, time.time())


def _of_none(path: str | None) -> list[Concern]:
    where = Settings.from_env(path=path).path
    remedy = "name the path of the program that makes spans, or let it make one"
    found = [Concern("no-spool", f"no spool yet at {where}", remedy)]
    if missing := what_is_missing():
        found.append(_of_zero_code(missing))
    return found


@contextlib.contextmanager
def _errors_in(shape: str | None, path: str | None) -> Iterator[None]:
    """Print an error of the file in that shape, too, and hand it on."""
    try:
        yield
    except (SpoolFileError, SpoolBusyError) as error:
        words, _, remedy = str(error).partition("; ")
        found = Concern("unusable", words, remedy or "see to that file")
        _show_none(shape, path, [found], exists=True)
        raise


def _of_zero_code(missing: str) -> Concern:
    words, _, remedy = missing.rpartition(": ")
    return Concern("zero-code", words, remedy)


# Printing


def _clear(shape: str | None) -> None:
    """Begin a screen anew; elsewhere a line of its own."""
    if not shape and sys.stdout.isatty():
        click.echo(_CLEAR, nl=False)
    elif not shape:
        click.echo()


def _show_none(shape: str | None, path: str | None, found: list[Concern], *, exists: bool) -> None:
    """Show programs a spool that is not there, or that cannot be read; people have the error."""
    if shape == "json":
        where = Settings.from_env(path=path).path
        click.echo(json.dumps(none_json(where, found, exists=exists), indent=2))
    elif shape == "prometheus":
        click.echo(prometheus.text_of(None, found, exists=exists), nl=False)


def _show(look: _Look, shape: str | None, *, verbose: bool) -> None:
    if shape == "json":
        click.echo(json.dumps(look.report.as_json(look.concerns), indent=2))
        return
    if shape == "prometheus":
        click.echo(prometheus.text_of(look.report, look.concerns), nl=False)
        return
    for line in _of_spool(look, verbose=verbose):
        say(line)
    found = situations.each(look.report) if verbose else situations.of_facts(look.report)
    for line, colour in _of_routes(look.report, found, verbose=verbose):
        say(line, colour=colour)
    for concern in situations.summed(look.concerns, found, is_all=verbose):
        say(f"! {concern}", colour="red")


def _of_spool(look: _Look, *, verbose: bool) -> Iterator[str]:
    report = look.report
    yield f"spool    {sentences.usage(report)}"
    yield f"pending  {sentences.pending(report)}"
    if look.pace is not None:
        yield f"pace     {sentences.pace(report, look.pace)}"
    yield f"ledger   {sentences.ledger(report, is_whole=verbose)}"
    yield f"drainer  {sentences.drains(report)}"


def _of_routes(
    report: Report, found: Iterable[Situation], *, verbose: bool
) -> Iterator[tuple[str, str | None]]:
    left, room = _FEW_WELL, situations.FEW
    idle = others = 0
    for one in found:
        if verbose:
            yield from _of_situation(report, one)
        elif one.is_idle and not left:
            idle += 1
        elif not one.is_idle and not room:
            others += len(one.routes)
        else:
            left, room = (left - 1, room) if one.is_idle else (left, room - 1)
            yield from _of_situation(report, one)
    if others:
        yield f"route    and {others:,} more that stand otherwise (-v)", None
    if idle:
        yield f"route    and {idle:,} more that are ok, for which nothing waits (-v)", None


def _of_situation(report: Report, one: Situation) -> Iterator[tuple[str, str | None]]:
    route, state = one.whole, one.state
    if len(one.routes) == 1:
        yield f"route    {route.name} → {route.endpoint}", None
    else:
        yield f"routes   {len(one.routes):,} → {route.endpoint}: {one.names}", None
    remedy = f" — {sentences.remedy(route)}" if state is RouteState.WAITING else ""
    yield f"         {sentences.state(report, route, state)}{remedy}", _COLOURS[state]
    for said in (
        sentences.waiting(report, route),
        sentences.attempts(report, route, state),
    ):
        if said:
            yield f"         {said}", None
