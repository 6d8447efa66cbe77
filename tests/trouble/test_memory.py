"""What only memory holds, as the disk refused it: nothing of it is written twice or lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from opentelemetry.sdk.trace.export import SpanExportResult

import standin
from disks import no_room
from spans import batch, span
from spool import Settings, SpoolSpanExporter
from spool.journal.overflow import Held, Overflow
from spool.pipeline.pipeline import Pipeline
from spool.store import takeover
from spool.store.maintenance import Maintenance
from spool.store.store import Store
from standin import StandIn

pytestmark = pytest.mark.once

SUCCESS, FAILURE = SpanExportResult.SUCCESS, SpanExportResult.FAILURE


@pytest.fixture
def exporter(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[SpoolSpanExporter]:
    """Spool without background threads, so that a test moves every batch itself."""
    monkeypatch.setattr(Pipeline, "start_threads", lambda _: None)
    exporter = SpoolSpanExporter(settings=settings)
    yield exporter
    exporter.shutdown()


def test_a_full_memory_is_no_reason_to_refuse_while_the_disk_works(
    exporter: SpoolSpanExporter, path: Path
) -> None:
    exporter._pipeline.overflow = Overflow(max_bytes=1000)
    other = Store(path)
    with no_room():
        assert [exporter.export([span(size=600)]) for _ in range(2)] == [FAILURE, FAILURE]
    assert exporter._pipeline.overflow.spans == 1
    assert exporter.export([span(size=600)]) is SUCCESS
    assert other.ledger().accepted == 1
    other.close()


def test_nobody_waits_for_the_mutex(exporter: SpoolSpanExporter, path: Path) -> None:
    other = Store(path)
    with other.database.writing():
        assert [exporter.export([span()]) for _ in range(5)] == [SUCCESS] * 5
        exporter.shutdown()  # nor at the end: others move what is in the journal
    assert other.ledger().pending == 5
    assert other.pending() == []
    takeover.take_over(other, compress=True, sending=10.0)
    assert [row.batch.spans for row in other.pending()] == [5]
    other.close()


def test_many_batches_in_memory_become_few_rows(store: Store, settings: Settings) -> None:
    overflow = Overflow()
    target = settings.require_target()
    for number in range(500):
        overflow.add(target, batch(f"s{number}"), float(number))
    Maintenance(store, settings, overflow).save()
    assert not overflow
    assert store.ledger().accepted == store.ledger().pending == 500
    assert len(store.pending()) == 1


def test_two_who_save_the_same_memory_write_everything_once(
    store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    overflow = Overflow()
    for number in range(20):
        overflow.add(settings.require_target(), batch(f"s{number}", size=200_000), float(number))
    record = store.record

    def slowly(held: Held, patience: float) -> None:
        time.sleep(0.005)
        record(held, patience)

    monkeypatch.setattr(store, "record", slowly)
    keepers = [Maintenance(store, settings, overflow) for _ in range(2)]
    threads = [threading.Thread(target=maintenance.save) for maintenance in keepers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not overflow
    assert store.ledger().accepted == 20


def test_what_is_in_memory_does_not_keep_a_full_spool_from_noticing_room(
    store: Store, settings: Settings
) -> None:
    settings = replace(settings, when_full="drop-newest")
    target, overflow = settings.require_target(), Overflow()
    store.append(target, batch("old"), now=1.0)
    store.is_full = True
    overflow.add(target, batch("held"), 2.0)
    Maintenance(store, settings, overflow).keep()
    assert not overflow
    assert store.ledger().pending == 2


def test_what_shutdown_cannot_save_is_counted_as_refused(
    exporter: SpoolSpanExporter, path: Path, langfuse: StandIn
) -> None:
    langfuse.behave(standin.unavailable())
    exporter.export([span()])
    exporter._pipeline.overflow.add(exporter._target, batch("held"), 1.0)
    exporter._pipeline.store.is_full = True
    exporter.shutdown()
    store = Store(path)
    assert (store.ledger().accepted, store.ledger().refused) == (1, 1)
    store.close()


def test_what_was_sent_from_memory_is_not_counted_as_refused_at_shutdown(
    exporter: SpoolSpanExporter, path: Path, langfuse: StandIn
) -> None:
    langfuse.behave(standin.unavailable())
    exporter.export([span()])
    overflow = exporter._pipeline.overflow
    overflow.add(exporter._target, batch("sent"), 1.0)
    overflow.add(exporter._target, batch("held"), 1.0)
    overflow.deliver(overflow.take(exporter._target.route, 1)[:1])
    assert (overflow.spans, overflow.unsent_spans) == (2, 1)
    exporter._pipeline.store.is_full = True
    exporter.shutdown()
    store = Store(path)
    assert store.ledger().refused == 1
    store.close()
