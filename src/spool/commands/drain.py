"""`drain`: send all that is pending now."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

import click

from spool.commands.open_spool import ENDING_SECONDS, existing
from spool.commands.output import say
from spool.delivery import drain_once
from spool.delivery.client import Tally
from spool.errors import SpoolDamagedError, SpoolUnavailableError
from spool.store.history import BY_HAND
from spool.store.maintenance import Maintenance
from spool.store.maintenance_thread import MaintenanceThread

if TYPE_CHECKING:
    from collections.abc import Iterator

    from spool.commands.open_spool import OpenSpool
    from spool.store.records import Route

_DRAINED: Final = (
    "delivered {delivered} spans in {requests} requests and {seconds:.1f} s; "
    "{pending} pending, {dead} dead letters made"
)


@click.command()
@click.option(
    "--timeout", type=click.FloatRange(min=0), metavar="S", help="Give up after S seconds."
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.pass_obj
def drain(path: str | None, timeout: float | None, *, as_json: bool) -> None:
    """Send all that is pending now, ignoring backoff; a held route is tried once.

    Exits with 1 if spans remain, or if this drain made dead letters.
    """
    started = time.monotonic()
    with existing(path) as spool:
        tally, pending = Tally(), 0
        if spool is not None:
            with _progress(spool, hidden=as_json) as progress, _kept(spool):
                try:
                    drain_once.drain(spool.drainer, timeout, progress)
                except SpoolDamagedError:
                    spool.store.database.repair()
                    drain_once.drain(spool.drainer, timeout, progress)
            tally, pending = spool.drainer.client.tally, spool.store.ledger().pending
        seconds = round(time.monotonic() - started, 3)
        result = {**asdict(tally), "pending": pending, "seconds": seconds}
        say(json.dumps(result) if as_json else _DRAINED.format(**result))
        if spool is not None and (pending or tally.dead):
            _explain(spool)
            sys.exit(1)


def _explain(spool: OpenSpool) -> None:
    for route in spool.store.routes():
        if route.pending_spans and (missing := spool.drainer.routes.missing(route)):
            _note(route, missing)
        elif route.pending_spans and route.last_error:
            _note(route, route.last_error)
    if spool.drainer.client.tally.dead:
        say("see the dead letters with `python -m spool dead list`", err=True)


def _note(route: Route, text: str) -> None:
    say(f"{route.name}: {route.pending_spans} spans wait: {text}", err=True)


@contextlib.contextmanager
def _progress(spool: OpenSpool, *, hidden: bool) -> Iterator[Any]:
    if hidden or not sys.stderr.isatty():
        yield lambda: None
        return
    total, tally = spool.store.ledger().pending, spool.drainer.client.tally
    with click.progressbar(length=total, label="draining", file=sys.stderr) as bar:
        yield lambda: bar.update(tally.delivered + tally.dead - bar.pos)


@contextlib.contextmanager
def _kept(spool: OpenSpool) -> Iterator[None]:
    """Sync and checkpoint beside the work, and show that somebody drains."""
    spool.store.database.pace.tell_all(BY_HAND)
    maintenance = MaintenanceThread(spool.store, spool.settings)
    maintenance.start()
    try:
        with spool.drainer.presence.shown():
            yield
    finally:
        maintenance.stop(ENDING_SECONDS)
    try:
        Maintenance(spool.store, spool.settings).keep()
    except SpoolDamagedError:
        raise
    except SpoolUnavailableError as error:  # what could be sent was sent
        say(f"spool: {error}", err=True)
