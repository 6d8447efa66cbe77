"""What becomes of rows that are refused: only evidence condemns a span."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

import standin
from drains import Clock, NewDrainer, drain_all, drainer_of, route_of
from manners import each_manner
from spans import batch, span
from spool.delivery.backoff import HOLD_SECONDS
from spool.delivery.drainer import Drainer
from spool.otlp.batch import Codec, encode
from spool.settings.settings import Settings
from spool.settings.target import Target
from spool.store.records import Ledger
from spool.store.store import Store
from standin import HTML, Reply, StandIn

pytestmark = pytest.mark.once

REFUSALS: dict[str, tuple[standin.Behaviour, str]] = {
    "400": (standin.status(400, body='{"error": "bad version"}'), "400 bad version"),
    "400 in text, as Go's TLS port says it": (
        standin.status(
            400,
            body="Client sent an HTTP request to an HTTPS server.",
            content_type="text/plain; charset=utf-8",
        ),
        "400 Client sent an HTTP request to an HTTPS server.",
    ),
    "400 with a page, as nginx says it": (
        standin.status(400, body="<html>plain HTTP request</html>", content_type=HTML),
        "400 plain HTTP request",
    ),
    "413": (standin.status(413, body='{"error": "too large"}'), "413 too large"),
    "422": (standin.status(422, body='{"error": "cannot convert"}'), "422 cannot convert"),
}


def refusing(
    word: str, code: int, otherwise: standin.Behaviour = standin.healthy
) -> standin.Behaviour:
    """Answer so to a request with a span whose name begins with a word."""

    def behave(exchange: standin.Exchange) -> None:
        spans = standin.spans_of(exchange.judge().accepted)
        bad = next((span.name for span in spans if span.name.startswith(word)), None)
        if bad is None:
            otherwise(exchange)
        else:
            exchange.answer(Reply.json(code, {"error": f"cannot take the span {bad}"}))

    return behave


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Compress nothing: what refuses gzip is asked once more without it, and here we count."""
    return replace(settings, compression="none")


@pytest.fixture
def backlog(store: Store, target: Target) -> Store:
    """Hold 300 spans."""
    for number in range(300):
        store.append(target, batch(f"n{number}"), 1.0)
    return store


def restarted(drainer: Drainer, target: Target, clock: Clock) -> Drainer:
    """Give the drainer of a process that knows only what the file tells."""
    return drainer_of(drainer.store, drainer.settings, target, clock)


@pytest.mark.parametrize("refusal", REFUSALS)
@pytest.mark.parametrize("packing", ["a row a span", "one row"])
def test_a_receiver_that_refuses_everything_holds_the_route_and_makes_no_dead_letters(
    refusal: str,
    packing: str,
    store: Store,
    target: Target,
    clock: Clock,
    langfuse: StandIn,
    new_drainer: NewDrainer,
) -> None:
    names = [f"n{number}" for number in range(300)]
    for row in [[name] for name in names] if packing == "a row a span" else [names]:
        store.append(target, batch(*row), 1.0)
    behaviour, words = REFUSALS[refusal]
    langfuse.behave(behaviour)
    drainer = new_drainer()
    drain_all(drainer)
    assert len(langfuse.requests) <= 20
    route = route_of(store)
    assert (route.is_held, route.last_error) == (True, words)
    before = len(langfuse.requests)
    for _ in range(round(10 * HOLD_SECONDS)):
        clock.now += 1
        drainer = restarted(drainer, target, clock)
        drainer.send_due()
    assert len(langfuse.requests) - before == 10
    assert store.ledger() == Ledger(accepted=300, pending=300)
    langfuse.behave(None)
    clock.now += HOLD_SECONDS
    drain_all(drainer)
    assert store.ledger() == Ledger(accepted=300, delivered=300)
    assert langfuse.names() == Counter(names)


def test_what_a_receiver_in_trouble_has_refused_arrives_when_it_is_well_again(
    backlog: Store, clock: Clock, langfuse: StandIn, new_drainer: NewDrainer
) -> None:
    langfuse.behave(standin.status(400))
    drainer = new_drainer()
    for _ in range(3):
        drain_all(drainer)
        clock.now += HOLD_SECONDS
    langfuse.behave(None)
    drain_all(drainer)
    assert backlog.ledger() == Ledger(accepted=300, delivered=300)


def test_a_receiver_that_refuses_everything_and_may_lack_gzip_gets_few_requests_too(
    backlog: Store, langfuse: StandIn, new_drainer: NewDrainer
) -> None:
    langfuse.behave(standin.status(400))
    drain_all(new_drainer(compression="gzip"))
    assert len(langfuse.requests) <= 20
    assert route_of(backlog).is_held


