from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
from freezegun import freeze_time

from spans import batch
from spool.errors import SpoolFileError, SpoolFullError
from spool.journal import directory
from spool.journal.overflow import Overflow
from spool.settings.settings import Settings
from spool.settings.target import Target
from spool.store.connections import LARGE_WAL
from spool.store.maintenance import Maintenance
from spool.store.store import Store
from waits import wait_until

TARGET = Target.langfuse("pk-lf-test", "sk-lf-test", "https://langfuse.example")


@pytest.fixture
def settings(path: Path) -> Settings:
    return Settings(path=path, target=TARGET, sync_seconds=0.1, max_bytes=1 << 20)


@pytest.fixture
def maintenance(store: Store, settings: Settings) -> Iterator[Maintenance]:
    maintenance = Maintenance(store, settings)
    maintenance.start()
    yield maintenance
    maintenance.stop(10)


def test_what_was_appended_is_synced_once_an_interval(
    maintenance: Maintenance, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    syncs: list[int] = []
    sync = store.database.sync

    def counted() -> None:
        syncs.append(1)
        sync()

    monkeypatch.setattr(store.database, "sync", counted)
    for _ in range(5):
        store.append(TARGET, batch("a"), now=1.0)
    wait_until(lambda: len(syncs) == 1)
    store.append(TARGET, batch("b"), now=1.0)
    wait_until(lambda: len(syncs) == 2)


def test_an_idle_spool_is_left_alone(
    maintenance: Maintenance, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.append(TARGET, batch("a"), now=1.0)
    wait_until(lambda: not store.database.written.is_set())
    monkeypatch.setattr(maintenance, "keep", lambda: pytest.fail("it looked at an idle spool"))
    time.sleep(0.5)


def test_a_large_wal_is_checkpointed(maintenance: Maintenance, store: Store) -> None:
    store.append(TARGET, batch("a", size=LARGE_WAL), now=1.0)
    store.append(TARGET, batch("b"), now=1.0)
    wait_until(lambda: store.database.wal_bytes() < 1 << 20)


def test_a_spool_that_is_too_large_loses_its_oldest_spans_and_counts_them(
    store: Store, settings: Settings
) -> None:
    for number in range(30):
        store.append(TARGET, batch(str(number), size=50_000), now=float(number))
    Maintenance(store, settings).keep()
    ledger = store.ledger()
    assert store.database.live_bytes() <= 1 << 20
    assert ledger.evicted > 5
    assert ledger.accepted == ledger.evicted + ledger.pending
    assert store.pending()[0].created_at == ledger.evicted


def test_a_large_file_with_little_in_it_evicts_nothing(store: Store, settings: Settings) -> None:
    for number in range(60):
        store.append(TARGET, batch(str(number), size=50_000), now=float(number))
    take = store.oldest(1, max_bytes=1 << 40, max_spans=50)
    assert take is not None
    store.settle(take, now=100.0)
    assert store.database.file_bytes() > 2 << 20
    Maintenance(store, settings).keep()
    assert store.ledger().evicted == 0


def test_a_reader_that_pins_the_wal_makes_it_large_and_evicts_nothing(
    store: Store, settings: Settings, path: Path
) -> None:
    maintenance = Maintenance(store, replace(settings, max_bytes=4 << 20))
    store.append(TARGET, batch("first"), now=1.0)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM batch").fetchall()
        for number in range(200):
            store.append(TARGET, batch(str(number), size=50_000), now=1.0)
            take = store.oldest(1, max_bytes=1, max_spans=1)
            assert take is not None
            store.settle(take, now=2.0)
            if number % 20 == 0:
                maintenance.keep()
        maintenance.keep()
        assert store.database.file_bytes() > 8 << 20
        assert store.ledger().evicted == 0
    maintenance.keep()
    assert store.database.file_bytes() < 4 << 20


@pytest.mark.parametrize("when_full", ["drop-oldest", "drop-newest"])
def test_under_load_the_files_stay_near_the_limit(
    maintenance: Maintenance,
    store: Store,
    settings: Settings,
    when_full: Literal["drop-oldest", "drop-newest"],
) -> None:
    limits = {"max_bytes": 4 << 20, "when_full": when_full, "compression": "none"}
    limited = Maintenance(store, replace(settings, **limits))  # type: ignore[arg-type]  # as they are
    store.open()
    maintenance.stop(10)
    limited.start()
    sizes, tried, refused = [], 3000, 0
    for number in range(tried):
        try:
            store.accept(TARGET, batch(str(number), size=20_000), now=float(number))
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


def test_drop_newest_refuses_until_there_is_room_again(store: Store, settings: Settings) -> None:
    maintenance = Maintenance(store, replace(settings, when_full="drop-newest"))
    for number in range(30):
        store.append(TARGET, batch(str(number), size=50_000), now=float(number))
    maintenance.keep()
    assert store.is_full
    assert store.ledger().evicted == 0
    take = store.oldest(1, max_bytes=1 << 40, max_spans=20)
    assert take is not None
    store.settle(take, now=100.0)
    maintenance.keep()
    assert not store.is_full


def test_spans_older_than_the_age_limit_are_evicted_counted_and_said(
    store: Store, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    now = 1000.0
    maintenance = Maintenance(store, replace(settings, max_age_seconds=160), monotonic=lambda: now)
    store.append(TARGET, batch("a", "b"), now=1.0)
    for now in range(1000, 1170, 9):  # noqa: B007 - maintenance's clock
        maintenance.keep()
        assert store.ledger().pending == 2
    now = 1190.0
    maintenance.keep()
    assert (store.ledger().evicted, store.ledger().pending) == (2, 0)
    assert "2 spans" in caplog.text


@pytest.mark.parametrize("boot", ["1970-01-01 00:05:00", "2026-01-01"])
@pytest.mark.parametrize("later", ["1970-01-01 00:06:00", "2025-01-01", "2027-01-01"])
def test_no_wall_clock_that_jumps_makes_a_span_old(
    store: Store, settings: Settings, boot: str, later: str
) -> None:
    now = 1000.0
    limited = replace(settings, max_age_seconds=86400)
    with freeze_time(boot):
        store.append(TARGET, batch("a"), now=time.time())
        Maintenance(store, limited, monotonic=lambda: now).keep()
    with freeze_time(later):
        maintenance = Maintenance(store, limited, monotonic=lambda: now)
        for now in (1001.0, 40_000.0, 80_000.0):  # noqa: B007 - maintenance's clock
            maintenance.keep()
    assert store.ledger().pending == 1


def test_with_an_age_limit_an_idle_spool_is_looked_at(store: Store, settings: Settings) -> None:
    maintenance = Maintenance(store, replace(settings, max_age_seconds=0.5))
    store.append(TARGET, batch("a"), now=1.0)
    maintenance.start()
    try:
        wait_until(lambda: store.ledger().evicted == 1)
    finally:
        maintenance.stop(10)


def test_what_is_committed_is_synced_though_what_is_in_memory_cannot_be_moved(
    store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    syncs: list[int] = []
    monkeypatch.setattr(store.database, "sync", lambda: syncs.append(1))
    store.append(TARGET, batch("a"), now=1.0)
    overflow = Overflow()
    overflow.add(TARGET, batch("held"), 1.0)
    monkeypatch.setattr(store, "record", lambda *_: (_ for _ in ()).throw(SpoolFileError("full")))
    with pytest.raises(SpoolFileError):
        Maintenance(store, settings, overflow).keep()
    assert syncs


def test_a_cramped_disk_is_looked_at_again_though_the_file_is_gone(
    store: Store, settings: Settings, path: Path
) -> None:
    store.append(TARGET, batch("a"), now=1.0)
    store.is_cramped = True
    for file in path.parent.iterdir():
        file.unlink()
    with pytest.raises(SpoolFileError):
        Maintenance(store, settings).keep()
    store.append(TARGET, batch("b"), now=1.0)
    assert store.ledger().pending == 1


@pytest.mark.parametrize("trouble", [SpoolFileError("gone"), ValueError("a defect")])
def test_no_trouble_ends_the_keeper(
    maintenance: Maintenance, store: Store, monkeypatch: pytest.MonkeyPatch, trouble: Exception
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(store.database, "repair", fail_with(trouble))
        patch.setattr(store.database, "wal_bytes", fail_with(trouble))
        store.append(TARGET, batch("a"), now=1.0)
        time.sleep(0.4)
    store.append(TARGET, batch("a", size=LARGE_WAL), now=1.0)
    store.append(TARGET, batch("b"), now=1.0)
    wait_until(lambda: store.database.wal_bytes() < 1 << 20)


def fail_with(trouble: Exception) -> Callable[[], None]:
    def fail() -> None:
        raise trouble

    return fail


def test_what_failed_is_done_when_it_works_again(
    maintenance: Maintenance,
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

    monkeypatch.setattr(maintenance, "keep", failing)
    store.append(TARGET, batch("a"), now=1.0)
    wait_until(lambda: bool(done))
    assert caplog.text.count("the disk is full") == 1


# The journal


def test_what_comes_into_the_journal_becomes_few_rows_soon(
    maintenance: Maintenance, store: Store
) -> None:
    store.open()
    for number in range(200):
        store.accept(TARGET, batch(str(number)), now=1.0)
    wait_until(lambda: sum(row.batch.spans for row in store.pending()) == 200)
    assert len(store.pending()) < 20


def test_what_is_moved_from_the_journal_counts_for_the_limit_at_once(
    store: Store, settings: Settings
) -> None:
    store.open()
    limited = replace(settings, max_bytes=1 << 20, compression="none")
    for number in range(20):
        store.accept(TARGET, batch(str(number), size=200_000), now=float(number))
    Maintenance(store, limited).keep()
    assert store.database.live_bytes() < 1 << 20
    ledger = store.ledger()
    assert ledger.accepted == ledger.evicted + ledger.pending == 20


def test_a_journal_that_cannot_be_moved_is_bounded_by_the_limit_too(
    store: Store, settings: Settings
) -> None:
    store.open()
    limited = replace(settings, max_bytes=1 << 20)
    Maintenance(store, limited).keep()
    one = batch("a", size=100_000)
    with contextlib.suppress(SpoolFullError):
        for _ in range(1000):
            store.accept(TARGET, one, now=1.0)
    assert store.journal.unmoved_bytes < 6 << 20
    Maintenance(store, limited).keep()
    store.accept(TARGET, one, now=1.0)


def test_on_a_cramped_disk_the_journal_is_moved_when_nothing_else_waits(
    store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.append(TARGET, batch("first"), now=1.0)
    store.accept(TARGET, batch("second"), now=2.0)
    monkeypatch.setattr(store.database, "is_cramped", lambda: True)
    Maintenance(store, settings).keep()
    assert len(store.pending()) == 1
    take = store.oldest(1, max_bytes=1 << 20, max_spans=10)
    assert take is not None
    store.settle(take, now=3.0)
    Maintenance(store, settings).keep()
    assert [row.created_at for row in store.pending()] == [2.0]


def test_an_exit_leaves_no_journal_behind(store: Store, settings: Settings, path: Path) -> None:
    store.open()
    store.accept(TARGET, batch("a"), now=1.0)
    Maintenance(store, settings).save(is_last=True)
    assert directory.paths(path) == []
    assert store.ledger().pending == 1


def test_what_a_drainer_does_not_come_for_becomes_rows_in_the_end(
    maintenance: Maintenance, store: Store
) -> None:
    store.open()
    store.journal.served_until = time.monotonic() + 0.5
    store.accept(TARGET, batch("a"), 1.0)
    wait_until(lambda: bool(store.pending()))
    assert time.monotonic() > store.journal.served_until


# A limit that several processes share


def fill(stores: list[Store], size: int) -> int:
    """Append as many bytes to the journals of all, in turn; give the spans."""
    one = batch("a", size=20_000)
    count = size // len(one.payload)
    for number in range(count):
        stores[number % len(stores)].accept(TARGET, one, float(number))
    return count


@pytest.fixture
def four(path: Path, store: Store) -> Iterator[list[Store]]:
    """Use one spool as four processes do."""
    others = [Store(path) for _ in range(3)]
    store.open()
    yield [store, *others]
    for other in others:
        other.close()


def test_the_limit_is_of_the_spool_whoever_writes_and_the_oldest_is_evicted(
    four: list[Store], settings: Settings
) -> None:
    settings = replace(settings, compression="none")
    keepers = [Maintenance(one, settings) for one in four]
    for number in range(10):
        four[0].append(TARGET, batch(str(number), size=50_000), float(number))
    ended = 10 + fill(four, 8 << 20)  # refused by none
    for _ in range(2):
        for maintenance in keepers:
            maintenance.keep()
    ledger = four[0].ledger()
    assert ledger.accepted == ended == ledger.evicted + ledger.pending
    held = four[0].database.live_bytes() + four[0].inbound_bytes()
    assert (1 << 20) // 4 < held < (1 << 20) + (256 << 10)
    assert min(row.created_at for row in four[0].pending()) > 100


def test_no_process_accepts_more_when_all_journals_together_reach_the_limit(
    four: list[Store], settings: Settings
) -> None:
    settings = replace(settings, compression="none", when_full="drop-newest")
    fill(four, 3 << 20)
    for one in four:
        Maintenance(one, settings)._limit_size()
    for one in four:
        with pytest.raises(SpoolFullError):
            one.accept(TARGET, batch("b"), 1.0)
    assert four[0].ledger().evicted == 0


def test_what_came_in_a_burst_is_evicted_from_the_journal_without_becoming_rows(
    store: Store, settings: Settings, path: Path
) -> None:
    store.open()
    store.journal.bound(1 << 20)
    ended = fill([store], 4 << 20)
    Maintenance(store, settings)._limit_size()
    assert store.pending() == []
    ledger = store.ledger()
    assert ledger.accepted == ended == ledger.evicted + ledger.pending
    assert ledger.evicted > ended // 2
    assert store.inbound_bytes() <= 1 << 20
    assert sum(file.stat().st_size for file in directory.paths(path)) < 2 << 20


def test_a_journal_that_was_left_for_its_size_rouses_the_keeper(
    store: Store, settings: Settings
) -> None:
    store.open()
    store.journal.bound(1 << 20)
    maintenance = Maintenance(store, settings)
    maintenance.start()
    try:
        fill([store], 4 << 20)
        wait_until(lambda: store.inbound_bytes() == 0 and store.ledger().evicted > 0)
    finally:
        maintenance.stop(10)


def test_new_spans_do_not_wait_behind_the_counts_of_what_was_sent_from_memory(
    store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    overflow, done = Overflow(), list[str]()
    for _ in range(3):
        overflow.add(TARGET, batch("sent"), 1.0)
    overflow.deliver(overflow.take(TARGET.route, 1 << 20))
    overflow.add(TARGET, batch("held"), 2.0)
    record, credit = store.record, store.credit

    def noting(word: str, work: Callable[..., None]) -> Callable[..., None]:
        def noted(*arguments: object) -> None:
            done.append(word)
            work(*arguments)

        return noted

    monkeypatch.setattr(store, "record", noting("span", record))
    monkeypatch.setattr(store, "credit", noting("count", credit))
    Maintenance(store, settings, overflow).save()
    assert done == ["span", "count"]
    ledger = store.ledger()
    assert (ledger.accepted, ledger.delivered, ledger.pending) == (4, 3, 1)
