"""Receivers that other people wrote, from PyPI, each in an environment that scripts/test makes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from real_receivers import REAL, Receiver
from spans import batch, span
from spool import SpoolSpanExporter
from spool.delivery import drain_once
from spool.delivery.drainer import Drainer
from spool.otlp.batch import Codec
from spool.settings.settings import Settings
from spool.settings.target import Target
from spool.store import row_packing
from spool.store.store import Store
from trials import Trial
from waits import PATIENCE

# What runs does not depend on the Python; a small machine needs its time to start it.
pytestmark = [pytest.mark.trust, pytest.mark.timeout(600)]

PACK_BYTES = 64 << 10


@pytest.fixture(params=list(REAL))
def real(request: pytest.FixtureRequest, receivers: Callable[[str], Receiver]) -> Receiver:
    """Give each real receiver in turn."""
    return receivers(request.param)


@pytest.fixture
def report_arrival(report: Callable[[Trial], None]) -> Callable[[Path, int], None]:
    """Report spans that have all arrived, as `wait_for` found."""

    def report_all(path: Path, spans: int) -> None:
        store = Store(path)
        ledger = store.ledger()
        store.close()
        name, held = "rotel, Phoenix and MLflow as receivers", ledger.in_memory
        report(Trial(name, 1, spans, ledger.accepted, ledger.refused, held, 0, 0))

    return report_all


def assert_drained(path: Path, real: Receiver, spans: int) -> None:
    target = Target.otlp(real.endpoint, real.headers)
    store = Store(path)
    drainer = Drainer(store, Settings(path=path, target=target, timeout_seconds=60))
    drainer.routes.add(target)
    drain_once.drain(drainer, PATIENCE, lambda: None)
    ledger, error = store.ledger(), store.routes()[0].last_error
    store.close()
    assert (ledger.delivered, ledger.dead, ledger.pending) == (spans, 0, 0), error


def test_a_packed_backlog_arrives_whole(
    real: Receiver, path: Path, report_arrival: Callable[[Path, int], None]
) -> None:
    names = [f"packed {os.getpid()} {number}" for number in range(3000)]
    target = Target.otlp(real.endpoint, real.headers)
    store = Store(path)
    for name in names:
        store.append(target, batch(name), time.time())
    while row_packing.pack(store.database, store.routes()[0].id, PACK_BYTES):
        pass
    packed = [row for row in store.pending() if row.batch.codec != Codec.RAW]
    store.close()
    assert len(packed) > 10
    assert_drained(path, real, len(names))
    real.wait_for(names)
    report_arrival(path, len(names))


def test_single_rows_arrive_whole(
    real: Receiver, path: Path, report_arrival: Callable[[Path, int], None]
) -> None:
    names = [f"single {number}" for number in range(100)]
    store = Store(path)
    for name in names:
        store.append(Target.otlp(real.endpoint, real.headers), batch(name), time.time())
    store.close()
    assert_drained(path, real, len(names))
    real.wait_for(names)
    report_arrival(path, len(names))


def test_a_batch_arrives_whole(
    real: Receiver, path: Path, report_arrival: Callable[[Path, int], None]
) -> None:
    names = [f"batch {number}" for number in range(500)]
    exporter = SpoolSpanExporter(path=path, endpoint=real.endpoint, headers=real.headers)
    exporter.export([span(name) for name in names])
    is_flushed = exporter.force_flush(60_000)
    exporter.shutdown()
    assert is_flushed
    real.wait_for(names)
    report_arrival(path, len(names))
