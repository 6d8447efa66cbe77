from __future__ import annotations

import gzip
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from drains import evict
from spans import batch
from spool.errors import SpoolFileError, SpoolFullError
from spool.otlp.batch import Batch, Codec, join, merge
from spool.otlp.cutting import divide
from spool.settings.target import Named, Target
from spool.store import eviction, ingest, operations, route_waits, row_packing, sql
from spool.store.records import Ledger, Route, Take, Trouble
from spool.store.store import Store
from spool.system.spool_files import beside

MINE = Target.langfuse("pk-lf-mine", "sk-lf-mine", "https://langfuse.example")
OTHERS = Target.langfuse("pk-lf-others", "sk-lf-others", "https://langfuse.example")
ALL = 1 << 40


def assert_balanced(store: Store) -> Ledger:
    ledger = store.ledger()
    gone = ledger.delivered + ledger.dead + ledger.evicted + ledger.purged
    assert ledger.accepted + ledger.imported == (
        gone + ledger.exported + ledger.damaged + ledger.pending
    )
    pending, after = 0, 0
    while rows := store.pending(after):
        pending, after = pending + sum(row.batch.spans for row in rows), rows[-1].id
    assert ledger.pending == pending
    return ledger


def route_of(store: Store, target: Target = MINE) -> Route:
    return next(route for route in store.routes() if route.name == target.route)


def take_of(
    store: Store, target: Target = MINE, *, max_bytes: int = ALL, max_spans: int = ALL
) -> Take:
    take = store.take(route_of(store, target).id, max_bytes=max_bytes, max_spans=max_spans)
    assert take is not None
    return take


def names_in(*batches: Batch) -> list[str]:
    request = ExportTraceServiceRequest.FromString(join(batches, compress=False))
    return [
        span.name
        for resource_spans in request.resource_spans
        for scope_spans in resource_spans.scope_spans
        for span in scope_spans.spans
    ]


@pytest.fixture
def filled(store: Store) -> Store:
    """Hold five single spans, a to e."""
    store.register(MINE)
    for name in "abcde":
        store.append(MINE, batch(name), now=100.0)
    return store


def test_what_was_appended_is_taken_oldest_first(filled: Store) -> None:
    assert names_in(*take_of(filled).batches) == list("abcde")


def test_a_take_is_limited_by_spans_and_by_bytes(filled: Store) -> None:
    one = take_of(filled, max_spans=1)
    assert names_in(*one.batches) == ["a"]
    assert names_in(*take_of(filled, max_bytes=2 * one.raw_bytes).batches) == ["a", "b"]


def test_a_take_holds_one_span_at_the_least(filled: Store) -> None:
    assert take_of(filled, max_bytes=1).spans == 1


def test_a_large_row_is_divided_in_its_place(store: Store) -> None:
    for names in ("abcd", "e"):
        store.append(MINE, batch(*names), now=100.0)
    first = take_of(store, max_spans=3)
    assert names_in(*first.batches) == list("abc")
    assert [row.id & 0xFF for row in store.pending()] == [1, 2, 3, 4, 5]
    assert store.settle(first, now=101.0) == 3
    store.append(MINE, batch("f"), now=102.0)
    assert names_in(*take_of(store).batches) == list("def")
    ledger = assert_balanced(store)
    assert (ledger.accepted, ledger.delivered) == (6, 3)


def test_a_row_without_room_for_its_parts_is_divided_behind_what_waits(store: Store) -> None:
    for names in ("abcd", "ef"):
        store.append(MINE, batch(*names), now=100.0)
    with store.database.transaction() as connection:  # as a salvaged file may have them
        connection.execute("UPDATE batch SET id = id - 3 WHERE spans = 2")
        connection.execute("UPDATE route SET next = 2")
    assert names_in(*take_of(store, max_spans=1).batches) == ["a"]
    assert names_in(*take_of(store).batches) == list("aefbcd")
    store.append(MINE, batch("g"), now=100.0)
    assert names_in(*take_of(store).batches) == list("aefbcdg")
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
    assert names_in(*take_of(store, max_spans=2).batches) == ["a", "b"]
    assert names_in(*take_of(store).batches) == list("abcd")
    assert assert_balanced(store).accepted == 4
    other.close()