def test_a_span_that_is_refused_alone_holds_its_route(
    store: Store, target: Target, langfuse: StandIn, new_drainer: NewDrainer
) -> None:
    store.append(target, batch("bad"), 1.0)
    langfuse.behave(standin.reject_span("bad"))
    drainer = new_drainer()
    drain_all(drainer)
    assert len(langfuse.requests) == 1
    assert store.ledger() == Ledger(accepted=1, pending=1)
    assert route_of(store).is_held


@each_manner
@pytest.mark.parametrize("is_restarted", [False, True])
def test_what_comes_after_a_refusal_is_tried_at_once_and_its_acceptance_buries_the_refused(
    is_restarted: bool,
    store: Store,
    target: Target,
    clock: Clock,
    langfuse: StandIn,
    new_drainer: NewDrainer,
) -> None:
    store.append(target, batch("bad"), 1.0)
    langfuse.behave(standin.reject_span("bad"))
    drainer = new_drainer()
    drain_all(drainer)
    if is_restarted:
        drainer = restarted(drainer, target, clock)
    for name in ("fresh", "fresher"):
        store.append(target, batch(name), 1.0)
        drain_all(drainer)
        assert langfuse.names()[name] == 1
    assert len(langfuse.requests) <= 5
    (letter,) = store.dead_letters()
    assert letter.reason == "400 cannot take the span bad"
    assert store.ledger() == Ledger(accepted=3, delivered=2, dead=1)
    assert not route_of(store).attempts


def test_what_comes_to_a_receiver_that_refuses_everything_is_tried_more_and_more_rarely(
    backlog: Store, target: Target, clock: Clock, langfuse: StandIn, new_drainer: NewDrainer
) -> None:
    langfuse.behave(standin.status(400))
    drainer = new_drainer(backoff_seconds=(1, 60))
    drain_all(drainer)
    before = len(langfuse.requests)
    for _ in range(2000):
        backlog.append(target, batch("fresh"), 1.0)
        drainer = restarted(drainer, target, clock)
        drainer.send_due()
        clock.now += 1
    assert len(langfuse.requests) - before < 15
    assert backlog.ledger() == Ledger(accepted=2300, pending=2300)


def test_a_restart_again_and_again_makes_neither_dead_letters_nor_a_storm(
    backlog: Store, target: Target, clock: Clock, langfuse: StandIn, new_drainer: NewDrainer
) -> None:
    langfuse.behave(standin.status(400))
    drainer = new_drainer()
    for _ in range(100):
        drainer = restarted(drainer, target, clock)
        drain_all(drainer)
    assert len(langfuse.requests) <= 20
    assert backlog.ledger() == Ledger(accepted=300, pending=300)


@each_manner
@pytest.mark.parametrize("packing", ["a row a span", "one row"])
@pytest.mark.parametrize("bad", [range(60), range(0, 60, 7), range(57, 60)])
def test_bad_spans_among_good_ones_are_dead_letters_without_a_probing_cycle_each(
    packing: str,
    bad: range,
    store: Store,
    target: Target,
    langfuse: StandIn,
    new_drainer: NewDrainer,
) -> None:
    names = [f"bad {n}" if n in bad else f"good {n}" for n in range(60)] + ["good"] * 20
    for row in [[name] for name in names] if packing == "a row a span" else [names]:
        store.append(target, batch(*row), 1.0)
    langfuse.behave(refusing("bad", 400))
    drainer = new_drainer()
    drain_all(drainer)
    assert store.ledger() == Ledger(accepted=80, delivered=80 - len(bad), dead=len(bad))
    assert not any(name.startswith("bad") for name in langfuse.names())
    assert {one.reason[:3] for one in store.dead_letters()} == {"400"}


def test_a_backlog_of_bad_spans_is_buried_as_others_are_accepted(
    store: Store, target: Target, langfuse: StandIn, new_drainer: NewDrainer
) -> None:
    for number in range(200):
        store.append(target, batch(f"bad {number}"), 1.0)
    langfuse.behave(refusing("bad", 400))
    drainer = new_drainer()
    drain_all(drainer)
    assert (store.ledger().dead, len(langfuse.requests) <= 20) == (0, True)
    for number in range(8):
        store.append(target, batch(f"good {number}"), 1.0)
        drain_all(drainer)
    assert store.ledger() == Ledger(accepted=208, delivered=8, dead=200)


