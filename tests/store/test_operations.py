"""What a person does by command: adopt, retry, purge."""

from __future__ import annotations

from pathlib import Path

import pytest

from spans import batch
from spool.otlp.batch import Batch
from spool.settings.target import Target
from spool.store import operations
from spool.store.store import Store
from spool.system.spool_files import beside
from stores import assert_balanced, names_of, route_of, take_of
from targets import MINE, OTHERS

pytestmark = pytest.mark.once


def test_adopting_takes_no_other_routes_spans_where_another_file_has_come_to_the_path(
    store: Store, path: Path
) -> None:
    store.append(OTHERS, batch("stranded"), 1.0)
    stranded = route_of(store, OTHERS)
    for suffix in ("", "-wal", "-shm"):
        beside(path, suffix).rename(beside(path, f".aside{suffix}"))
    store.append(MINE, batch("not stranded"), 1.0)
    assert route_of(store).id == stranded.id
    new = Target.langfuse("pk-lf-new", "sk-lf-new", "https://langfuse.example")
    assert operations.adopt(store, stranded, new, sending=2) == 0
    assert route_of(store).pending_spans == 1


def test_adopting_holds_the_mutex_for_a_few_megabytes_at_a_time(store: Store) -> None:
    for _ in range(20):
        store.append(OTHERS, Batch(bytes(1 << 20), 1, 1 << 20), 1.0)
    stranded = route_of(store, OTHERS)
    assert operations._adopt_chunk(store, stranded, MINE) == 4
    assert operations.adopt(store, stranded, MINE, sending=2) == 16
    assert_balanced(store)


def test_adopting_moves_every_span_and_counts_none_twice(filled: Store) -> None:
    for number in range(300):
        filled.append(OTHERS, batch(f"s{number}"), now=100.0)
    assert operations.adopt(filled, route_of(filled, OTHERS), MINE, sending=2) == 300
    ledger = filled.ledger()
    assert (ledger.accepted, ledger.pending) == (305, 305)
    assert route_of(filled, OTHERS).pending_spans == 0
    taken = names_of(*take_of(filled).batches)
    assert taken == [*"abcde", *(f"s{number}" for number in range(300))]


def test_a_dead_letter_can_be_tried_again_and_counts_once(filled: Store) -> None:
    filled.settle(take_of(filled, max_spans=1), now=101.0, dead=1, reason="400")
    (letter,) = filled.dead_letters()
    assert operations.retry(filled, letter.id) == 1
    ledger = assert_balanced(filled)
    assert (ledger.accepted, ledger.dead, ledger.pending) == (5, 0, 5)
    assert names_of(*take_of(filled).batches) == list("bcdea")
    assert operations.retry(filled, letter.id) == 0
    assert_balanced(filled)


def test_a_purged_dead_letter_is_counted_as_purged(filled: Store) -> None:
    filled.settle(take_of(filled, max_spans=2), now=101.0, dead=2, reason="400")
    (letter,) = filled.dead_letters()
    assert operations.purge(filled, letter.id) == 2
    assert operations.purge(filled, letter.id) == 0
    assert assert_balanced(filled).purged == 2
    assert filled.dead_letters() == []
