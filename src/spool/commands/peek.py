"""`peek`: the pending spans, of rows and of journals."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from spool.commands.open_spool import existing
from spool.commands.output import local_time, say, spans_of

if TYPE_CHECKING:
    from opentelemetry.proto.trace.v1.trace_pb2 import Span

    from spool.store.store import Store


@click.command()
@click.option("-n", "count", type=click.IntRange(min=1), default=10, help="How many (10).")
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON.")
@click.pass_obj
def peek(path: str | None, count: int, *, as_json: bool) -> None:
    """Show pending spans, the oldest of each route first: time, ids, name, size."""
    with existing(path) as spool:
        shown = [] if spool is None else _peek(spool.store, count)
        if as_json:
            click.echo(json.dumps(shown, indent=2))
            return
    for span in shown:
        say(
            f"{span['time']}  {span['trace_id']}  {span['span_id']}  {span['bytes']:>8}  "
            f"{span['name']}"
        )


def _peek(store: Store, count: int) -> list[dict[str, Any]]:
    shown: list[dict[str, Any]] = []
    after = 0
    while len(shown) < count and (rows := store.pending(after)):
        after = rows[-1].id
        for row in rows:
            if row.is_sound:
                shown.extend(map(_as_json, spans_of(row.batch)))
    inbound = store.inbound()
    while len(shown) < count and (frame := next(inbound, None)) is not None:
        shown.extend(map(_as_json, spans_of(frame.batch)))
    inbound.close()
    return shown[:count]


def _as_json(span: Span) -> dict[str, Any]:
    return {
        "time": local_time(span.end_time_unix_nano / 1e9),
        "trace_id": span.trace_id.hex(),
        "span_id": span.span_id.hex(),
        "name": span.name,
        "bytes": span.ByteSize(),
    }
