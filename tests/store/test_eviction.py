"""The oldest go where the limits of size and of age say so."""

from __future__ import annotations

from pathlib import Path

import pytest

from drains import evict
from spans import batch
from spool.store import eviction
from spool.store.records import Trouble
from spool.store.store import Store
from stores import TWO, assert_balanced, names_of, pack_all, route_of, take_of
from targets import MINE, OTHERS

pytestmark = pytest.mark.once


def grow_older(store: Store, seconds: float, at: float, max_age: float = 60) -> int:
    eviction.watch(store, seconds, at)
    return eviction.expire(store, max_age, now=100.0)


def test_eviction_takes_the_oldest_of_any_route_dead_letters_too(store: Store) -> None:
    store.append(OTHERS, batch("oldest"), now=1.0)
    store.append(MINE, batch("dead"), now=2.0)
    store.append(MINE, batch("young"), now=3.0)
    store.settle(take_of(store, max_spans=1), now=9.0, dead=1, reason="400")
    assert [evict(store, 1) for _ in range(4)] == [1, 1, 1, 0]
    ledger = assert_balanced(store)
    assert (ledger.evicted, ledger.dead, ledger.pending) == (3, 0, 0)


def test_eviction_frees_no_more_than_is_asked(filled: Store) -> None:
    size = len(filled.pending()[0].batch.payload)
    assert evict(filled, 2 * size) == 2


def test_what_another_process_has_evicted_meanwhile_is_not_evicted_again(
    filled: Store, path: Path
) -> None:
    for number in range(20):
        filled.append(MINE, batch(str(number), size=500), now=1.0)
    limit = filled.database.live_bytes() - 1
    while eviction.evict(filled, limit, 1.0):
        pass
    pending = filled.ledger().pending
    assert 0 < pending < 25
    assert eviction.evict(Store(path), limit, 1.0) == 0
    assert filled.ledger().pending == pending


def test_spans_that_were_watched_for_the_age_limit_are_evicted(filled: Store) -> None:
    assert grow_older(filled, 0, at=1000) == 0
    filled.append(MINE, batch("f"), now=100.0)
    assert grow_older(filled, 50, at=1050) == 0
    assert grow_older(filled, 10, at=1060) == 5
    assert names_of(*take_of(filled).batches) == ["f"]
    assert assert_balanced(filled).evicted == 5
    assert grow_older(filled, 50, at=1110) == 1
    assert grow_older(filled, 50, at=1160) == 0


def test_packing_makes_no_span_older(filled: Store) -> None:
    assert grow_older(filled, 0, at=1000) == 0
    for name in "fgh":
        filled.append(MINE, batch(name), now=100.0)
    assert grow_older(filled, 30, at=1030) == 0
    filled.append(MINE, batch("large", size=5 * TWO), now=100.0)
    pack_all(filled, max_bytes=4 * TWO)
    assert route_of(filled).pending_batches == 2
    assert grow_older(filled, 30, at=1060) == 0  # the pack holds f, g and h, too
    assert grow_older(filled, 30, at=1090) == 8
    assert_balanced(filled)


def test_dead_letters_grow_old_too(filled: Store) -> None:
    filled.settle(take_of(filled), now=101.0, dead=2, reason="400")
    assert grow_older(filled, 0, at=1000) == 0
    assert grow_older(filled, 60, at=1060) == 2
    ledger = assert_balanced(filled)
    assert (ledger.evicted, ledger.dead) == (2, 0)


def test_time_that_two_processes_watched_counts_once(filled: Store) -> None:
    assert grow_older(filled, 0, at=1000) == 0
    for at in (1020, 1021, 1040, 1041, 1059):
        assert grow_older(filled, 20, at=at) == 0
    assert grow_older(filled, 20, at=1060) == 5


@pytest.mark.parametrize("at", [5, 1_000_000])
def test_a_monotonic_clock_that_began_anew_makes_nothing_old(filled: Store, at: float) -> None:
    assert grow_older(filled, 0, at=1000) == 0
    assert grow_older(filled, 59, at=1059) == 0
    assert grow_older(filled, 0.5, at=at) == 0
    assert filled.ledger().pending == 5


def test_it_is_known_when_spans_were_last_evicted_and_refused(filled: Store) -> None:
    assert filled.last_trouble() == Trouble(None, None, None)
    evict(filled, 1, 200.0)
    filled.refuse(1)
    filled.count_refused(now=300.0)
    assert filled.last_trouble() == Trouble(200.0, 300.0, None)


def test_an_eviction_that_finds_nothing_is_none(store: Store) -> None:
    store.register(MINE)
    assert evict(store, 1, 200.0) == 0
    assert store.last_trouble().evicted_at is None
