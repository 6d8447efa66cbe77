"""What happens when the disk or the mutex refuses: nothing that the application would notice."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from opentelemetry.sdk.trace.export import SpanExportResult

from spans import batch, span
from spool import Settings, SpoolSpanExporter
from spool.errors import SpoolFullError
from spool.keeper import Keeper
from spool.overflow import Held, Overflow
from spool.settings import Target
from spool.store import Store

SUCCESS, FAILURE = SpanExportResult.SUCCESS, SpanExportResult.FAILURE


# Found by chaos


@pytest.fixture
def exporter(settings: Settings) -> Iterator[SpoolSpanExporter]:
    """Spool without background threads, so that a test moves every batch itself."""
    exporter = SpoolSpanExporter(settings=settings)
    exporter._spool._is_running = True
    yield exporter
    exporter.shutdown()


def test_a_full_memory_is_no_reason_to_refuse_while_the_file_works(
    exporter: SpoolSpanExporter, path: Path
) -> None:
    exporter._spool.overflow = Overflow(max_bytes=1000)
    other = Store(path)
    with other.database.writing():
        assert [exporter.export([span(size=600)]) for _ in range(2)] == [FAILURE, FAILURE]
    assert exporter._spool.overflow.spans == 1
    assert exporter.export([span(size=600)]) is SUCCESS
    assert other.ledger().accepted == 1
    other.close()


def test_nobody_waits_for_the_mutex_again_until_it_was_had(
    exporter: SpoolSpanExporter, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool, patience = exporter._spool, []
    append = spool.store.append

    def noting(target: Target, batch: object, now: float, **how: float) -> None:
        patience.append(how["patience"])
        append(target, batch, now, **how)  # type: ignore[arg-type]  # it is passed on

    monkeypatch.setattr(spool.store, "append", noting)
    spool.overflow = Overflow(max_bytes=1000)
    other = Store(path)
    with other.database.writing():
        for _ in range(5):
            exporter.export([span(size=600)])
    assert patience == [0.1, 0.0, 0.0, 0.0, 0.0]
    Keeper(spool.store, spool._settings, spool.overflow).save()
    assert exporter.export([span()]) is SUCCESS
    assert patience[-1] == 0.1
    other.close()


def test_many_batches_in_memory_become_few_rows(store: Store, settings: Settings) -> None:
    overflow = Overflow()
    target = settings.require_target()
    for number in range(500):
        overflow.add(target, batch(f"s{number}"), float(number))
    Keeper(store, settings, overflow).save()
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

    def slowly(held: Held) -> None:
        time.sleep(0.005)
        record(held)

    monkeypatch.setattr(store, "record", slowly)
    keepers = [Keeper(store, settings, overflow) for _ in range(2)]
    threads = [threading.Thread(target=keeper.save) for keeper in keepers]
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
    with pytest.raises(SpoolFullError):
        Keeper(store, settings, overflow).keep()
    Keeper(store, settings, overflow).keep()
    assert not overflow
    assert store.ledger().pending == 2


def test_what_shutdown_cannot_save_is_counted_as_refused(
    exporter: SpoolSpanExporter, path: Path
) -> None:
    exporter.export([span()])
    exporter._spool.overflow.add(exporter._target, batch("held"), 1.0)
    exporter._spool.store.is_full = True
    exporter.shutdown()
    store = Store(path)
    assert (store.ledger().accepted, store.ledger().refused) == (1, 1)
    store.close()
