"""`peek`: the pending spans, of rows and of journals; one page of rows at a time."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any, Final

import click

from spool.commands.choice import Filters, check_filters, routes_in, span_filters
from spool.commands.open_spool import existing
from spool.commands.output import say_table
from spool.commands.spans import nano_time, spans_of
from spool.errors import PayloadError
from spool.journal.identity import Identity
from spool.store import rows
from spool.system.words import size_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.proto.trace.v1.trace_pb2 import Span

    from spool.otlp.batch import Batch
    from spool.store.records import Route
    from spool.store.store import Store

# A row may be as large as a request: so many are held at a time.
_FEW_ROWS: Final = 8
_HEADER: Final = ("TIME", "TRACE", "SPAN", "OWN SIZE", "ROUTE", "NAME")


@click.command()
@click.option("-n", "count", type=click.IntRange(1, 1_000_000), default=10, help="How many (10).")
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON.")
@span_filters
@click.pass_obj
def peek(path: str | None, /, count: int, *, as_json: bool, **asked: str | None) -> None:
    """Show pending spans, the oldest of each route first.

    The time is when a span ended; its size is its own, before compression; `status` counts its
    resource and scope, too.
    """
    with existing(path) as spool:
        found: list[dict[str, Any]] = []
        if spool is not None:
            found = list(itertools.islice(_pending(spool.store, Filters(**asked)), count))
        if as_json:
            click.echo(json.dumps(found, indent=2))
            return
        if spool is not None:
            say_table(_HEADER, map(_line, found), "no such span waits")


def _pending(store: Store, filters: Filters) -> Iterator[dict[str, Any]]:
    """Give what is asked for and waits, route by route; in journals in the order of its coming."""
    routes = routes_in(store)
    check_filters(filters, routes)
    asked = [route for route in routes.values() if filters.route in (None, route.name)]
    for route in asked:
        for batch in _in_rows(store, route):
            yield from _meant(route.name, batch, filters)
    for frame in store.inbound():
        name = Identity.decode(frame.identity).route
        if filters.route in (None, name):
            yield from _meant(name, frame.batch, filters)


def _in_rows(store: Store, route: Route) -> Iterator[Batch]:
    first, last = rows.id_range(route.id)
    after = first - 1
    while route.pending_spans and (page := store.pending(after, last, _FEW_ROWS)):
        after = page[-1].id
        yield from (row.batch for row in page if row.is_sound)


def _meant(route: str, batch: Batch, filters: Filters) -> Iterator[dict[str, Any]]:
    try:
        found = spans_of(batch)
    except PayloadError:  # a drainer makes a dead letter of it
        return
    yield from (_as_json(route, span) for span in found if filters.takes(span))


def _as_json(route: str, span: Span) -> dict[str, Any]:
    return {
        "time": nano_time(span.end_time_unix_nano),
        "route": route,
        "trace_id": span.trace_id.hex(),
        "span_id": span.span_id.hex(),
        "name": span.name,
        "bytes": span.ByteSize(),
    }


def _line(span: dict[str, Any]) -> tuple[str, ...]:
    return (
        span["time"], span["trace_id"], span["span_id"], size_of(span["bytes"]), span["route"],
        span["name"],
    )  # fmt: skip
