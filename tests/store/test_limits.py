from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from freezegun import freeze_time

from filling import fill
from spans import batch
from spool.errors import SpoolFileError, SpoolFullError
from spool.journal import directory
from spool.settings.settings import Settings
from spool.store import journal_chunks
from spool.store.limits import Limits
from spool.store.maintenance import Maintenance
from spool.store.store import Store
from targets import MINE

pytestmark = pytest.mark.once


def test_a_spool_that_is_too_large_loses_its_oldest_spans_and_counts_them(
    store: Store, small: Settings
) -> None:
    for number in range(30):
        store.append(MINE, batch(str(number), size=50_000), now=float(number))
    Maintenance(store, small).keep()
    ledger = store.ledger()
    assert store.database.live_bytes() <= 1 << 20
    assert ledger.evicted > 5
    assert ledger.accepted == ledger.evicted + ledger.pending
    assert store.pending()[0].created_at == ledger.evicted


def test_a_large_file_with_little_in_it_evicts_nothing(store: Store, small: Settings) -> None:
    for number in range(60):
        store.append(MINE, batch(str(number), size=50_000), now=float(number))
    take = store.oldest(1, max_bytes=1 << 40, max_spans=50)
    assert take is not None
    store.settle(take, now=100.0)
    assert store.database.file_bytes() > 2 << 20
    Maintenance(store, small).keep()
    assert store.ledger().evicted == 0


def test_a_reader_that_pins_the_wal_makes_it_large_and_evicts_nothing(
    store: Store, small: Settings, path: Path
) -> None:
    maintenance = Maintenance(store, replace(small, max_bytes=4 << 20))
    store.append(MINE, batch("first"), now=1.0)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM batch").fetchall()
        for number in range(200):
            store.append(MINE, batch(str(number), size=50_000), now=1.0)
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


def test_drop_newest_refuses_until_there_is_room_again(store: Store, small: Settings) -> None:
    maintenance = Maintenance(store, replace(small, when_full="drop-newest"))
    for number in range(30):
        store.append(MINE, batch(str(number), size=50_000), now=float(number))
    maintenance.keep()
    assert store.is_full
    assert store.ledger().evicted == 0
    take = store.oldest(1, max_bytes=1 << 40, max_spans=20)
    assert take is not None
    store.settle(take, now=100.0)
    maintenance.keep()
    assert not store.is_full


def test_spans_older_than_the_age_limit_are_evicted_counted_and_said(
    store: Store, small: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    now = 1000.0
    maintenance = Maintenance(store, replace(small, max_age_seconds=160), monotonic=lambda: now)
    store.append(MINE, batch("a", "b"), now=1.0)
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
    store: Store, small: Settings, boot: str, later: str
) -> None:
    now = 1000.0
    limited = replace(small, max_age_seconds=86400)
    with freeze_time(boot):
        store.append(MINE, batch("a"), now=time.time())
        Maintenance(store, limited, monotonic=lambda: now).keep()
    with freeze_time(later):
        maintenance = Maintenance(store, limited, monotonic=lambda: now)
        for now in (1001.0, 40_000.0, 80_000.0):  # noqa: B007 - maintenance's clock
            maintenance.keep()
    assert store.ledger().pending == 1


def test_what_is_moved_from_the_journal_counts_for_the_limit_at_once(
    store: Store, small: Settings
) -> None:
    store.open()
    limited = replace(small, max_bytes=1 << 20, compression="none")
    for number in range(20):
        store.accept(MINE, batch(str(number), size=200_000), now=float(number))
    Maintenance(store, limited).keep()
    assert store.database.live_bytes() < 1 << 20
    ledger = store.ledger()
    assert ledger.accepted == ledger.evicted + ledger.pending == 20


def test_a_journal_that_cannot_be_moved_is_bounded_by_the_limit_too(
    store: Store, small: Settings
) -> None:
    store.open()
    limited = replace(small, max_bytes=1 << 20)
    Maintenance(store, limited).keep()
    one = batch("a", size=100_000)
    with contextlib.suppress(SpoolFullError):
        for _ in range(1000):
            store.accept(MINE, one, now=1.0)
    assert store.journal.unmoved_bytes < 6 << 20
    Maintenance(store, limited).keep()
    store.accept(MINE, one, now=1.0)


def test_a_cramped_disk_is_looked_at_again_though_the_file_is_gone(
    store: Store, small: Settings, path: Path
) -> None:
    store.append(MINE, batch("a"), now=1.0)
    store.is_cramped = True
    for file in path.parent.iterdir():
        file.unlink()
    with pytest.raises(SpoolFileError):
        Maintenance(store, small).keep()
    store.append(MINE, batch("b"), now=1.0)
    assert store.ledger().pending == 1


# A limit that several processes share


@pytest.fixture
def four(path: Path, store: Store) -> Iterator[list[Store]]:
    """Use one spool as four processes do."""
    others = [Store(path) for _ in range(3)]
    store.open()
    yield [store, *others]
    for other in others:
        other.close()


def test_the_limit_is_of_the_spool_whoever_writes_and_the_oldest_is_evicted(
    four: list[Store], small: Settings
) -> None:
    small = replace(small, compression="none")
    all_of_them = [Maintenance(one, small) for one in four]
    for number in range(10):
        four[0].append(MINE, batch(str(number), size=50_000), float(number))
    ended = 10 + fill(four, 8 << 20)  # refused by none
    for _ in range(2):
        for maintenance in all_of_them:
            maintenance.keep()
    ledger = four[0].ledger()
    assert ledger.accepted == ended == ledger.evicted + ledger.pending
    held = four[0].database.live_bytes() + journal_chunks.inbound_bytes(four[0].database)
    assert (1 << 20) // 4 < held < (1 << 20) + (256 << 10)
    assert min(row.created_at for row in four[0].pending()) > 100


def test_no_process_accepts_more_when_all_journals_together_reach_the_limit(
    four: list[Store], small: Settings
) -> None:
    small = replace(small, compression="none", when_full="drop-newest")
    fill(four, 3 << 20)
    for one in four:
        Limits(one, small).limit_size()
    for one in four:
        with pytest.raises(SpoolFullError):
            one.accept(MINE, batch("b"), 1.0)
    assert four[0].ledger().evicted == 0


def test_what_came_in_a_burst_is_evicted_from_the_journal_without_becoming_rows(
    store: Store, small: Settings, path: Path
) -> None:
    store.open()
    store.journal.bound(1 << 20)
    ended = fill([store], 4 << 20)
    Limits(store, small).limit_size()
    assert store.pending() == []
    ledger = store.ledger()
    assert ledger.accepted == ended == ledger.evicted + ledger.pending
    assert ledger.evicted > ended // 2
    assert journal_chunks.inbound_bytes(store.database) <= 1 << 20
    assert sum(file.stat().st_size for file in directory.paths(path)) < 2 << 20
