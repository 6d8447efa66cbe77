"""What is meant: a route by its name, spans and dead letters by filters.

What identifies (a route, a trace) must be given whole: one key may be the beginning of another. Of
names and reasons a part is enough, and capitals do not matter.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from spool.commands.spans import spans_of
from spool.errors import PayloadError, SettingsError
from spool.report.facts import with_inbound

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from opentelemetry.proto.trace.v1.trace_pb2 import Span

    from spool.store.records import DeadLetter, Route
    from spool.store.store import Store


def _trace_id(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    if value is None:
        return None
    if not re.fullmatch(r"[0-9a-fA-F]{32}", value):
        raise click.BadParameter(f"{value}: must be a trace id, 32 hexadecimal digits")
    return value.lower()


def _given(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    """Refuse an empty filter: it would choose everything, as of a variable that is not set."""
    if value == "":
        raise click.BadParameter("it is empty, which would choose everything; give some text")
    return value


route_option = click.option(
    "--route", metavar="ROUTE", callback=_given, help="Of this route, by its whole name."
)
trace_option = click.option(
    "--trace", metavar="ID", callback=_trace_id, help="Of this trace, by its whole id."
)
name_option = click.option(
    "--name", metavar="TEXT", callback=_given, help="With this text in a span's name."
)
reason_option = click.option(
    "--reason", metavar="TEXT", callback=_given, help="With this text in the reason."
)


def span_filters(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that choose spans: `--route`, `--trace`, `--name`."""
    return route_option(trace_option(name_option(command)))


def letter_filters(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that choose dead letters: those of spans, and `--reason`."""
    return span_filters(reason_option(command))


@dataclass(frozen=True, slots=True)
class Filters:
    """What is asked for; None for anything."""

    route: str | None = None
    trace: str | None = None
    name: str | None = None
    reason: str | None = None

    @property
    def is_any(self) -> bool:
        """Whether anything is asked for."""
        return self != Filters()

    def takes(self, span: Span) -> bool:
        """Say whether a span is meant, by its trace and its name."""
        return (self.trace is None or span.trace_id.hex() == self.trace) and (
            self.name is None or self.name.lower() in span.name.lower()
        )

    def takes_letter(self, letter: DeadLetter) -> bool:
        """Say whether a dead letter is meant: by its words, and any one of its spans."""
        if self.route is not None and letter.route != self.route:
            return False
        if self.reason is not None and self.reason.lower() not in letter.reason.lower():
            return False
        if self.trace is None and self.name is None:
            return True
        try:
            return any(map(self.takes, spans_of(letter.batch)))
        except PayloadError:
            return False


def routes_in(store: Store) -> dict[str, Route]:
    """Give the routes of rows and journals by their names, with all that waits for them."""
    return {route.name: route for route in with_inbound(store.routes(), store.inbound())}


def check_route(name: str, routes: Iterable[str]) -> None:
    """Raise SettingsError for a route that is not there, with those that are."""
    known = list(routes)
    if name in known:
        return
    close = difflib.get_close_matches(name, known, n=1)
    guess = f"; did you mean {close[0]}?" if close else ""
    raise SettingsError(f"no route is called {name}; there are: {_listed(known)}{guess}")


def check_filters(filters: Filters, routes: Mapping[str, Route]) -> None:
    """Raise SettingsError for a filter that names no route there is."""
    if filters.route is not None:
        check_route(filters.route, routes)


def _listed(names: list[str]) -> str:
    return ", ".join(names) or "none"
