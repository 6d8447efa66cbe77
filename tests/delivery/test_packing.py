from __future__ import annotations

import gzip
from collections import Counter
from dataclasses import replace

import pytest

import standin
from decoders import first_member
from drains import (
    NAMES,
    Clock,
    NewDrainer,
    drain_all,
    refuse_to_settle,
    route_of,
)
from manners import each_manner, each_manner_with_gzip
from spans import batch
from spool.delivery.drainer import Drainer
from spool.otlp.batch import Codec
from spool.settings.settings import Settings
from spool.settings.target import Target
from spool.store import route_waits
from spool.store.store import Store
from standin import StandIn

pytestmark = pytest.mark.once


def many(store: Store, target: Target, names: list[str]) -> None:
    for name in names:
        store.append(target, batch(name, size=1000), 1.0)


@each_manner_with_gzip
def test_while_a_route_waits_its_rows_are_packed_and_then_sent_as_they_are(
    store: Store, target: Target, clock: Clock, langfuse: StandIn, new_drainer: NewDrainer
) -> None:
    names = [f"n{number}" for number in range(40)]
    many(store, target, names)
    drainer = new_drainer(max_request_bytes=5000)
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


def test_a_stranded_backlog_is_packed_too(
    store: Store, settings: Settings, target: Target, clock: Clock
) -> None:
    many(store, target, NAMES)
    drainer = Drainer(store, replace(settings, max_request_bytes=5000), clock=clock)
    assert drainer.pack_idle()


@each_manner
def test_what_is_delivered_but_not_settled_is_not_packed(
    store: Store,
    target: Target,
    clock: Clock,
    langfuse: StandIn,
    monkeypatch: pytest.MonkeyPatch,
    new_drainer: NewDrainer,
) -> None:
    many(store, target, NAMES)
    drainer = new_drainer(max_request_bytes=5000)
    with monkeypatch.context() as patch:
        patch.setattr(store, "settle", refuse_to_settle)
        drainer.send_due()
    langfuse.behave(standin.unavailable())
    route_waits.wait(store.database, route_of(store), 1000, clock.now, "503")
    assert not drainer.pack_idle()


def test_nobody_packs_while_another_process_sends(
    store: Store, settings: Settings, target: Target, clock: Clock, peer: Store
) -> None:
    many(store, target, NAMES)
    drainer = Drainer(store, replace(settings, max_request_bytes=5000), clock=clock)
    with peer.drain_lock.take(60):
        assert not drainer.pack_idle()
    assert drainer.pack_idle()
