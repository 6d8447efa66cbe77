"""The commands: `python -m spool [--path FILE] COMMAND`, also installed as `spool`.

Exit codes: 0 all is well; 1 not (see each command); 2 wrong usage or settings. A spool that does
not exist yet is well, and reading commands create nothing.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import time
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import click

from spool.__about__ import __version__
from spool.commands.report import Report
from spool.delivery import drain_once
from spool.delivery.drainer import Drainer
from spool.delivery.routes import Tally
from spool.errors import (
    SettingsError,
    SpoolBusyError,
    SpoolDamagedError,
    SpoolError,
    SpoolUnavailableError,
)
from spool.otlp.batch import unpack
from spool.settings.settings import Settings
from spool.store import ingest
from spool.store.maintenance import Maintenance
from spool.store.store import Store
from spool.system.redaction import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from opentelemetry.proto.trace.v1.trace_pb2 import Span

    from spool.otlp.batch import Batch
    from spool.store.records import DeadLetter, Route

_SETTLED: Final = 5.0
_ID: Final = click.IntRange(1, (1 << 63) - 1)
_DRAINED: Final = (
    "delivered {delivered} spans in {requests} requests and {seconds:.1f} s; "
    "{pending} pending, {dead} dead letters made"
)


def main() -> None:
    """Run a command and exit with its code; an error is one line on standard error."""
    try:
        commands(prog_name="spool")
    except (SpoolBusyError, SpoolUnavailableError) as error:
        _fail(error, 1)
    except SpoolError as error:
        _fail(error, 2)


def _say(line: str, *, err: bool = False) -> None:
    """Print a line. What spans, keys and servers say is escaped, as JSON does it by itself."""
    click.echo(printable(line), err=err)


def _fail(error: SpoolError, code: int) -> None:
    _say(f"spool: {error}", err=True)
    sys.exit(code)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--path", metavar="FILE", help="The spool file; else SPOOL_PATH counts.")
@click.version_option(__version__, prog_name="langfuse-spool")
@click.pass_context
def commands(context: click.Context, path: str | None) -> None:
    """Look after a spool: spans that wait on disk for their way to Langfuse."""
    context.obj = path


class _Spool:
    """The spool that a command works on."""

    def __init__(self, path: str | None) -> None:
        self.settings = Settings.from_env(path=path)
        self.store = Store(self.settings.path, self.settings.durability)
        self.drainer = Drainer(self.store, self.settings)
        if self.settings.target is not None:
            self.drainer.routes.add(self.settings.target)


@contextlib.contextmanager
def _existing(path: str | None) -> Iterator[_Spool | None]:
    """Open a spool for a command; None where there is none yet, which is said and is well."""
    spool = _Spool(path)
    if not spool.store.exists():
        _say(f"no spool yet at {spool.settings.path}", err=True)
        yield None
        return
    try:
        yield spool
    finally:
        spool.store.close()


# drain


@commands.command()
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
    with _existing(path) as spool:
        tally, pending = Tally(), 0
        if spool is not None:
            with _progress(spool, hidden=as_json) as progress, _kept(spool):
                try:
                    drain_once.drain(spool.drainer, timeout, progress)
                except SpoolDamagedError:
                    spool.store.database.repair()
                    drain_once.drain(spool.drainer, timeout, progress)
            tally, pending = spool.drainer.routes.tally, spool.store.ledger().pending
        seconds = round(time.monotonic() - started, 3)
        result = {**asdict(tally), "pending": pending, "seconds": seconds}
        _say(json.dumps(result) if as_json else _DRAINED.format(**result))
        if spool is not None and (pending or tally.dead):
            _explain(spool)
            sys.exit(1)


def _explain(spool: _Spool) -> None:
    for route in spool.store.routes():
        if route.pending_spans and (missing := spool.drainer.routes.missing(route)):
            _note(route, missing)
        elif route.pending_spans and route.last_error:
            _note(route, route.last_error)
    if spool.drainer.routes.tally.dead:
        _say("see the dead letters with `python -m spool dead list`", err=True)


def _note(route: Route, text: str) -> None:
    _say(f"{route.name}: {route.pending_spans} spans wait: {text}", err=True)


@contextlib.contextmanager
def _progress(spool: _Spool, *, hidden: bool) -> Iterator[Any]:
    if hidden or not sys.stderr.isatty():
        yield lambda: None
        return
    total, tally = spool.store.ledger().pending, spool.drainer.routes.tally
    with click.progressbar(length=total, label="draining", file=sys.stderr) as bar:
        yield lambda: bar.update(tally.delivered + tally.dead - bar.pos)


@contextlib.contextmanager
def _kept(spool: _Spool) -> Iterator[None]:
    """Sync and checkpoint beside the work, and show that somebody drains."""
    maintenance = Maintenance(spool.store, spool.settings)
    maintenance.start()
    try:
        with spool.store.present():
            yield
    finally:
        maintenance.stop(_SETTLED)
    try:
        Maintenance(spool.store, spool.settings).keep()
    except SpoolDamagedError:
        raise
    except SpoolUnavailableError as error:  # what could be sent was sent
        _say(f"spool: {error}", err=True)


@commands.command()
@click.pass_obj
def run(path: str | None) -> None:
    """Drain until SIGTERM or SIGINT: a sidecar, or a service."""
    # Blocked here and in the threads to come, so that only `sigwait` gets them: a handler runs in
    # the main thread, which sleeps on where the kernel has given the signal to another.
    stops = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, stops)
    spool = _Spool(path)
    spool.store.open()
    maintenance = Maintenance(spool.store, spool.settings)
    maintenance.start()
    spool.drainer.start()
    _say(f"draining {spool.settings.path}", err=True)
    signal.sigwait(stops)
    spool.drainer.stop(_SETTLED)
    maintenance.stop(_SETTLED)
    spool.store.close()


# status


@commands.command()
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
    with _existing(path) as spool:
        if spool is None:
            return
        report = Report.of(spool.store, spool.drainer.routes, spool.settings.max_bytes, time.time())
    if as_json:
        click.echo(json.dumps(report.as_json(), indent=2))
    else:
        for line in _lines(report):
            _say(line)
    concerns = report.concerns(max_age)
    for concern in concerns:
        _say(f"! {concern}", err=as_json)
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


# peek and adopt


@commands.command()
@click.option("-n", "count", type=click.IntRange(min=1), default=10, help="How many (10).")
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON.")
@click.pass_obj
def peek(path: str | None, count: int, *, as_json: bool) -> None:
    """Show pending spans, the oldest of each route first: time, ids, name, size."""
    with _existing(path) as spool:
        shown = [] if spool is None else _peek(spool.store, count)
    if as_json:
        click.echo(json.dumps(shown, indent=2))
        return
    for span in shown:
        _say(
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
                shown.extend(map(_span_json, _spans(row.batch)))
    inbound = store.inbound()
    while len(shown) < count and (frame := next(inbound, None)) is not None:
        shown.extend(map(_span_json, _spans(frame.batch)))
    inbound.close()
    return shown[:count]


def _spans(batch: Batch) -> list[Span]:
    from opentelemetry.proto.collector.trace.v1 import (  # noqa: PLC0415 - slow, rarely needed
        trace_service_pb2,
    )

    request = trace_service_pb2.ExportTraceServiceRequest.FromString(unpack(batch))
    return [
        span
        for resource_spans in request.resource_spans
        for scope_spans in resource_spans.scope_spans
        for span in scope_spans.spans
    ]


def _span_json(span: Span) -> dict[str, Any]:
    return {
        "time": _time(span.end_time_unix_nano / 1e9),
        "trace_id": span.trace_id.hex(),
        "span_id": span.span_id.hex(),
        "name": span.name,
        "bytes": span.ByteSize(),
    }


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="seconds")


@commands.command()
@click.argument("route")
@click.pass_obj
def adopt(path: str | None, route: str) -> None:
    """Give a stranded route's spans to the current credentials.

    Only a person can know that both belong to the same project.
    """
    with _existing(path) as spool:
        if spool is None:
            return
        target = spool.settings.require_target()
        sending = spool.settings.timeout_seconds
        ingest.ingest_all(spool.store, compress=spool.settings.is_gzip, sending=sending)
        routes = {known.name: known for known in spool.store.routes()}
        if route not in routes or route == target.route:
            others = ", ".join(name for name in routes if name != target.route) or "none"
            raise SettingsError(f"ROUTE={route}: must be another route of this spool: {others}")
        moved = spool.store.adopt(routes[route], target, sending)
    _say(f"{moved} spans of {route} now wait for {target.route}")


# dead letters


@commands.group()
def dead() -> None:
    """Look after the dead letters: what no receiver would take, with its words."""


@dead.command("list")
@click.pass_obj
def list_dead(path: str | None) -> None:
    """List the dead letters."""
    with _existing(path) as spool:
        letters = [] if spool is None else _letters(spool.store)
        for letter in letters:
            _say(_headline(letter))


@dead.command()
@click.argument("letter_id", metavar="ID", type=_ID)
@click.pass_obj
def show(path: str | None, letter_id: int) -> None:
    """Show one dead letter and its spans."""
    with _existing(path) as spool:
        if spool is None:
            return
        letter = _letter(spool.store, letter_id)
    _say(_headline(letter))
    for span in _spans(letter.batch):
        for line in str(span).split("\n"):
            _say(line)


@dead.command()
@click.argument("ids", metavar="ID...", type=_ID, nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All of them.")
@click.pass_obj
def retry(path: str | None, ids: tuple[int, ...], *, everything: bool) -> None:
    """Make dead letters pending again."""
    with _existing(path) as spool:
        if spool is not None:
            letters = _chosen(spool.store, ids, everything=everything)
            spans = sum(spool.store.retry(letter) for letter in letters)
            _say(f"{spans} spans are pending again")


@dead.command()
@click.argument("ids", metavar="ID...", type=_ID, nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All of them.")
@click.pass_obj
def purge(path: str | None, ids: tuple[int, ...], *, everything: bool) -> None:
    """Delete dead letters for good."""
    with _existing(path) as spool:
        if spool is not None:
            letters = _chosen(spool.store, ids, everything=everything)
            spans = sum(spool.store.purge(letter) for letter in letters)
            _say(f"{spans} spans were purged")


def _letters(store: Store) -> Iterator[DeadLetter]:
    first = 0
    while page := store.dead_letters(first):
        yield from page
        first = page[-1].id + 1


def _letter(store: Store, letter_id: int) -> DeadLetter:
    for letter in store.dead_letters(letter_id, count=1):
        if letter.id == letter_id:
            return letter
    raise click.UsageError(f"no dead letter has the ID {letter_id}; see `spool dead list`")


def _chosen(store: Store, ids: tuple[int, ...], *, everything: bool) -> Iterable[DeadLetter]:
    if bool(ids) == everything:
        raise click.UsageError("name the IDs, or give --all")
    return _letters(store) if everything else [_letter(store, letter_id) for letter_id in ids]


def _headline(letter: DeadLetter) -> str:
    return (
        f"{letter.id:>6}  {_time(letter.died_at)}  {letter.route}  "
        f"{letter.batch.spans} spans  {letter.reason}"
    )