def test_a_bad_span_behind_poison_holds_the_route_and_makes_no_storm(
    store: Store, target: Target, clock: Clock, langfuse: StandIn, new_drainer: NewDrainer
) -> None:
    for name in ("poison", "good", "bad"):
        store.append(target, batch(name), 1.0)

    langfuse.behave(refusing("poison", 500, refusing("bad", 400)))
    drainer = new_drainer()
    for _ in range(200):
        drain_all(drainer)
        clock.now += 1
    assert len(langfuse.requests) < 60
    assert langfuse.names() == Counter(["good"])


def test_a_payload_that_cannot_be_joined_is_a_dead_letter_without_evidence(
    store: Store, target: Target, langfuse: StandIn, new_drainer: NewDrainer
) -> None:
    garbage = replace(batch("a"), codec=Codec.GZIP, payload=b"\xff no gzip")
    store.append(target, garbage, 1.0)
    drainer = new_drainer(compression="none")
    drain_all(drainer)
    assert langfuse.requests == []
    assert store.ledger() == Ledger(accepted=1, dead=1)


def test_a_limit_in_front_of_the_receiver_costs_few_refused_requests(
    store: Store, target: Target, langfuse: StandIn, new_drainer: NewDrainer
) -> None:
    langfuse.behave(standin.too_large(1_000_000))
    drainer = new_drainer()
    for number in range(60):
        for part in range(20):
            store.append(target, batch(f"{number} {part}", size=50_000), 1.0)
        drain_all(drainer)
    assert store.ledger() == Ledger(accepted=1200, delivered=1200)
    refused = [request for request in langfuse.requests if request.status == 413]
    assert len(refused) < 15
    assert len(langfuse.requests) > 60


@pytest.mark.parametrize("bad", ["all", "every second"])
def test_the_search_for_bad_spans_writes_little_more_than_their_data(
    bad: str, store: Store, target: Target, langfuse: StandIn, new_drainer: NewDrainer
) -> None:
    names = [f"bad {n}" if bad == "all" or n % 2 else f"good {n}" for n in range(1000)]
    for begin in range(0, 1000, 500):
        many = encode([span(name, 3000) for name in names[begin : begin + 500]])
        store.append(target, many, 1.0)
    for number in range(20):
        store.append(target, batch(f"good {number}", size=3000), 1.0)
    langfuse.behave(refusing("bad", 400))
    data = sum(row.batch.raw_bytes for row in store.pending())
    drainer = new_drainer()
    before = bytes_written()
    drain_all(drainer)
    written = bytes_written() - before
    print(f"{store.ledger().dead} dead letters of {data} bytes: {written} bytes written")
    assert store.ledger().dead == (1000 if bad == "all" else 500)
    assert written < 10 * data


def bytes_written() -> int:
    """Count what this process has written to files and sockets: proc(5), `io`."""
    said = Path("/proc/self/io").read_text()
    return int(re.search(r"^wchar: (\d+)$", said, re.MULTILINE)[1])  # type: ignore[index]


def test_what_comes_after_a_span_that_fails_alone_does_not_wait_for_it(
    store: Store, settings: Settings, target: Target, clock: Clock, langfuse: StandIn
) -> None:
    langfuse.behave(refusing("poison", 500))
    patient = replace(settings, backoff_seconds=(30, 60))
    drainer = drainer_of(store, patient, target, clock)
    for name in ("poison", "good"):
        store.append(target, batch(name), 1.0)
    for _ in range(200):
        drainer.send_due()
        clock.now += 10
    assert langfuse.names() == Counter(["good"])
    assert route_of(store).attempts
    for number in range(5):
        store.append(target, batch(f"fresh {number}"), 1.0)
        drain_all(drainer)
        assert langfuse.names()[f"fresh {number}"] == 1


def test_a_span_that_failed_and_then_is_refused_makes_no_storm(
    store: Store, target: Target, clock: Clock, langfuse: StandIn, new_drainer: NewDrainer
) -> None:
    for name in ("bad", "good", "better"):
        store.append(target, batch(name), 1.0)
    langfuse.behave(standin.server_error())
    drainer = new_drainer()
    for _ in range(4):  # all of them twice, the first of them alone, the others
        drainer.send_due()
        clock.now += 10
    langfuse.behave(refusing("bad", 400))
    for _ in range(100):
        drainer.send_due()
        clock.now += 0.1
    assert len(langfuse.requests) < 20
    assert set(langfuse.names()) == {"good", "better"}
