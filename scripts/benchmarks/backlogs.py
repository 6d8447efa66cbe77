"""Backlogs of ours: how they are made, drained, and what they cost those who only pass by."""

from __future__ import annotations

import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import workload
from benchmarks.child import ready
from benchmarks.plan import CALM_SECONDS
from benchmarks.stores import disk_bytes, poster
from spool import Settings
from spool.delivery import drain_once
from spool.delivery.drainer import Drainer
from spool.otlp.batch import ROW_BYTES, Batch, join, merge
from spool.pipeline import registry
from spool.report.report import Report
from spool.settings.target import Target
from spool.store import ingest
from spool.store.maintenance_thread import MaintenanceThread
from spool.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_NO_LIMIT = 1 << 50
_PATIENCE = 30.0
_BURST_SECONDS = 0.01

_BODIES = 8
_REQUEST_BYTES = 4 << 20  # the default of SPOOL_MAX_REQUEST_BYTES
_SAMPLES = 40
_APPENDS = 10


def fill(path: str, endpoint: str, spans: int, is_packed: bool) -> dict[str, float]:
    """Leave a backlog: of packed rows, or of single spans."""
    store, target = Store(Path(path)), Target.otlp(endpoint, {})
    store.register(target)
    rows = _packed_rows() if is_packed else _single_rows()
    filled = raw_bytes = 0
    while filled < spans:
        row = next(rows)
        store.append(target, row, time.time(), patience=_PATIENCE)
        filled, raw_bytes = filled + row.spans, raw_bytes + row.raw_bytes
        if store.database.wal_bytes() > 64 << 20:
            store.database.checkpoint()
    store.database.checkpoint()
    store.close()
    return {
        "spans": filled,
        "raw_bytes": raw_bytes / filled,
        "disk_bytes": disk_bytes(Path(path).parent) / filled,
    }


def run_beside_waits(path: str, endpoint: str, routes: int, seconds: float) -> dict[str, float]:
    """Tell what share of a core `run` costs beside routes that all wait for long, in percent."""
    credentials, store = Path(path).with_name("credentials"), Store(Path(path))
    credentials.touch(0o600)
    host = endpoint.partition("/v1/")[0]
    for number in range(routes):
        target = Target.langfuse(f"pk-lf-{number}", f"sk-lf-{number}", host)
        store.append(target, next(_single_rows()), time.time())
        with credentials.open("a") as lines:
            lines.write(f"pk-lf-{number}: sk-lf-{number} {host}\n")
    with store.database.transaction() as connection:
        wait = "UPDATE route SET attempts = 9, waited_at = ?, wait_seconds = 3600"
        connection.execute(wait, (time.time(),))
    store.close()
    variables = {"SPOOL_PATH": path, "SPOOL_CREDENTIALS_FILE": str(credentials)}
    command = [sys.executable, "-m", "spool", "run"]
    with subprocess.Popen(command, env={**os.environ, **variables}) as running:
        time.sleep(CALM_SECONDS)
        before = _cpu_seconds(running.pid)
        time.sleep(seconds)
        cpu_seconds = _cpu_seconds(running.pid) - before
        running.terminate()
    return {"percent": 100 * cpu_seconds / seconds}


def _cpu_seconds(pid: int) -> float:
    """Tell a process's CPU time. Raises RuntimeError where there is no procfs to tell it."""
    stat = Path(f"/proc/{pid}/stat")
    if not stat.exists():
        raise RuntimeError("only Linux tells the CPU time of another process here")
    user, system = stat.read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def _packed_rows(row_bytes: int = ROW_BYTES) -> Iterator[Batch]:
    """Make ready what packing leaves: deflated rows. The real packing is slower here."""
    cycle = itertools.cycle(workload.payloads(4 * workload.POOL))
    payload, rows = next(cycle), []
    for _ in range(_BODIES):
        part: list[bytes] = []
        raw_bytes = 0
        while not part or raw_bytes + len(payload) <= row_bytes:
            part.append(payload)
            raw_bytes, payload = raw_bytes + len(payload), next(cycle)
        rows.append(merge([Batch(b"".join(part), len(part), raw_bytes)], compress=True))
    return itertools.cycle(rows)


def _single_rows() -> Iterator[Batch]:
    return itertools.cycle([Batch(payload, 1, len(payload)) for payload in workload.payloads()])


def drain(path: str, endpoint: str, compression: Any) -> dict[str, float]:
    """Tell how fast a backlog is drained; the file is kept small meanwhile, as it always is."""
    settings, store, drainer = _open(path, endpoint, compression)
    maintenance = MaintenanceThread(store, settings)
    maintenance.start()
    started, cpu_started = time.monotonic(), time.process_time()
    drain_once.drain(drainer, None, lambda: None)
    seconds, cpu = time.monotonic() - started, time.process_time() - cpu_started
    maintenance.stop(5)
    pending = store.ledger().pending
    store.close()
    delivered = drainer.client.tally.delivered
    return {
        "per_second": delivered / seconds,
        "cpu_us": cpu / delivered * 1e6,
        "requests": drainer.client.tally.requests,
        "pending": pending,
    }


