from __future__ import annotations

import contextlib
import gzip
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import standin
from decoders import first_member
from drains import (
    NAMES,
    Clock,
    assert_nothing_lost,
    drain_all,
    drainer_of,
    evict,
    refuse_to_settle,
    route_of,
)
from manners import each_manner, each_manner_with_gzip
from spans import batch
from spool.delivery.backoff import HOLD_SECONDS
from spool.delivery.drainer import TICK, Drainer
from spool.errors import SpoolFileError
from spool.journal import directory
from spool.journal.overflow import Overflow
from spool.otlp.batch import Batch, Codec
from spool.settings.settings import Settings
from spool.settings.target import Target
from spool.store import ingest, operations, route_waits
from spool.store.records import Route, Take
from spool.store.store import Store
from standin import StandIn


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
    store: Store, settings: Settings, target: Target, clock: Clock, langfuse: StandIn
) -> None:
    one = batch("a", "b")
    store.append(target, one, clock.now)
    plain = drainer_of(store, replace(settings, compression="none"), target, clock)
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
    trouble: str, store: Store, settings: Settings, target: Target, clock: Clock, langfuse: StandIn
) -> None:
    for name in NAMES:
        store.append(target, batch(name), clock.now)
    drainer = drainer_of(store, replace(settings, timeout_seconds=0.3), target, clock)
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
    packing: str, store: Store, settings: Settings, target: Target, clock: Clock, langfuse: StandIn
) -> None:
    rows = [[name] for name in NAMES] if packing == "a row a span" else [NAMES]
    for names in rows:
        store.append(target, batch(*names), clock.now)
    langfuse.behave(standin.reject_span("s13"))
    drainer = drainer_of(store, settings, target, clock)
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


def test_while_another_process_has_the_turn_nothing_is_sent(
    drainer: Drainer, store: Store, path: Path, langfuse: StandIn
) -> None:
    other = Store(path)
    with other.drain_lock.take(60) as is_had:
        assert is_had
        assert not drainer.send_due()
    assert langfuse.requests == []
    drain_all(drainer)
    assert_nothing_lost(store, langfuse)
    other.close()


def test_the_turn_of_a_killed_drainer_is_free_at_once(
    drainer: Drainer, store: Store, path: Path, langfuse: StandIn
) -> None:
    with process_with_the_turn(path) as other:
        assert not drainer.send_due()
        other.kill()
    drain_all(drainer)
    assert_nothing_lost(store, langfuse)


