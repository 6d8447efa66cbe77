"""Rows: how they are chosen, divided, and what is damaged of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from spans import batch
from spool.otlp.batch import Batch, merge
from spool.otlp.cutting import divide
from spool.store.store import Store
from stores import assert_balanced, names_of, take_of
from targets import MINE

pytestmark = pytest.mark.once


def test_a_large_row_is_divided_in_its_place(store: Store) -> None:
    for names in ("abcd", "e"):
        store.append(MINE, batch(*names), now=100.0)
    first = take_of(store, max_spans=3)
    assert names_of(*first.batches) == list("abc")
    assert [row.id & 0xFF for row in store.pending()] == [1, 2, 3, 4, 5]
    assert store.settle(first, now=101.0) == 3
    store.append(MINE, batch("f"), now=102.0)
    assert names_of(*take_of(store).batches) == list("def")
    ledger = assert_balanced(store)
    assert (ledger.accepted, ledger.delivered) == (6, 3)


def test_a_row_without_room_for_its_parts_is_divided_behind_what_waits(store: Store) -> None:
    for names in ("abcd", "ef"):
        store.append(MINE, batch(*names), now=100.0)
    with store.database.transaction() as connection:  # as a salvaged file may have them
        connection.execute("UPDATE batch SET id = id - 3 WHERE spans = 2")
        connection.execute("UPDATE route SET next = 2")
    assert names_of(*take_of(store, max_spans=1).batches) == ["a"]
    assert names_of(*take_of(store).batches) == list("aefbcd")
    store.append(MINE, batch("g"), now=100.0)
    assert names_of(*take_of(store).batches) == list("aefbcdg")
    assert assert_balanced(store).accepted == 7


def test_a_row_that_another_has_divided_is_not_divided_again(
    store: Store, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.append(MINE, batch(*"abcd"), now=100.0)
    other = Store(path)

    def divide_after_another(whole: Batch, most: int) -> list[Batch]:
        monkeypatch.undo()
        take_of(other, max_spans=2)
        return divide(whole, most)

    monkeypatch.setattr("spool.store.store.divide", divide_after_another)
    assert names_of(*take_of(store, max_spans=2).batches) == ["a", "b"]
    assert names_of(*take_of(store).batches) == list("abcd")
    assert assert_balanced(store).accepted == 4
    other.close()


def test_a_row_that_is_too_large_in_bytes_is_divided(store: Store) -> None:
    store.append(MINE, batch(*"abcdefgh", size=1000), now=100.0)
    assert 1 <= take_of(store, max_bytes=4000).spans <= 4


def test_a_request_that_is_nearly_full_reads_no_further_row(store: Store) -> None:
    large, small = batch(*"abcdefgh"), batch("i")
    store.append(MINE, large, now=100.0)
    store.append(MINE, small, now=100.0)
    assert len(take_of(store, max_bytes=large.raw_bytes + small.raw_bytes).rows) == 1
    assert len(take_of(store, max_bytes=2 * large.raw_bytes).rows) == 2


def test_a_flipped_byte_is_found_and_taken_alone(filled: Store) -> None:
    with filled.database.transaction() as connection:
        row_id = filled.pending()[1].id
        connection.execute(
            "UPDATE batch SET payload = CAST(substr(payload, 1, 5) || x'ff' || "
            "substr(payload, 7) AS BLOB) WHERE id = ?",
            (row_id,),
        )
    assert names_of(*take_of(filled).batches) == ["a"]
    filled.settle(take_of(filled), now=101.0)
    damaged = take_of(filled)
    assert (damaged.spans, "checksum" in damaged.damage) == (1, True)


def test_a_row_that_cannot_be_cut_is_taken_whole_as_damaged(store: Store) -> None:
    store.append(MINE, Batch(b"\xff\xff\xff", spans=4, raw_bytes=3), now=100.0)
    take = take_of(store, max_spans=2)
    assert (take.spans, take.damage != "") == (4, True)


def test_packed_rows_are_taken_as_they_are(store: Store) -> None:
    raw = batch(*"abc")
    packed = merge([raw], compress=True)
    store.append(MINE, packed, now=100.0)
    take = take_of(store)
    assert take.batches == (packed,)
    assert take.rows[0].is_sound
    head = take_of(store, max_spans=1)
    assert names_of(*head.batches) == ["a"]
    store.settle(head, now=101.0)
    assert names_of(*take_of(store).batches) == ["b", "c"]


def test_a_row_of_a_kind_that_nobody_knows_is_taken_alone_as_damaged(store: Store) -> None:
    store.append(MINE, batch("a"), now=100.0)
    store.append(MINE, Batch(b"what came later", 1, 15, 3), now=100.0)
    assert names_of(*take_of(store).batches) == ["a"]
    store.settle(take_of(store), now=101.0)
    take = take_of(store)
    assert (take.spans, take.damage != "") == (1, True)
    store.settle(take, now=102.0, dead=1, reason=take.damage)
    (letter,) = store.dead_letters()
    assert (letter.batch.payload, letter.batch.codec) == (b"what came later", 3)
