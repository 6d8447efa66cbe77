"""What an answer does to the rows of its request."""

from __future__ import annotations

import gzip
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import standin
from drains import (
    NAMES,
    Clock,
    NewDrainer,
    assert_nothing_lost,
    drain_all,
    route_of,
)
from manners import each_manner, each_manner_with_gzip
from spans import batch
from spool.delivery.backoff import HOLD_SECONDS
from spool.delivery.drainer import Drainer
from spool.otlp.batch import Batch, Codec
from spool.settings.target import Target
from spool.store import ingest, route_waits
from spool.store.store import Store
from standin import StandIn

pytestmark = pytest.mark.once


def test_what_waits_is_sent_in_one_request_and_settled(
    drainer: Drainer, store: Store, langfuse: StandIn
) -> None:
    drain_all(drainer)
    assert_nothing_lost(store, langfuse)
    (request,) = langfuse.requests
    assert request.headers["content-encoding"] == "gzip"
    assert request.headers["x-langfuse-ingestion-version"] == "4"
    assert request.headers["x-langfuse-sdk-name"] == "langfuse-spool"


@each_manner
def test_the_bytes_of_a_span_never_change(
    store: Store, target: Target, clock: Clock, langfuse: StandIn, new_drainer: NewDrainer
) -> None:
    one = batch("a", "b")
    store.append(target, one, clock.now)
    plain = new_drainer(compression="none")
    drain_all(plain)
    assert langfuse.requests[0].body == one.payload


