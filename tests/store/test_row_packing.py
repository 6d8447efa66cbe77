"""Packing many small rows, while others take, settle and evict them."""

from __future__ import annotations

import gzip

import pytest

from drains import evict
from spans import batch
from spool.otlp.batch import Batch, Codec, merge
from spool.store import row_packing
from spool.store.store import Store
from stores import ALL, TWO, assert_balanced, names_of, pack_all, route_of, take_of
from targets import MINE

pytestmark = pytest.mark.once


def test_a_row_that_an_older_version_packed_is_taken_and_packed_anew(store: Store) -> None:
    raw = batch(*"abc")
    gzipped = Batch(gzip.compress(raw.payload), 3, raw.raw_bytes, Codec.GZIP)
    for one in (gzipped, batch("d"), batch("e")):
        store.append(MINE, one, now=100.0)
    take = take_of(store)
    assert take.batches[0] == gzipped
    assert names_of(*take.batches) == list("abcde")
    pack_all(store, raw.raw_bytes + batch("d").raw_bytes)
    assert [row.batch.codec for row in store.pending()] == [Codec.DEFLATE, Codec.RAW]
    assert names_of(*take_of(store).batches) == list("abcde")


def test_packing_makes_few_rows_of_many_and_changes_no_total(filled: Store) -> None:
    before = assert_balanced(filled), route_of(filled).pending_bytes
    pack_all(filled)
    route = route_of(filled)
    assert (assert_balanced(filled), route.pending_bytes) == before
    assert route.pending_batches == 3
    assert [row.batch.codec for row in filled.pending()] == [
        Codec.DEFLATE,
        Codec.DEFLATE,
        Codec.RAW,
    ]
    take = take_of(filled)
    assert names_of(*take.batches) == list("abcde")
    assert filled.settle(take, now=101.0) == 5


def test_a_packed_row_is_pending_for_all_that_waited_for_any_of_its_spans(filled: Store) -> None:
    ids = [row.id for row in filled.pending()]
    pack_all(filled)
    assert not any(filled.is_settled(row_id) for row_id in ids)
    filled.settle(take_of(filled), now=101.0)
    assert all(filled.is_settled(row_id) for row_id in ids)


def test_rows_that_make_no_whole_pack_wait_for_more(filled: Store) -> None:
    pack_all(filled, max_bytes=ALL)
    assert route_of(filled).pending_batches == 5


def test_what_was_packed_is_not_packed_again(filled: Store) -> None:
    pack_all(filled)
    packed = filled.pending()
    for name in "fgh":
        filled.append(MINE, batch(name), now=100.0)
    pack_all(filled)
    assert filled.pending()[:2] == packed[:2]


def test_rows_that_were_evicted_while_they_were_packed_stay_evicted(
    filled: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def evict_and_merge(batches: list[Batch], *, compress: bool) -> Batch:
        evict(filled, 1)
        return merge(batches, compress=compress)

    monkeypatch.setattr("spool.store.row_packing.merge", evict_and_merge)
    assert row_packing.pack(filled.database, route_of(filled).id, TWO)
    ledger = assert_balanced(filled)
    assert (ledger.evicted, ledger.pending) == (1, 4)
    assert names_of(*take_of(filled).batches) == list("bcde")


@pytest.mark.parametrize("taken", [1, 2, 3])
def test_settling_what_was_taken_before_a_packing_ends_no_other_span(
    filled: Store, taken: int
) -> None:
    take = take_of(filled, max_spans=taken)
    pack_all(filled)
    delivered = filled.settle(take, now=101.0)
    left = names_of(*take_of(filled).batches)
    assert set("abcde") - set(left) <= set("abcde"[:taken])
    assert assert_balanced(filled).delivered == delivered == 5 - len(left)


def test_settling_a_part_of_a_row_that_was_packed_meanwhile_ends_no_other_span(
    store: Store,
) -> None:
    for names in ("abc", "def", "ghi"):
        store.append(MINE, batch(*names), now=100.0)
    large = store.pending()[1].batch.raw_bytes
    take = take_of(store, max_spans=2)
    assert take.spans == 2
    pack_all(store, max_bytes=2 * large)
    assert store.settle(take, now=101.0) == 0
    assert names_of(*take_of(store).batches) == list("abcdefghi")


@pytest.mark.parametrize("spans", [10, 9])
def test_a_row_that_was_cut_and_packed_by_a_deputy_is_not_taken_for_the_one_that_was_sent(
    store: Store, spans: int
) -> None:
    names = "abcdefghij"
    store.append(MINE, batch(*names), now=100.0)
    sent = take_of(store, max_spans=spans)
    store.settle(take_of(store, max_spans=7), now=101.0)
    for name in "klmn":
        store.append(MINE, batch(name), now=102.0)
    store.append(MINE, batch("large", size=5000), now=102.0)
    pack_all(store, max_bytes=4000)
    assert route_of(store).pending_batches == 2
    store.settle(sent, now=103.0)
    assert names_of(*take_of(store).batches)[-5:] == [*"klmn", "large"]
    assert_balanced(store)


def test_large_rows_and_damaged_ones_are_left_as_they_are(filled: Store) -> None:
    filled.append(MINE, batch("large", size=TWO), now=100.0)
    filled.append(MINE, batch("f"), now=100.0)
    filled.append(MINE, batch("g"), now=100.0)
    with filled.database.writing() as connection:
        connection.execute(
            "UPDATE batch SET crc32 = crc32 + 1 WHERE id = (SELECT min(id) FROM batch)"
        )
    before = filled.pending()
    pack_all(filled)
    after = filled.pending()
    assert [row.is_sound for row in after] == [False, True, True, True, True, True]
    assert [row for row in before if not row.is_sound or row.batch.raw_bytes > TWO] == [
        after[0], after[3]
    ]  # fmt: skip
