"""What becomes of rows that fail alone, again and again, while others are delivered."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

import standin
from drains import (
    NAMES,
    Clock,
    NewDrainer,
    evict,
)
from manners import each_manner
from spans import batch
from spool.delivery.drainer import Drainer
from spool.settings.target import Target
from spool.store import operations
from spool.store.store import Store
from standin import StandIn

pytestmark = pytest.mark.once


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
    target: Target,
    clock: Clock,
    langfuse: StandIn,
    new_drainer: NewDrainer,
) -> None:
    rows = [[name] for name in NAMES] if packing == "a row a span" else [NAMES]
    for names in rows:
        store.append(target, batch(*names), clock.now)
    langfuse.behave(standin.poison(name))
    drainer = new_drainer()

    def feed() -> bool:
        store.append(target, batch("fresh"), clock.now)
        return store.ledger().dead == 1

    drain_with_time(drainer, clock, feed)
    langfuse.behave(None)
    drain_with_time(drainer, clock, lambda: store.ledger().pending == 0)
    assert set(langfuse.names()) == {*NAMES, "fresh"} - {name}
    (letter,) = store.dead_letters()
    assert letter.batch.spans == 1
    operations.retry(store, letter.id)
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
    target: Target,
    clock: Clock,
    langfuse: StandIn,
    new_drainer: NewDrainer,
) -> None:
    for names in [[name] for name in NAMES] if packing == "a row a span" else [NAMES]:
        store.append(target, batch(*names), clock.now)

    def behave(exchange: standin.Exchange) -> None:
        reply = exchange.judge()
        if any(span.name in bad for span in standin.spans_of(reply.accepted)):
            reply = standin.Reply.json(500, {"error": "cannot take one of them"})
        exchange.answer(reply)

    langfuse.behave(behave)
    drainer = new_drainer()
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