def test_a_row_that_is_too_large_in_bytes_is_divided(store: Store) -> None:
    store.append(MINE, batch(*"abcdefgh", size=1000), now=100.0)
    assert 1 <= take_of(store, max_bytes=4000).spans <= 4


def test_spans_that_come_while_an_empty_route_is_read_are_not_taken_for_damage(
    store: Store, path: Path
) -> None:
    store.register(MINE)

    def append_between(statement: str) -> None:
        if "pending_spans" in statement and not other.ledger().pending:
            other.append(MINE, batch("a"), now=1.0)

    other = Store(path)
    with store.database.reading() as connection:
        connection.set_trace_callback(append_between)
    assert store.oldest(1, max_bytes=ALL, max_spans=ALL) is None
    assert names_in(*take_of(store).batches) == ["a"]


def test_settling_counts_delivered_and_dead(filled: Store) -> None:
    filled.settle(take_of(filled, max_spans=3), now=101.0, dead=1, reason="400 no")
    ledger = assert_balanced(filled)
    assert (ledger.accepted, ledger.delivered, ledger.dead, ledger.pending) == (5, 2, 1, 2)
    (letter,) = filled.dead_letters()
    assert (letter.route, letter.reason, letter.batch.spans) == ("pk-lf-mine", "400 no", 1)
    assert names_in(letter.batch) == list("abc")


def test_a_settling_that_fails_leaves_every_row_and_can_be_done_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = batch("a")
    for _ in range(600):
        store.append(MINE, one, now=100.0)
    take = take_of(store)
    with monkeypatch.context() as patch:
        patch.setattr(sql, "SUCCEED", "UPDATE nothing SET at = ?, by = ? WHERE id = ?")
        with pytest.raises(SpoolFileError):
            store.settle(take, now=101.0, accepted_by="")
    assert assert_balanced(store).pending == 600
    assert store.settle(take.without_payloads(), now=102.0) == 600
    assert assert_balanced(store).delivered == 600


def test_a_request_that_is_nearly_full_reads_no_further_row(store: Store) -> None:
    large, small = batch(*"abcdefgh"), batch("i")
    store.append(MINE, large, now=100.0)
    store.append(MINE, small, now=100.0)
    assert len(take_of(store, max_bytes=large.raw_bytes + small.raw_bytes).rows) == 1
    assert len(take_of(store, max_bytes=2 * large.raw_bytes).rows) == 2


def test_settling_clears_the_routes_trouble(filled: Store) -> None:
    route_waits.hold(filled.database, route_of(filled), "0a1b2c3d", 330, now=100.0, reason="401")
    assert route_of(filled).fingerprints == ("0a1b2c3d",)
    filled.settle(take_of(filled), now=150.0, accepted_by="0a1b2c3d")
    route = route_of(filled)
    assert (route.attempts, route.wait_seconds, route.fingerprints) == (0, 0, ())
    assert (route.last_error, route.last_success_at) == ("", 150.0)


def test_a_delivery_clears_only_the_target_that_took_it(filled: Store) -> None:
    for fingerprint in ("old", "older", "new"):
        route_waits.hold(
            filled.database, route_of(filled), fingerprint, 330, now=100.0, reason="401"
        )
    filled.settle(take_of(filled, max_spans=1), now=150.0, accepted_by="new")
    route = route_of(filled)
    assert (route.fingerprints, route.is_held, route.held_at) == (("old", "older"), False, 100.0)
    filled.settle(take_of(filled, max_spans=1), now=150.0, accepted_by="old")
    assert route_of(filled).fingerprints == ("older",)


def test_settling_what_was_evicted_meanwhile_counts_it_once(filled: Store) -> None:
    take = take_of(filled)
    evict(filled, 1)
    assert filled.settle(take, now=101.0) == 4
    ledger = assert_balanced(filled)
    assert (ledger.evicted, ledger.delivered, ledger.pending) == (1, 4, 0)


def test_ids_are_never_used_twice(filled: Store) -> None:
    before = filled.last_id(MINE.route)
    filled.settle(take_of(filled), now=101.0)
    filled.append(MINE, batch("f"), now=102.0)
    assert take_of(filled).rows[0].id > before