TROUBLES: dict[str, standin.Behaviour] = {
    "200 with HTML": standin.html_200(),
    "302": standin.redirect_302("http://127.0.0.1:1/"),
    "500": standin.server_error(),
    "503 with Retry-After": standin.busy(),
    "429 with seconds": standin.too_many(1),
    "429 with a date": standin.retry_after_date(1),
    "408": standin.status(408),
    "425": standin.status(425),
    "502": standin.status(502),
    "507": standin.status(507),
    "401": standin.status(401),
    "403": standin.suspended(),
    "404": standin.status(404, body=b"<html>no</html>", content_type="text/html"),
    "405": standin.status(405),
    "418": standin.status(418),
    "nothing at all": standin.mute(),
    "half an answer": standin.half_answer(),
    "headers one byte a second": standin.slow_headers(1),
    "a body one byte a second": standin.slow_body(1),
    "a reset in mid-body": standin.reset_mid_body(),
    "garbage": standin.garbage(),
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_no_answer_loses_a_span(
    trouble: str,
    store: Store,
    target: Target,
    clock: Clock,
    langfuse: StandIn,
    new_drainer: NewDrainer,
) -> None:
    for name in NAMES:
        store.append(target, batch(name), clock.now)
    drainer = new_drainer(timeout_seconds=0.3)
    langfuse.behave(TROUBLES[trouble])
    assert not drainer.send_due()
    route = route_of(store)
    assert (route.pending_spans, route.attempts) == (20, 1)
    assert route.last_error
    assert not drainer.send_due()
    # After a 400 to gzip one more, without it.
    assert len([one for one in langfuse.requests if "content-encoding" in one.headers]) <= 1
    langfuse.behave(None)
    clock.now += HOLD_SECONDS
    drain_all(drainer)
    assert_nothing_lost(store, langfuse)
    assert route_of(store).attempts == 0


@each_manner_with_gzip
def test_a_request_that_was_accepted_unanswered_is_sent_again_as_it_was(
    drainer: Drainer, store: Store, langfuse: StandIn, clock: Clock
) -> None:
    langfuse.behave(standin.sequence([standin.reset_after_accept(), None]))
    drain_all(drainer)
    clock.now += 60
    drain_all(drainer)
    assert_nothing_lost(store, langfuse)
    assert set(langfuse.span_ids().values()) == {2}
    assert langfuse.requests[0].body == langfuse.requests[1].body


@each_manner
@pytest.mark.parametrize("packing", ["a row a span", "one row"])
def test_only_the_one_bad_span_is_dead_with_the_servers_words(
    packing: str,
    store: Store,
    target: Target,
    clock: Clock,
    langfuse: StandIn,
    new_drainer: NewDrainer,
) -> None:
    rows = [[name] for name in NAMES] if packing == "a row a span" else [NAMES]
    for names in rows:
        store.append(target, batch(*names), clock.now)
    langfuse.behave(standin.reject_span("s13"))
    drainer = new_drainer()
    drain_all(drainer)
    assert_nothing_lost(store, langfuse, dead=1)
    (letter,) = store.dead_letters()
    assert letter.reason == "400 cannot take the span s13"
    assert drainer.client.tally.dead == 1
    # To who reads no gzip some go twice, until that is known.
    requests = [one for one in langfuse.requests if one.status != 415]
    assert len(requests) < (25 if "gzip" in langfuse.manner.name else 20)


@each_manner
def test_a_request_that_is_too_large_is_split_until_it_fits(
    drainer: Drainer, store: Store, langfuse: StandIn
) -> None:
    langfuse.behave(standin.too_large(1000))
    drain_all(drainer)
    assert_nothing_lost(store, langfuse)


@each_manner
def test_a_single_span_that_is_too_large_is_dead(
    drainer: Drainer, store: Store, target: Target, langfuse: StandIn, clock: Clock
) -> None:
    for name, size in (("giant", 100_000), ("after", 0)):
        store.append(target, batch(name, size=size), clock.now)
    langfuse.behave(standin.too_large(50_000))
    drain_all(drainer)
    assert store.ledger().dead == 1
    assert store.ledger().delivered == 21


def test_spans_that_a_receiver_rejects_in_part_are_dead_letters_and_not_sent_again(
    drainer: Drainer, store: Store, langfuse: StandIn
) -> None:
    langfuse.behave(standin.partial_success(3, "too old"))
    drain_all(drainer)
    assert (store.ledger().delivered, store.ledger().dead) == (17, 3)
    assert len(langfuse.requests) == 1
    assert store.dead_letters()[0].reason == "too old"


@each_manner
def test_a_collectors_protobuf_answer_settles(
    drainer: Drainer, store: Store, langfuse: StandIn
) -> None:
    langfuse.behave(standin.protobuf_ok())
    drain_all(drainer)
    assert_nothing_lost(store, langfuse)


@each_manner
def test_a_row_that_was_damaged_on_disk_is_a_dead_letter_and_the_others_flow(
    drainer: Drainer, store: Store, langfuse: StandIn
) -> None:
    with store.database.transaction() as connection:
        row_id = store.pending()[7].id
        connection.execute("UPDATE batch SET crc32 = crc32 + 1 WHERE id = ?", (row_id,))
    drain_all(drainer)
    assert_nothing_lost(store, langfuse, dead=1)
    assert "checksum" in store.dead_letters()[0].reason


@each_manner
def test_a_payload_that_cannot_be_read_is_a_dead_letter_and_the_others_flow(
    drainer: Drainer, store: Store, target: Target, langfuse: StandIn, clock: Clock
) -> None:
    store.append(target, Batch(b"\xff\xff", spans=4, raw_bytes=2), clock.now)
    store.append(target, batch("after"), clock.now)
    drain_all(drainer)
    assert store.ledger().dead == 4
    assert langfuse.names()["after"] == 1


@each_manner
def test_what_an_older_version_packed_is_delivered_whole(
    store: Store, target: Target, clock: Clock, langfuse: StandIn, new_drainer: NewDrainer
) -> None:
    names = [f"n{number}" for number in range(30)]
    for first in range(0, 30, 3):
        one = batch(*names[first : first + 3])
        older = Batch(gzip.compress(one.payload), 3, one.raw_bytes, Codec.GZIP)
        if first < 15:
            store.append(target, older, clock.now)  # a row of it
        else:
            store.accept(target, older, clock.now)  # a frame of it
    drainer = new_drainer()
    ingest.ingest(store, compress=True)
    drain_all(drainer)
    assert langfuse.names() == Counter(names)
    assert (store.ledger().delivered, store.ledger().pending) == (30, 0)


def test_a_line_that_is_too_slow_for_a_request_gets_smaller_ones(
    drainer: Drainer, store: Store, clock: Clock, langfuse: StandIn
) -> None:
    sizes: list[int] = []

    def slow(exchange: standin.Exchange) -> None:
        sizes.append(len(exchange.read().body))
        if sizes[-1] > 700:
            exchange.hang()
        else:
            exchange.answer(exchange.judge())

    langfuse.behave(slow)
    impatient = Drainer(store, replace(drainer.settings, timeout_seconds=0.2), clock=clock)
    impatient.routes.add(drainer.routes.targets["pk-lf-test"])
    for _ in range(40):
        impatient.send_due()
        clock.now += 1
    assert sizes[0] > 700
    assert_nothing_lost(store, langfuse)


@each_manner
def test_what_was_sent_from_a_file_that_was_moved_is_not_settled_in_the_new_one(
    drainer: Drainer, store: Store, target: Target, path: Path, clock: Clock, langfuse: StandIn
) -> None:
    def move_while_answering(exchange: standin.Exchange) -> None:
        reply = exchange.judge()
        path.rename(path.with_name("moved.db"))
        store.append(target, batch("new"), clock.now)
        exchange.answer(reply)

    langfuse.behave(standin.sequence([move_while_answering, None]))
    drainer.send_due()
    assert "new" not in langfuse.names()
    assert store.ledger().pending == 1
    drain_all(drainer)
    assert langfuse.names()["new"] == 1


def test_a_route_of_another_file_is_never_sent_with_these_credentials(
    drainer: Drainer, store: Store, target: Target, path: Path, clock: Clock, langfuse: StandIn
) -> None:
    theirs = Target.langfuse("pk-lf-theirs", "sk-lf-theirs", langfuse.url)
    routes = store.routes()
    path.rename(path.with_name("moved.db"))
    store.append(theirs, batch("theirs"), clock.now)
    assert store.routes()[0].id == routes[0].id
    with store.drain_lock.take(60):
        assert drainer.row_delivery.send(routes[0].id, target) is None
    assert langfuse.requests == []


def test_what_another_process_has_just_put_off_is_not_tried_in_the_same_moment(
    drainer: Drainer, store: Store, langfuse: StandIn, clock: Clock
) -> None:
    route = route_of(store)
    route_waits.wait(store.database, route, 60, clock.now, "503")
    with store.probe_lock.take(60):
        assert drainer.row_delivery.send(route.id, drainer.routes.targets[route.name]) is None
    assert langfuse.requests == []


def test_overlapping_requests_make_no_negative_dead_letters(
    store: Store, target: Target, clock: Clock
) -> None:
    store.append(target, batch(*"abcdef"), clock.now)
    late = store.take(1, max_bytes=1 << 20, max_spans=1)
    early = store.take(1, max_bytes=1 << 20, max_spans=4)
    assert early is not None
    assert late is not None
    store.settle(early, clock.now)
    store.settle(late, clock.now, dead=1, reason="400")
    ledger = store.ledger()
    assert (ledger.delivered, ledger.dead, ledger.pending) == (4, 0, 2)


def test_a_route_that_is_well_again_is_left_alone_until_its_probe_is_settled(
    drainer: Drainer,
    store: Store,
    target: Target,
    clock: Clock,
    langfuse: StandIn,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    langfuse.behave(standin.server_error())
    drainer.send_due()
    langfuse.behave(None)
    clock.now += 1
    settle = store.settle

    def settle_beside_the_other_lane(*arguments: Any, **named: Any) -> int:
        monkeypatch.undo()
        delivered = settle(*arguments, **named)
        route = route_of(store)
        assert not route.is_troubled
        store.append(target, batch("late"), clock.now)
        with store.drain_lock.take(2) as is_had:
            assert is_had
            drainer.row_delivery.send(route.id, target)
        return delivered

    monkeypatch.setattr(store, "settle", settle_beside_the_other_lane)
    drain_all(drainer)
    assert store.ledger().delivered == langfuse.accepted == 21
