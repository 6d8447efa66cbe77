from __future__ import annotations

import time
from collections import Counter

import pytest

import standin
from spans import batch
from spool.delivery import backoff
from spool.delivery.client import Tally
from spool.delivery.drainer import TICK, Drainer
from spool.journal.overflow import Overflow
from spool.settings.settings import Settings
from spool.settings.target import Target
from spool.store.store import Store
from standin import StandIn

pytestmark = pytest.mark.once


@pytest.fixture
def overflow(target: Target) -> Overflow:
    """Hold two spans in memory."""
    overflow = Overflow()
    overflow.add(target, batch("a", "b"), 1.0)
    return overflow


@pytest.fixture
def drainer(store: Store, settings: Settings, target: Target, overflow: Overflow) -> Drainer:
    """Drain an empty spool, and that memory."""
    drainer = Drainer(store, settings, overflow)
    drainer.routes.add(target)
    return drainer


def test_what_was_delivered_from_memory_is_gone_from_there_and_counted(
    drainer: Drainer, overflow: Overflow, langfuse: StandIn
) -> None:
    assert drainer.overflow_delivery.send()
    assert langfuse.names() == Counter("ab")
    assert (overflow.unsent_spans, overflow.spans) == (0, 2)  # the file counts them later
    assert drainer.client.tally == Tally(delivered=2, requests=1)
    assert not drainer.overflow_delivery.send()


@pytest.mark.parametrize(
    "behaviour",
    [standin.partial_success(1, "too old"), standin.status(400), standin.status(401),
     standin.server_error(), standin.too_many(60)],
    ids=["rejected in part", "400", "401", "500", "429"],
)  # fmt: skip
def test_what_a_receiver_does_not_take_as_a_whole_stays_and_waits(
    behaviour: standin.Behaviour,
    drainer: Drainer,
    overflow: Overflow,
    langfuse: StandIn,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(backoff, "draw", lambda *_: 60.0)
    langfuse.behave(behaviour)
    assert not drainer.overflow_delivery.send()
    asked = len(langfuse.requests)
    assert not drainer.overflow_delivery.send()
    assert (overflow.unsent_spans, len(langfuse.requests)) == (2, asked)


def test_a_route_that_waits_gets_its_last_chance_all_the_same(
    drainer: Drainer, overflow: Overflow, target: Target, langfuse: StandIn
) -> None:
    langfuse.behave(standin.sequence([standin.too_many(60), None]))
    assert not drainer.overflow_delivery.send()
    assert drainer.overflow_delivery.send_to(target, 10)
    assert (overflow.unsent_spans, langfuse.accepted) == (0, 2)


def test_what_is_held_in_memory_goes_out_while_the_turn_is_waited_for(
    drainer: Drainer,
    store: Store,
    target: Target,
    overflow: Overflow,
    peer: Store,
    langfuse: StandIn,
) -> None:
    store.append(target, batch("row"), 1.0)
    with peer.drain_lock.take(60):
        drainer.start()
        time.sleep(3 * TICK)
        overflow.has_moved = False
        overflow.add(target, batch("held"), 1.0)
        langfuse.wait_for(lambda server: "held" in server.names())
    drainer.stop(10)
