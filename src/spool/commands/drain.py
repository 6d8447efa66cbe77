"""`drain`: send all that is pending now."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from spool.commands.drain_bar import DrainBar
from spool.commands.open_spool import ENDING_SECONDS, existing
from spool.commands.output import say
from spool.delivery import drain_once
from spool.delivery.causes import Cause
from spool.delivery.client import Tally
from spool.errors import SpoolDamagedError, SpoolUnavailableError
from spool.report import sentences, situations
from spool.store.history import BY_HAND
from spool.store.maintenance import Maintenance
from spool.store.maintenance_thread import MaintenanceThread
from spool.system.words import count_of, duration_of, few_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from spool.commands.open_spool import OpenSpool
    from spool.store.records import Route


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
        endings: dict[str, str] = {}
        if spool is not None:
            endings = _drain(spool, timeout, is_shown=not as_json and sys.stderr.isatty())
            tally = spool.drainer.client.tally
            pending = spool.salvaging(spool.store.ledger).pending
        seconds = round(time.monotonic() - started, 3)
        if as_json:
            click.echo(json.dumps({**asdict(tally), "pending": pending, "seconds": seconds}))
        elif spool is not None:
            say(_result(tally, pending, seconds))
        if spool is not None and (pending or tally.dead):
            _explain(spool, endings)
            sys.exit(1)


def _drain(spool: OpenSpool, timeout: float | None, *, is_shown: bool) -> dict[str, str]:
    """Drain, and give the routes that were left alone, and why."""
    with DrainBar.of(spool.store, spool.drainer, is_shown=is_shown) as bar, _kept(spool):
        return spool.salvaging(
            lambda: drain_once.drain(spool.drainer, timeout, bar.go_on, bar.wait)
        )


def _result(tally: Tally, pending: int, seconds: float) -> str:
    delivered, requests = count_of(tally.delivered, "span"), count_of(tally.requests, "request")
    said = f"delivered {delivered} in {requests} and {duration_of(seconds)}"
    made = f", {count_of(tally.dead, 'span')} refused for good" if tally.dead else ""
    return f"{said}; {count_of(pending, 'span')} pending{made}"


def _explain(spool: OpenSpool, endings: dict[str, str]) -> None:
    """Say why spans are left; of many routes those that are left for one reason are one line."""
    left = [one for one in spool.store.routes() if one.pending_spans]
    alike: dict[tuple[str, str], list[tuple[Route, str]]] = {}
    for one in left:
        why = (
            spool.drainer.routes.missing(one)
            or _unsettled(spool, one)
            or _why(one, endings.get(one.name, ""))
        )
        reason, name = why.partition("; ")[0], one.name if len(left) <= situations.FEW else ""
        alike.setdefault((reason, name), []).append((one, why))
    for (first, why), *more in alike.values():
        routes = [first, *(one for one, _ in more)]
        waits = sentences.waits(sum(one.pending_spans for one in routes))
        whose = f" of {first.name}:" if more else ""
        say(f"{few_of([one.name for one in routes])}: {waits}:{whose} {why}", err=True)
    if spool.drainer.client.tally.dead:
        say("see the dead letters with `python -m spool dead list`", err=True)


def _unsettled(spool: OpenSpool, route: Route) -> str:
    """Say that the disk is to blame, where it is."""
    if not spool.drainer.row_delivery.has_unsettled(route.name):
        return ""
    return (
        "they were delivered, but the disk takes no note of that, and the next drain sends them "
        f"again; see to the disk of {spool.settings.path.parent}: is it full, or read-only?"
    )


def _why(route: Route, ending: str) -> str:
    """Say what is the matter with a route, what to do, and why this drain left it alone."""
    if not route.last_error:
        return ending or "they came meanwhile, or another process sends them"
    cause = Cause.of(route.cause)
    said = f"{cause.explain(route.last_error)}; {cause.remedy}"
    return f"{said} ({ending})" if ending else said


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