def test_a_moment_is_settled_when_all_before_it_is_though_more_came(filled: Store) -> None:
    last_id = filled.last_id(MINE.route)
    filled.append(MINE, batch("f"), now=102.0)
    filled.settle(take_of(filled, max_spans=4), now=103.0)
    assert not filled.is_settled(last_id)
    filled.settle(take_of(filled, max_spans=1), now=103.0)
    assert filled.is_settled(last_id)
    assert filled.ledger().pending == 1


def test_a_route_sees_nothing_of_another(filled: Store) -> None:
    filled.append(OTHERS, batch("theirs"), now=100.0)
    assert names_in(*take_of(filled, OTHERS).batches) == ["theirs"]
    assert "theirs" not in names_in(*take_of(filled).batches)


def test_only_a_named_endpoint_is_remembered_over_a_named_one(store: Store) -> None:
    def remembered(host: str | None, named: Named | None = None) -> str:
        target = Target.langfuse("pk-lf-mine", "sk-lf-mine", host)
        store.register(target if named is None else replace(target, named=named))
        return store.routes()[0].endpoint.removesuffix("/api/public/otel/v1/traces")

    eu, us = "https://cloud.langfuse.com", "https://us.cloud.langfuse.com"
    assert remembered(None) == eu
    assert remembered(us, Named.BY_LITELLM) == us
    assert remembered(None) == us
    assert remembered("https://own.example") == "https://own.example"
    assert remembered(None) == "https://own.example"
    assert remembered(us, Named.BY_LITELLM) == "https://own.example"
    assert remembered("https://moved.example") == "https://moved.example"


def test_what_waited_in_a_journal_tells_who_named_its_endpoint(store: Store, path: Path) -> None:
    named, nobodys = MINE, Target.langfuse("pk-lf-mine", "sk-lf-mine")
    store.accept(nobodys, batch("a"), now=1.0)
    ingest.ingest(store, compress=False)
    store.accept(named, batch("b"), now=1.0)
    store.register(named)
    ingest.ingest(store, compress=False)
    store.register(nobodys)
    assert store.routes()[0].endpoint == named.endpoint


def test_a_route_remembers_the_endpoint_last_used(store: Store) -> None:
    store.register(MINE)
    store.register(Target.langfuse("pk-lf-mine", "sk-lf-mine", "https://moved.example"))
    (route,) = store.routes()
    assert route.endpoint == "https://moved.example/api/public/otel/v1/traces"


def test_no_secret_is_stored_with_a_route(store: Store, path: Path) -> None:
    store.register(Target.otlp("https://me:hunter2@host.example/v1/traces?key=abc123", {}))
    store.close()
    content = path.read_bytes()
    assert b"host.example" in content
    assert b"hunter2" not in content
    assert b"abc123" not in content


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
    taken = names_in(*take_of(filled).batches)
    assert taken == [*"abcde", *(f"s{number}" for number in range(300))]


def test_a_dead_letter_can_be_tried_again_and_counts_once(filled: Store) -> None:
    filled.settle(take_of(filled, max_spans=1), now=101.0, dead=1, reason="400")
    (letter,) = filled.dead_letters()
    assert operations.retry(filled, letter) == 1
    ledger = assert_balanced(filled)
    assert (ledger.accepted, ledger.dead, ledger.pending) == (5, 0, 5)
    assert names_in(*take_of(filled).batches) == list("bcdea")
    assert operations.retry(filled, letter) == 0
    assert_balanced(filled)


def test_a_purged_dead_letter_is_counted_as_purged(filled: Store) -> None:
    filled.settle(take_of(filled, max_spans=2), now=101.0, dead=2, reason="400")
    (letter,) = filled.dead_letters()
    assert operations.purge(filled, letter) == 2
    assert operations.purge(filled, letter) == 0
    assert assert_balanced(filled).purged == 2
    assert filled.dead_letters() == []


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


def test_a_full_store_refuses_the_newest(filled: Store) -> None:
    filled.is_full = True
    with pytest.raises(SpoolFullError, match="SPOOL_MAX_BYTES"):
        filled.accept(MINE, batch("f"), now=100.0)


def test_refused_spans_are_counted_in_the_file(filled: Store, path: Path) -> None:
    filled.refuse(3)
    filled.count_refused(1.0)
    filled.count_refused(1.0)
    other = Store(path)
    assert other.ledger().refused == 3
    other.close()