def post_from_memory(endpoint: str, spans: int, encoding: str) -> dict[str, float]:
    """Tell how fast the same bodies go out when they are in memory: all that HTTP itself costs."""
    rows = list(itertools.islice(_packed_rows(_REQUEST_BYTES), _BODIES))
    bodies = [join([row], compress=encoding == "gzip") for row in rows]
    counts = [row.spans for row in rows]
    posted = 0
    with poster(endpoint, encoding) as post:
        post(bodies[0])
        started = time.monotonic()
        for number in itertools.count():
            if posted >= spans:
                break
            post(bodies[number % _BODIES])
            posted += counts[number % _BODIES]
        seconds = time.monotonic() - started
    return {"per_second": posted / seconds}


def drain_for(path: str, endpoint: str, seconds: float) -> dict[str, float]:
    """Drain for a while, beside processes that append."""
    settings, store, drainer = _open(path, endpoint)
    store.register(Target.otlp(endpoint, {}))
    ready()
    maintenance = MaintenanceThread(store, settings)
    maintenance.start()
    drainer.start()
    time.sleep(seconds)
    drainer.stop(5)
    maintenance.stop(5)
    store.close()
    return {"delivered": drainer.client.tally.delivered}


def append_for(path: str, endpoint: str, seconds: float, rate: float) -> dict[str, Any]:
    """Append single spans, ready as bytes, `rate` a second: what the exporter does with them.

    0 is as fast as it goes; the time is over when all are in the file as rows. Tells how long each
    append took, in ms, and how many were refused for the moment.
    """
    target = Target.otlp(endpoint, {})
    settings = Settings(path=Path(path), target=target, drain=False, max_bytes=_NO_LIMIT)
    spool, _ = registry.open_pipeline(settings, target)
    batches = itertools.cycle([Batch(each, 1, len(each)) for each in workload.payloads()])
    times: list[float] = []
    refused = 0
    ready()
    started = time.monotonic()
    while (now := time.monotonic()) < started + seconds:
        refused += not spool.append(target, next(batches))
        times.append((time.monotonic() - now) * 1000)
        ahead = started + len(times) / rate - time.monotonic() if rate else 0.0
        if ahead > _BURST_SECONDS:  # a wake-up each would cost more than the append
            time.sleep(ahead)
    registry.release(spool)
    seconds = time.monotonic() - started
    return {"times": times, "per_second": (len(times) - refused) / seconds, "refused": refused}


def accepted(path: str) -> int:
    """Count the spans that a spool ever took in."""
    store = Store(Path(path))
    try:
        return store.ledger().accepted
    finally:
        store.close()


def pass_by(small: str, large: str, endpoint: str, is_packed: bool) -> dict[str, dict[str, float]]:
    """Tell what opening, the first request, appending and the status take, in µs.

    `large` has a backlog, `small` one request of the same rows; both are visited in turn.
    """
    times: dict[str, dict[str, list[float]]] = {"small": {}, "large": {}}
    request = _request(is_packed)
    for _ in range(_SAMPLES):
        _refill(small, endpoint, request)
        for name, path in (("small", small), ("large", large)):
            for what, micros in _visit(path, endpoint).items():
                times[name].setdefault(what, []).append(micros)
    return {
        name: {what: statistics.median(each) for what, each in found.items()}
        for name, found in times.items()
    }


def _request(is_packed: bool) -> list[Batch]:
    rows = _packed_rows() if is_packed else _single_rows()
    first = next(rows)
    return [first, *itertools.islice(rows, 0 if is_packed else ROW_BYTES // first.raw_bytes - 1)]


def _refill(path: str, endpoint: str, request: list[Batch]) -> None:
    """Leave just one request."""
    _, store, drainer = _open(path, endpoint)
    target = Target.otlp(endpoint, {})
    store.register(target)
    drain_once.drain(drainer, None, lambda: None)
    for batch in request:
        store.append(target, batch, time.time())
    store.database.checkpoint()
    store.close()


def _visit(path: str, endpoint: str) -> dict[str, float]:
    target, found = Target.otlp(endpoint, {}), {}
    _, store, drainer = _open(path, endpoint)
    batch = next(_single_rows())
    found["open"] = _micros(store.open)
    found["first request"] = _micros(drainer.send_due)
    found["append"] = statistics.median(
        _micros(lambda: store.accept(target, batch, time.time())) for _ in range(_APPENDS)
    )
    found["move"] = _micros(lambda: ingest.ingest(store, compress=True))
    store.journal.leave()
    ingest.sync(store)
    store.database.checkpoint()
    store.close()
    settings, store, drainer = _open(path, endpoint)
    found["status"] = _micros(lambda: _status(store, drainer, settings))
    store.close()
    return found


def _status(store: Store, drainer: Drainer, settings: Settings) -> str:
    report = Report.of(store, drainer.routes, settings.max_bytes, time.time())
    return json.dumps(report.as_json(), indent=2)


def _micros(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return (time.perf_counter() - started) * 1e6


def _open(path: str, endpoint: str, compression: Any = "gzip") -> tuple[Settings, Store, Drainer]:
    target = Target.otlp(endpoint, {})
    settings = Settings(
        path=Path(path), target=target, compression=compression, max_bytes=_NO_LIMIT
    )
    store = Store(settings.path)
    drainer = Drainer(store, settings)
    drainer.routes.add(target)
    return settings, store, drainer