@contextlib.contextmanager
def process_with_the_turn(path: Path) -> Iterator[subprocess.Popen[str]]:
    code = (
        "import time; from pathlib import Path; from spool.store.store import Store\n"
        f"with Store(Path({str(path)!r})).drain_lock.take(60): "
        "print('had', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "had\n"
        try:
            yield other
        finally:
            other.kill()


def test_a_peer_that_is_stopped_in_its_turn_does_not_keep_spans_here_for_ever(
    drainer: Drainer,
    store: Store,
    settings: Settings,
    path: Path,
    langfuse: StandIn,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("spool.system.drain_lock._BESIDE_SENDING", 0.05 - settings.timeout_seconds)
    with process_with_the_turn(path) as other:
        other.send_signal(signal.SIGSTOP)
        assert not drainer.send_due()  # it may only be slow
        time.sleep(0.1)
        drain_all(drainer)
        assert_nothing_lost(store, langfuse)


def test_a_route_that_nobody_else_sends_gets_its_turn_between_another_processs_requests(
    drainer: Drainer, path: Path, langfuse: StandIn
) -> None:
    other, is_over = Store(path), threading.Event()

    def send_for_ever() -> None:
        while not is_over.is_set():
            with other.drain_lock.take(60):
                time.sleep(1.2)

    thread = threading.Thread(target=send_for_ever)
    thread.start()
    try:
        drainer.start()
        langfuse.wait_for(lambda server: len(server.names()) == 20)
    finally:
        is_over.set()
        thread.join()
        drainer.stop(10)
        other.close()


def test_what_comes_rouses_a_drainer_that_rests(
    store: Store,
    settings: Settings,
    target: Target,
    langfuse: StandIn,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store.register(target)
    drainer, wait, is_resting = Drainer(store, settings), store.come.wait, threading.Event()
    drainer.routes.add(target)

    def wait_for_ever(_: float) -> bool:
        is_resting.set()
        return wait()

    monkeypatch.setattr(store.come, "wait", wait_for_ever)
    drainer.start()
    try:
        assert is_resting.wait(30)
        store.accept(target, batch("comes"), 1.0)
        langfuse.wait_for(lambda server: server.accepted == 1, timeout=30)
    finally:
        drainer.stop(30)


def test_what_is_held_in_memory_goes_out_while_the_turn_is_waited_for(
    store: Store, settings: Settings, target: Target, path: Path, langfuse: StandIn
) -> None:
    store.append(target, batch("row"), 1.0)
    overflow, other = Overflow(), Store(path)
    drainer = Drainer(store, settings, overflow)
    drainer.routes.add(target)
    with other.drain_lock.take(60):
        drainer.start()
        time.sleep(3 * TICK)
        overflow.has_moved = False
        overflow.add(target, batch("held"), 1.0)
        langfuse.wait_for(lambda server: "held" in server.names())
    drainer.stop(10)
    other.close()


@each_manner
def test_an_adopted_backlog_is_sent_with_the_current_credentials(
    drainer: Drainer, store: Store, target: Target, clock: Clock, langfuse: StandIn
) -> None:
    theirs = Target.langfuse("pk-lf-theirs", "sk-lf-theirs", langfuse.url)
    store.append(theirs, batch("theirs"), clock.now)
    stranded = next(route for route in store.routes() if route.name == "pk-lf-theirs")
    operations.adopt(store, stranded, target, sending=2)
    drain_all(drainer)
    assert langfuse.names()["theirs"] == 1


def test_what_is_being_sent_is_not_adopted_meanwhile(
    drainer: Drainer, store: Store, target: Target, path: Path, clock: Clock, langfuse: StandIn
) -> None:
    langfuse.keys["pk-lf-new"] = "sk-lf-new"
    new = Target.langfuse("pk-lf-new", "sk-lf-new", langfuse.url)
    is_sending = threading.Event()

    def slowly(exchange: standin.Exchange) -> None:
        is_sending.set()
        time.sleep(0.3)
        exchange.answer(exchange.judge())

    langfuse.behave(slowly)
    sender = threading.Thread(target=drainer.send_due)
    sender.start()
    assert is_sending.wait(60)
    assert operations.adopt(Store(path), route_of(store), new, sending=60) == 0
    sender.join()
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


@each_manner_with_gzip
def test_what_was_delivered_but_not_settled_is_not_sent_again(
    drainer: Drainer, store: Store, langfuse: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle: Callable[..., int] = store.settle
    failures = iter([True, True])

    def failing(take: Take, now: float, **how: Any) -> int:
        if next(failures, False):
            raise SpoolFileError("the disk is full")
        return settle(take, now, **how)

    monkeypatch.setattr(store, "settle", failing)
    for _ in range(2):
        drainer.send_due()
        assert store.ledger().pending == 20
    drainer.send_due()
    assert_nothing_lost(store, langfuse)
    assert len(langfuse.requests) == 1


@each_manner_with_gzip
def test_while_the_file_refuses_to_settle_all_that_waits_is_sent_once(
    drainer: Drainer,
    store: Store,
    target: Target,
    clock: Clock,
    langfuse: StandIn,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settle = store.settle

    def failing(*_: object, **__: object) -> int:
        raise SpoolFileError("the disk is full")

    monkeypatch.setattr(store, "settle", failing)
    drain_all(drainer)
    store.append(target, batch("later"), clock.now)
    drain_all(drainer)
    drain_all(drainer)
    assert langfuse.accepted == 21
    assert store.ledger().pending == 21
    monkeypatch.setattr(store, "settle", settle)
    drain_all(drainer)
    assert (store.ledger().delivered, store.ledger().pending) == (21, 0)
    assert len(langfuse.requests) == 2


def many(store: Store, target: Target, names: list[str]) -> None:
    for name in names:
        store.append(target, batch(name, size=1000), 1.0)


@each_manner_with_gzip
def test_while_a_route_waits_its_rows_are_packed_and_then_sent_as_they_are(
    store: Store, settings: Settings, target: Target, clock: Clock, langfuse: StandIn
) -> None:
    names = [f"n{number}" for number in range(40)]
    many(store, target, names)
    drainer = drainer_of(store, replace(settings, max_request_bytes=5000), target, clock)
    assert not drainer.pack_idle()  # it can be sent
    langfuse.behave(standin.unavailable())
    drainer.send_due()
    while drainer.pack_idle():
        pass
    assert route_of(store).pending_batches < 20
    packed = [r.batch.payload[4:] for r in store.pending() if r.batch.codec == Codec.DEFLATE]
    langfuse.behave(None)
    clock.now += 60
    drain_all(drainer)
    assert langfuse.names() == Counter(names)
    sent = [request.body for request in langfuse.requests[1:]]
    assert all(any(blocks in body for body in sent) for blocks in packed)  # as they were
    assert all(first_member(body) == gzip.decompress(body) for body in sent)


@each_manner
def test_what_an_older_version_packed_is_delivered_whole(
    store: Store, settings: Settings, target: Target, clock: Clock, langfuse: StandIn
) -> None:
    names = [f"n{number}" for number in range(30)]
    for first in range(0, 30, 3):
        one = batch(*names[first : first + 3])
        older = Batch(gzip.compress(one.payload), 3, one.raw_bytes, Codec.GZIP)
        if first < 15:
            store.append(target, older, clock.now)  # a row of it
        else:
            store.accept(target, older, clock.now)  # a frame of it
    drainer = drainer_of(store, settings, target, clock)
    ingest.ingest(store, compress=True)
    drain_all(drainer)
    assert langfuse.names() == Counter(names)
    assert (store.ledger().delivered, store.ledger().pending) == (30, 0)


def test_a_stranded_backlog_is_packed_too(
    store: Store, settings: Settings, target: Target, clock: Clock
) -> None:
    many(store, target, NAMES)
    drainer = Drainer(store, replace(settings, max_request_bytes=5000), clock=clock)
    assert drainer.pack_idle()


@each_manner
def test_what_is_delivered_but_not_settled_is_not_packed(
    store: Store,
    settings: Settings,
    target: Target,
    clock: Clock,
    langfuse: StandIn,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    many(store, target, NAMES)
    drainer = drainer_of(store, replace(settings, max_request_bytes=5000), target, clock)
    with monkeypatch.context() as patch:
        patch.setattr(store, "settle", refuse_to_settle)
        drainer.send_due()
    langfuse.behave(standin.unavailable())
    route_waits.wait(store.database, route_of(store), 1000, clock.now, "503")
    assert not drainer.pack_idle()


# Trouble of its own


@pytest.mark.parametrize("trouble", [SpoolFileError("gone"), ValueError("a defect")])
def test_no_trouble_ends_the_drainer(
    drainer: Drainer,
    store: Store,
    langfuse: StandIn,
    monkeypatch: pytest.MonkeyPatch,
    trouble: Exception,
) -> None:
    def fail() -> list[Route]:
        raise trouble

    with monkeypatch.context() as patch:
        patch.setattr(store, "routes", fail)
        drainer.start()
        time.sleep(0.1)
    drainer.wake()
    langfuse.wait_for(lambda server: len(server.names()) == 20)
    drainer.stop(10)


def test_nobody_packs_while_another_process_sends(
    store: Store, settings: Settings, target: Target, clock: Clock, path: Path
) -> None:
    many(store, target, NAMES)
    drainer = Drainer(store, replace(settings, max_request_bytes=5000), clock=clock)
    other = Store(path)
    with other.drain_lock.take(60):
        assert not drainer.pack_idle()
    other.close()
    assert drainer.pack_idle()


@each_manner
def test_one_routes_outage_does_not_keep_another_from_going_out(
    drainer: Drainer, store: Store, clock: Clock, langfuse: StandIn
) -> None:
    with StandIn(keys={"pk-lf-other": "sk-lf-other"}) as other:
        other.behave(standin.unavailable())
        theirs = Target.langfuse("pk-lf-other", "sk-lf-other", other.url)
        store.append(theirs, batch("theirs"), clock.now)
        drainer.routes.add(theirs)
        drain_all(drainer)
    assert len(langfuse.names()) == 20
    assert store.ledger().pending == 1


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


def drain_with_time(drainer: Drainer, clock: Clock, until: Callable[[], bool]) -> None:
    """Let the drainer work, the wall clock running fast, until something holds."""
    for _ in range(3000):
        if until():
            return
        if not drainer.send_due():
            clock.now += 61
            time.sleep(0.005)
    raise AssertionError("it never came to hold")


@each_manner
@pytest.mark.parametrize("packing", ["a row a span", "one row"])
@pytest.mark.parametrize("name", ["s0", "s7", "s19"])
def test_a_span_that_alone_gets_5xx_for_ever_is_gone_around_and_then_a_dead_letter(
    name: str,
    packing: str,
    store: Store,
    settings: Settings,
    target: Target,
    clock: Clock,
    langfuse: StandIn,
) -> None:
    rows = [[name] for name in NAMES] if packing == "a row a span" else [NAMES]
    for names in rows:
        store.append(target, batch(*names), clock.now)
    langfuse.behave(standin.poison(name))
    drainer = drainer_of(store, settings, target, clock)

    def feed() -> bool:
        store.append(target, batch("fresh"), clock.now)
        return store.ledger().dead == 1

    drain_with_time(drainer, clock, feed)
    langfuse.behave(None)
    drain_with_time(drainer, clock, lambda: store.ledger().pending == 0)
    assert set(langfuse.names()) == {*NAMES, "fresh"} - {name}
    (letter,) = store.dead_letters()
    assert letter.batch.spans == 1
    operations.retry(store, letter)
    drain_with_time(drainer, clock, lambda: store.ledger().pending == 0)
    assert langfuse.names()[name] == 1


@each_manner
def test_what_stands_behind_poison_keeps_flowing(
    drainer: Drainer, store: Store, target: Target, clock: Clock, langfuse: StandIn
) -> None:
    langfuse.behave(standin.poison("s0"))
    drain_with_time(drainer, clock, lambda: len(langfuse.names()) == 19)
    for number in range(50):
        store.append(target, batch(f"fresh {number}"), clock.now)
    drain_with_time(drainer, clock, lambda: len(langfuse.names()) == 69)
    assert store.ledger().pending == 1


@pytest.mark.parametrize("packing", ["a row a span", "one row"])
@pytest.mark.parametrize("bad", [["s0", "s7"], ["s3", "s4", "s5", "s12", "s19"]], ids=len)
def test_what_stands_between_and_behind_several_that_fail_alone_is_delivered(
    bad: list[str],
    packing: str,
    store: Store,
    settings: Settings,
    target: Target,
    clock: Clock,
    langfuse: StandIn,
) -> None:
    for names in [[name] for name in NAMES] if packing == "a row a span" else [NAMES]:
        store.append(target, batch(*names), clock.now)

    def behave(exchange: standin.Exchange) -> None:
        reply = exchange.judge()
        if any(span.name in bad for span in standin.spans_of(reply.accepted)):
            reply = standin.Reply.json(500, {"error": "cannot take one of them"})
        exchange.answer(reply)

    langfuse.behave(behave)
    drainer = drainer_of(store, settings, target, clock)
    drain_with_time(drainer, clock, lambda: len(langfuse.names()) == 20 - len(bad))
    for number in range(20):
        store.append(target, batch(f"fresh {number}"), clock.now)
    drain_with_time(drainer, clock, lambda: len(langfuse.names()) == 40 - len(bad))
    langfuse.behave(None)
    drain_with_time(drainer, clock, lambda: store.ledger().pending == 0)
    assert (store.ledger().delivered, store.ledger().dead) == (40, 0)


def test_what_failed_in_an_outage_is_no_evidence_against_it_afterwards(
    drainer: Drainer, store: Store, target: Target, clock: Clock, langfuse: StandIn
) -> None:
    langfuse.behave(standin.server_error())
    for _ in range(60):
        drainer.send_due()
        clock.now += 61

    def is_tried_often() -> bool:
        store.append(target, batch("fresh"), clock.now)
        asked = len([request for request in langfuse.requests[60:] if request.status == 500])
        return asked >= 5 and langfuse.names()["fresh"] > 3

    langfuse.behave(standin.poison("s0"))  # not well at once
    drain_with_time(drainer, clock, is_tried_often)
    langfuse.behave(None)
    drain_with_time(drainer, clock, lambda: store.ledger().pending == 0)
    assert store.ledger().dead == 0


@pytest.mark.parametrize("code", [429, 503])
def test_a_span_that_is_always_told_to_wait_is_no_dead_letter_and_nothing_goes_before_its_time(
    code: int, drainer: Drainer, store: Store, target: Target, clock: Clock, langfuse: StandIn
) -> None:
    told, early = [0.0], []

    def behave(exchange: standin.Exchange) -> None:
        reply = exchange.judge()
        if clock.now < told[0]:
            early.append(clock.now)
        if any(span.name == "s0" for span in standin.spans_of(reply.accepted)):
            told[0] = clock.now + 5
            reply = standin.Reply.json(code, {"message": "later"}, {"Retry-After": "5"})
        exchange.answer(reply)

    langfuse.behave(behave)
    for _ in range(200):
        store.append(target, batch("fresh"), clock.now)
        drainer.send_due()
        clock.now += 1
        time.sleep(0.002)
    assert early == []
    assert store.ledger().dead == 0
    assert {*NAMES, "fresh"} - set(langfuse.names()) == {"s0"}


def test_a_suspect_that_has_left_in_another_way_throws_no_suspicion_on_others(
    drainer: Drainer, store: Store, target: Target, clock: Clock, langfuse: StandIn
) -> None:
    def is_nearly_proven() -> bool:
        store.append(target, batch("fresh"), clock.now)
        suspect = drainer.row_delivery._suspects.get(target.route)
        return suspect is not None and suspect.failures == 9 and suspect.proofs > 2

    langfuse.behave(standin.poison("s0"))
    drain_with_time(drainer, clock, is_nearly_proven)
    while evict(store, 1 << 40, clock.now):
        pass
    langfuse.behave(standin.server_error())
    store.append(target, batch("innocent"), clock.now)
    for _ in range(5):
        time.sleep(0.06)  # until the suspect is due
        drainer.send_due()
        clock.now += 61
    assert (store.ledger().dead, store.ledger().pending) == (0, 1)


def test_an_outage_however_long_makes_no_dead_letters(
    drainer: Drainer, store: Store, target: Target, clock: Clock, langfuse: StandIn
) -> None:
    langfuse.behave(standin.server_error())
    for _ in range(300):
        store.append(target, batch("fresh"), clock.now)
        drainer.send_due()
        clock.now += 61
    assert store.ledger().dead == 0
    langfuse.behave(None)
    drain_with_time(drainer, clock, lambda: store.ledger().pending == 0)
    assert store.ledger().delivered == 320


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


# Journals


@each_manner
def test_it_takes_over_what_a_dead_process_left(
    store: Store, settings: Settings, target: Target, path: Path, langfuse: StandIn, clock: Clock
) -> None:
    dead = Store(path)
    dead.open()
    dead.accept(target, batch("left"), clock.now)
    dead.close()  # as its death does
    drain_all(drainer_of(store, settings, target, clock))
    assert set(langfuse.names()) == {"left"}
    assert directory.paths(path) == []


@each_manner
def test_a_journal_that_cannot_be_read_keeps_nothing_else_back(
    drainer: Drainer,
    langfuse: StandIn,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unreadable(_: Path) -> list[Path]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(directory, "paths", unreadable)
    drain_all(drainer)
    assert set(langfuse.names()) == set(NAMES)
    assert "journals of other processes" in caplog.text