def test_a_flipped_byte_is_found_and_taken_alone(filled: Store) -> None:
    with filled.database.transaction() as connection:
        row_id = filled.pending()[1].id
        connection.execute(
            "UPDATE batch SET payload = CAST(substr(payload, 1, 5) || x'ff' || "
            "substr(payload, 7) AS BLOB) WHERE id = ?",
            (row_id,),
        )
    assert names_in(*take_of(filled).batches) == ["a"]
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
    assert names_in(*head.batches) == ["a"]
    store.settle(head, now=101.0)
    assert names_in(*take_of(store).batches) == ["b", "c"]


def test_a_row_that_an_older_version_packed_is_taken_and_packed_anew(store: Store) -> None:
    raw = batch(*"abc")
    gzipped = Batch(gzip.compress(raw.payload), 3, raw.raw_bytes, Codec.GZIP)
    for one in (gzipped, batch("d"), batch("e")):
        store.append(MINE, one, now=100.0)
    take = take_of(store)
    assert take.batches[0] == gzipped
    assert names_in(*take.batches) == list("abcde")
    pack_all(store, raw.raw_bytes + batch("d").raw_bytes)
    assert [row.batch.codec for row in store.pending()] == [Codec.DEFLATE, Codec.RAW]
    assert names_in(*take_of(store).batches) == list("abcde")


def test_a_row_of_a_kind_that_nobody_knows_is_taken_alone_as_damaged(store: Store) -> None:
    store.append(MINE, batch("a"), now=100.0)
    store.append(MINE, Batch(b"what came later", 1, 15, 3), now=100.0)
    assert names_in(*take_of(store).batches) == ["a"]
    store.settle(take_of(store), now=101.0)
    take = take_of(store)
    assert (take.spans, take.damage != "") == (1, True)
    store.settle(take, now=102.0, dead=1, reason=take.damage)
    (letter,) = store.dead_letters()
    assert (letter.batch.payload, letter.batch.codec) == (b"what came later", 3)


TWO = 2 * batch("a").raw_bytes


def pack_all(store: Store, max_bytes: int = TWO) -> None:
    while row_packing.pack(store.database, route_of(store).id, max_bytes):
        pass


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
    assert names_in(*take.batches) == list("abcde")
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
    assert names_in(*take_of(filled).batches) == list("bcde")


@pytest.mark.parametrize("taken", [1, 2, 3])
def test_settling_what_was_taken_before_a_packing_ends_no_other_span(
    filled: Store, taken: int
) -> None:
    take = take_of(filled, max_spans=taken)
    pack_all(filled)
    delivered = filled.settle(take, now=101.0)
    left = names_in(*take_of(filled).batches)
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
    assert names_in(*take_of(store).batches) == list("abcdefghi")


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
    assert names_in(*take_of(store).batches)[-5:] == [*"klmn", "large"]
    assert_balanced(store)


def grow_older(store: Store, seconds: float, at: float, max_age: float = 60) -> int:
    eviction.watch(store, seconds, at)
    return eviction.expire(store, max_age, now=100.0)


def test_spans_that_were_watched_for_the_age_limit_are_evicted(filled: Store) -> None:
    assert grow_older(filled, 0, at=1000) == 0
    filled.append(MINE, batch("f"), now=100.0)
    assert grow_older(filled, 50, at=1050) == 0
    assert grow_older(filled, 10, at=1060) == 5
    assert names_in(*take_of(filled).batches) == ["f"]
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


def test_pages_of_pending_rows_cover_all_of_them(store: Store) -> None:
    for number in range(150):
        store.append(MINE, batch(str(number)), now=100.0)
    seen, after = 0, 0
    while rows := store.pending(after):
        seen, after = seen + len(rows), rows[-1].id
    assert seen == 150


def test_a_wait_that_began_in_the_future_can_be_restarted(filled: Store) -> None:
    route_waits.wait(filled.database, route_of(filled), 60, now=1e9, reason="503")
    route_waits.restart_wait(filled.database, route_of(filled), now=50.0)
    assert route_of(filled).waited_at == 50.0


def test_the_ledger_names_are_those_people_script_against() -> None:
    assert list(asdict(Ledger())) == [
        "accepted", "imported", "delivered", "dead", "evicted", "purged", "exported", "damaged",
        "pending", "refused", "in_memory",
    ]  # fmt: skip
