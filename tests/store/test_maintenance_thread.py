from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Literal

import pytest

from filling import fill
from spans import batch
from spool.errors import SpoolFileError, SpoolFullError, SpoolUnavailableError
from spool.settings.settings import Settings
from spool.store import journal_chunks
from spool.store.connections import LARGE_WAL
from spool.store.maintenance_thread import MaintenanceThread
from spool.store.store import Store
from targets import MINE
from waits import wait_until

pytestmark = pytest.mark.once


@pytest.fixture
def running(store: Store, small: Settings) -> Iterator[MaintenanceThread]:
    """Let the thread of a small spool run."""
    thread = MaintenanceThread(store, small)
    thread.start()
    yield thread
    thread.stop(10)


def test_what_was_appended_is_synced_once_an_interval(
    running: MaintenanceThread, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    syncs: list[int] = []
    sync = store.database.sync

    def counted() -> None:
        syncs.append(1)
        sync()

    monkeypatch.setattr(store.database, "sync", counted)
    for _ in range(5):
        store.append(MINE, batch("a"), now=1.0)
    wait_until(lambda: len(syncs) == 1)
    store.append(MINE, batch("b"), now=1.0)
    wait_until(lambda: len(syncs) == 2)


def test_an_idle_spool_is_left_alone(
    running: MaintenanceThread, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.append(MINE, batch("a"), now=1.0)
    wait_until(lambda: not store.database.written.is_set())
    monkeypatch.setattr(
        running.maintenance, "keep", lambda: pytest.fail("it looked at an idle spool")
    )
    time.sleep(0.5)


def test_a_large_wal_is_checkpointed(running: MaintenanceThread, store: Store) -> None:
    store.append(MINE, batch("a", size=LARGE_WAL), now=1.0)
    store.append(MINE, batch("b"), now=1.0)
    wait_until(lambda: store.database.wal_bytes() < 1 << 20)


@pytest.mark.parametrize("when_full", ["drop-oldest", "drop-newest"])
def test_under_load_the_files_stay_near_the_limit(
    running: MaintenanceThread,
    store: Store,
    small: Settings,
    when_full: Literal["drop-oldest", "drop-newest"],
) -> None:
    limits = {"max_bytes": 4 << 20, "when_full": when_full, "compression": "none"}
    limited = MaintenanceThread(store, replace(small, **limits))  # type: ignore[arg-type]  # as they are
    store.open()
    running.stop(10)
    limited.start()
    sizes, tried, refused = [], 3000, 0
    for number in range(tried):
        try:
            store.accept(MINE, batch(str(number), size=20_000), now=float(number))
        except SpoolFullError:
            refused += 1
        sizes.append(store.database.file_bytes())
        time.sleep(0.001)
    limited.stop(10)
    ledger = store.ledger()
    print(f"{tried * 20_000} bytes written, at most {max(sizes)} in the files, {ledger}")
    assert max(sizes) < tried * 20_000 / 2
    assert ledger.accepted == tried - refused == ledger.pending + ledger.evicted
    assert (ledger.evicted > 0, refused > 0) == (
        (True, False) if when_full == "drop-oldest" else (False, True)
    )


def test_with_an_age_limit_an_idle_spool_is_looked_at(store: Store, small: Settings) -> None:
    thread = MaintenanceThread(store, replace(small, max_age_seconds=0.5))
    store.append(MINE, batch("a"), now=1.0)
    thread.start()
    try:
        wait_until(lambda: store.ledger().evicted == 1)
    finally:
        thread.stop(10)


@pytest.mark.parametrize("trouble", [SpoolFileError("gone"), ValueError("a defect")])
def test_no_trouble_ends_it(
    running: MaintenanceThread, store: Store, monkeypatch: pytest.MonkeyPatch, trouble: Exception
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(store.database, "repair", fail_with(trouble))
        patch.setattr(store.database, "wal_bytes", fail_with(trouble))
        store.append(MINE, batch("a"), now=1.0)
        time.sleep(0.4)
    store.append(MINE, batch("a", size=LARGE_WAL), now=1.0)
    store.append(MINE, batch("b"), now=1.0)
    wait_until(lambda: store.database.wal_bytes() < 1 << 20)


def fail_with(trouble: Exception) -> Callable[[], None]:
    def fail() -> None:
        raise trouble

    return fail


def test_what_failed_is_done_when_it_works_again(
    running: MaintenanceThread,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    failures = iter([True, True])
    done: list[int] = []

    def failing() -> None:
        if next(failures, False):
            raise SpoolFileError("the disk is full")
        done.append(1)

    monkeypatch.setattr(running.maintenance, "keep", failing)
    store.append(MINE, batch("a"), now=1.0)
    wait_until(lambda: bool(done))
    assert caplog.text.count("the disk is full") == 1


def test_it_is_said_once_when_the_disk_takes_spans_again(
    running: MaintenanceThread,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    store.append(MINE, batch("a"), now=1.0)
    with monkeypatch.context() as patch:
        patch.setattr(store.database, "repair", fail_with(SpoolUnavailableError("it is full")))
        store.append(MINE, batch("b"), now=1.0)
        wait_until(lambda: "it is full" in caplog.text)
        assert "again" not in caplog.text
    wait_until(lambda: "the disk takes spans again" in caplog.text)
    with monkeypatch.context() as patch:  # nothing fails, and nothing is accepted
        patch.setattr(store.database, "is_cramped", lambda: True)
        store.append(MINE, batch("c"), now=1.0)
        wait_until(lambda: store.is_cramped)
    wait_until(lambda: not store.is_cramped)  # though nothing is written
    assert caplog.text.count("the disk takes spans again") == 1  # within a minute


def test_what_comes_into_the_journal_becomes_few_rows_soon(
    running: MaintenanceThread, store: Store
) -> None:
    store.open()
    for number in range(200):
        store.accept(MINE, batch(str(number)), now=1.0)
    wait_until(lambda: sum(row.batch.spans for row in store.pending()) == 200)
    assert len(store.pending()) < 20


def test_what_a_drainer_does_not_come_for_becomes_rows_in_the_end(
    running: MaintenanceThread, store: Store
) -> None:
    store.open()
    store.journal.served_until = time.monotonic() + 0.5
    store.accept(MINE, batch("a"), 1.0)
    wait_until(lambda: bool(store.pending()))
    assert time.monotonic() > store.journal.served_until


def test_a_journal_that_was_left_for_its_size_rouses_it(store: Store, small: Settings) -> None:
    store.open()
    store.journal.bound(1 << 20)
    thread = MaintenanceThread(store, small)
    thread.start()
    try:
        fill([store], 4 << 20)
        wait_until(lambda: journal_chunks.inbound_bytes(store.database) == 0)
        wait_until(lambda: store.ledger().evicted > 0)
    finally:
        thread.stop(10)
