"""The way of a span through the store, and what is told of it."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from drains import evict
from spans import batch
from spool.errors import SpoolFileError, SpoolFullError
from spool.settings.target import Named, Target
from spool.store import ingest, sql
from spool.store.records import Ledger
from spool.store.store import Store
from stores import ALL, assert_balanced, names_of, take_of
from targets import MINE, OTHERS


def test_what_was_appended_is_taken_oldest_first(filled: Store) -> None:
    assert names_of(*take_of(filled).batches) == list("abcde")


def test_a_take_is_limited_by_spans_and_by_bytes(filled: Store) -> None:
    one = take_of(filled, max_spans=1)
    assert names_of(*one.batches) == ["a"]
    assert names_of(*take_of(filled, max_bytes=2 * one.raw_bytes).batches) == ["a", "b"]


def test_a_take_holds_one_span_at_the_least(filled: Store) -> None:
    assert take_of(filled, max_bytes=1).spans == 1


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
    assert names_of(*take_of(store).batches) == ["a"]


def test_settling_counts_delivered_and_dead(filled: Store) -> None:
    filled.settle(take_of(filled, max_spans=3), now=101.0, dead=1, reason="400 no")
    ledger = assert_balanced(filled)
    assert (ledger.accepted, ledger.delivered, ledger.dead, ledger.pending) == (5, 2, 1, 2)
    (letter,) = filled.dead_letters()
    assert (letter.route, letter.reason, letter.batch.spans) == ("pk-lf-mine", "400 no", 1)
    assert names_of(letter.batch) == list("abc")


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
    assert names_of(*take_of(filled, OTHERS).batches) == ["theirs"]
    assert "theirs" not in names_of(*take_of(filled).batches)


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


def test_pages_of_pending_rows_cover_all_of_them(store: Store) -> None:
    for number in range(150):
        store.append(MINE, batch(str(number)), now=100.0)
    seen, after = 0, 0
    while rows := store.pending(after):
        seen, after = seen + len(rows), rows[-1].id
    assert seen == 150


def test_the_ledger_names_are_those_people_script_against() -> None:
    assert list(asdict(Ledger())) == [
        "accepted", "imported", "delivered", "dead", "evicted", "purged", "exported", "damaged",
        "pending", "refused", "in_memory",
    ]  # fmt: skip
