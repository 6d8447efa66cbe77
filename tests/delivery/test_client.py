"""Whether a receiver knows gzip."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

import standin
from drains import Clock, NewDrainer, assert_nothing_lost, drain_all, drainer_of
from manners import NO_GZIP
from spans import batch
from spool.delivery.backoff import HOLD_SECONDS
from spool.delivery.drainer import Drainer
from spool.delivery.http.classification import Verdict
from spool.otlp.batch import merge
from spool.settings.settings import Settings
from spool.settings.target import Target
from spool.store.store import Store
from standin import StandIn


def encodings(langfuse: StandIn) -> list[str | None]:
    return [request.headers.get("content-encoding") for request in langfuse.requests]


@pytest.mark.parametrize("manner", NO_GZIP, ids=lambda manner: manner.name)
def test_who_reads_no_gzip_gets_one_such_request_and_then_all_uncompressed(
    drainer: Drainer,
    store: Store,
    target: Target,
    langfuse: StandIn,
    caplog: pytest.LogCaptureFixture,
) -> None:
    drain_all(drainer)
    ledger = assert_nothing_lost(store, langfuse)
    store.append(target, merge([batch("packed", "too")], compress=True), 1.0)
    drain_all(drainer)
    assert langfuse.names()["packed"] == langfuse.names()["too"] == 1
    assert encodings(langfuse) == ["gzip", None, None]
    assert drainer.client.tally.requests == 3
    assert (ledger.dead, store.ledger().pending) == (0, 0)
    (said,) = [record.getMessage() for record in caplog.records if "gzip" in record.getMessage()]
    assert f"route {target.route} reads no gzip: it said {langfuse.requests[0].status} " in said


def test_a_bad_request_to_who_took_gzip_is_not_sent_uncompressed(
    drainer: Drainer, store: Store, target: Target, langfuse: StandIn, clock: Clock
) -> None:
    drain_all(drainer)
    langfuse.behave(standin.status(400))
    store.append(target, batch("bad"), clock.now)
    drainer.send_due()
    assert set(encodings(langfuse)) == {"gzip"}


@pytest.mark.parametrize("code", [400, 415])
def test_who_took_gzip_and_reads_none_any_more_gets_none_after_a_hold(
    code: int, drainer: Drainer, store: Store, target: Target, langfuse: StandIn, clock: Clock
) -> None:
    def behave(exchange: standin.Exchange) -> None:
        is_gzip = "content-encoding" in exchange.read().headers
        (standin.status(code) if is_gzip else standin.healthy)(exchange)

    drain_all(drainer)
    langfuse.behave(behave)
    store.append(target, batch("a", "b"), clock.now)
    for _ in range(3):
        drain_all(drainer)
        clock.now += HOLD_SECONDS
    assert langfuse.names()["a"] == langfuse.names()["b"] == 1
    assert store.ledger().dead == 0


def test_whom_nothing_is_known_of_is_asked_with_gzip_again(
    target: Target, langfuse: StandIn, new_drainer: NewDrainer
) -> None:
    client = new_drainer().client
    replies = [standin.status(400), standin.status(503)]
    langfuse.behave(standin.sequence([*replies, *replies, None]))
    for _ in range(2):
        outcome = client.post(target, [batch("a")], 10)
        assert (outcome.verdict, outcome.reason) == (Verdict.WAIT, "503 Service Unavailable")
    assert client.post(target, [batch("a")], 10).verdict is Verdict.DELIVERED
    assert encodings(langfuse) == ["gzip", None, "gzip", None, "gzip"]


def test_both_tries_share_one_deadline(
    target: Target, langfuse: StandIn, new_drainer: NewDrainer
) -> None:
    def late(exchange: standin.Exchange) -> None:
        exchange.read()
        exchange.pause(0.5)
        standin.status(415)(exchange)

    client = new_drainer().client
    langfuse.behave(standin.sequence([late, standin.mute()]))
    started = time.monotonic()
    outcome = client.post(target, [batch("a")], 1)
    assert (outcome.verdict, outcome.is_timeout) == (Verdict.WAIT, True)
    assert time.monotonic() - started < 10


def test_without_compression_nothing_is_tried_twice(
    store: Store, settings: Settings, target: Target, clock: Clock, langfuse: StandIn
) -> None:
    plain = replace(settings, compression="none")
    client = drainer_of(store, plain, target, clock).client
    langfuse.behave(standin.status(415))
    assert client.post(target, [batch("a")], 10).verdict is Verdict.HOLD
    assert encodings(langfuse) == [None]
