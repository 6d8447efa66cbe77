from __future__ import annotations

import time
from dataclasses import replace

import pytest

import standin
from drains import NAMES, Clock, drainer_of, refuse_to_settle, route_of
from manners import each_manner
from spans import batch
from spool.delivery import drain_once
from spool.delivery.drainer import Drainer
from spool.delivery.http.classification import Verdict
from spool.settings.target import Target
from spool.store import route_waits
from spool.store.records import Route
from spool.store.store import Store
from standin import StandIn

pytestmark = pytest.mark.once


def drain(drainer: Drainer, timeout: float | None = None) -> int:
    """Drain by hand; give the number of requests."""
    before = drainer.client.tally.requests
    drain_once.drain(drainer, timeout, lambda: None)
    return drainer.client.tally.requests - before


@each_manner
def test_a_backoff_is_ignored(
    drainer: Drainer, store: Store, clock: Clock, langfuse: StandIn
) -> None:
    route_waits.wait(store.database, route_of(store), 3600, clock.now, "503")
    drain(drainer)
    assert (store.ledger().pending, len(langfuse.names())) == (0, 20)


def test_a_route_that_fails_is_left_alone_after_a_few_tries(
    drainer: Drainer, store: Store, langfuse: StandIn
) -> None:
    langfuse.behave(standin.unavailable())
    assert drain(drainer) == 3
    assert store.ledger().pending == 20


def test_with_a_timeout_it_is_tried_as_long_as_that(
    drainer: Drainer, store: Store, langfuse: StandIn
) -> None:
    langfuse.behave(standin.sequence([standin.unavailable()] * 5 + [None]))
    assert drain(drainer, 60) > 5
    assert store.ledger().pending == 0


def test_a_held_route_is_tried_once(drainer: Drainer, store: Store, langfuse: StandIn) -> None:
    langfuse.behave(standin.status(401))
    assert drain(drainer, 60) == 1
    assert drain(drainer, 60) == 1
    assert store.ledger().pending == 20


def test_nobody_sits_through_an_hour_that_a_server_asks_for(
    drainer: Drainer, store: Store, langfuse: StandIn
) -> None:
    langfuse.behave(standin.too_many(3600))
    started = time.monotonic()
    assert drain(drainer) == 1
    assert drain(drainer, 0.1) == 1
    assert time.monotonic() - started < 60
    assert store.ledger().pending == 20


def test_a_route_that_fails_keeps_no_other_from_going_out(
    drainer: Drainer, store: Store, langfuse: StandIn
) -> None:
    with StandIn(keys={"pk-lf-other": "sk-lf-other"}) as other:
        theirs = Target.langfuse("pk-lf-other", "sk-lf-other", other.url)
        store.append(theirs, batch("theirs"), 1.0)
        drainer.routes.add(theirs)
        langfuse.behave(standin.unavailable())
        drain(drainer)
        assert set(other.names()) == {"theirs"}
    assert store.ledger().pending == 20


def test_it_ends_where_the_file_refuses_to_settle(
    drainer: Drainer, store: Store, langfuse: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(store, "settle", refuse_to_settle)
        drain(drainer)
    assert len(langfuse.requests) == 1
    assert store.ledger().pending == 20
    assert drain(drainer) == 0
    assert store.ledger().delivered == 20


def test_what_comes_meanwhile_is_not_waited_for(
    drainer: Drainer, store: Store, target: Target, clock: Clock, langfuse: StandIn
) -> None:
    def feed() -> None:
        assert len(langfuse.requests) < 100
        store.append(target, batch("more"), clock.now)

    drain_once.drain(drainer, None, feed)
    assert (len(langfuse.names()), store.ledger().pending) == (20, 1)


def test_what_its_own_limit_cuts_says_nothing_about_a_route(
    drainer: Drainer, store: Store, langfuse: StandIn
) -> None:
    langfuse.behave(standin.mute())
    assert drain(drainer, 0.3) == 1
    route = route_of(store)
    assert (route.attempts, route.last_error, route.pending_spans) == (0, "", 20)


def test_a_route_that_its_limit_leaves_no_time_for_is_not_contacted(
    drainer: Drainer, store: Store, langfuse: StandIn
) -> None:
    with StandIn(keys={"pk-lf-other": "sk-lf-other"}) as other:
        theirs = Target.langfuse("pk-lf-other", "sk-lf-other", other.url)
        store.append(theirs, batch("theirs"), 1.0)
        drainer.routes.add(theirs)
        langfuse.behave(standin.mute())
        drain(drainer, 0.3)
        assert other.requests == []
    assert [route.attempts for route in store.routes()] == [0, 0]


def test_a_second_that_a_server_asks_for_is_sat_through_whatever_the_largest_backoff(
    drainer: Drainer, store: Store, langfuse: StandIn
) -> None:
    langfuse.behave(standin.sequence([standin.too_many(1), None]))
    assert drain(drainer) == 2
    assert store.ledger().pending == 0


def test_one_span_that_is_too_large_for_the_line_is_left_alone_and_waits_visibly(
    drainer: Drainer, store: Store, target: Target, langfuse: StandIn, clock: Clock
) -> None:
    for name, size in (("giant", 100_000), ("after", 0)):
        store.append(target, batch(name, size=size), clock.now)

    def slow(exchange: standin.Exchange) -> None:
        if len(exchange.read().body) > 50_000:
            exchange.hang()
        else:
            exchange.answer(exchange.judge())

    langfuse.behave(slow)
    plain = replace(drainer.settings, timeout_seconds=0.2, compression="none")
    drain(drainer_of(store, plain, target, clock))
    assert set(langfuse.names()) == {*NAMES, "after"}
    route = route_of(store)
    assert (route.pending_spans, route.attempts > 0) == (1, True)
    assert "no complete answer" in route.last_error


@pytest.mark.parametrize("code", [400, 413, 422])
def test_one_bad_span_alone_is_no_dead_letter(
    code: int, store: Store, drainer: Drainer, target: Target, clock: Clock, langfuse: StandIn
) -> None:
    drain(drainer)
    store.append(target, batch("bad"), clock.now)
    langfuse.behave(standin.poison("bad", code))
    drain(drainer)
    assert (store.ledger().dead, store.ledger().pending) == (0, 1)
    route = route_of(store)
    assert (route.is_held, route.last_error) == (True, f"{code} cannot take the span bad")
    store.append(target, batch("good"), clock.now)
    drain(drainer)
    assert (store.ledger().dead, store.ledger().pending) == (1, 0)


def wait_of(store: Store) -> tuple[object, ...]:
    route = route_of(store)
    return route.attempts, route.waited_at, route.wait_seconds, route.held_at, route.suspect_to


@pytest.mark.parametrize("answer", [standin.unavailable(), standin.mute(), None])
def test_a_drain_that_fails_makes_no_backoff_longer(
    drainer: Drainer, store: Store, langfuse: StandIn, answer: standin.Behaviour | None
) -> None:
    drainer.client.timeout = 0.2
    for _ in range(3):
        route_waits.wait(store.database, route_of(store), 40, 1_600_000_000.0, "before")
    before = wait_of(store)
    langfuse.behave(answer)
    if answer is None:
        langfuse.stop()
    drain(drainer)
    assert wait_of(store) == before
    assert route_of(store).last_error != "before"
    assert store.ledger().dead == 0


@pytest.mark.parametrize(("status", "is_later"), [(403, False), (404, False), (401, True)])
def test_a_held_routes_probe_comes_no_later_unless_the_server_remembers_the_try(
    status: int, drainer: Drainer, store: Store, clock: Clock, langfuse: StandIn, *, is_later: bool
) -> None:
    langfuse.behave(standin.status(status))
    drain(drainer)
    before = wait_of(store)
    clock.now += 100
    assert drain(drainer) == 1
    assert (wait_of(store) != before) is is_later
    assert route_of(store).is_held


def test_what_a_server_asks_for_is_kept_to(
    drainer: Drainer, store: Store, clock: Clock, langfuse: StandIn
) -> None:
    route_waits.wait(store.database, route_of(store), 5, clock.now - 1, "before")
    langfuse.behave(standin.too_many(600))
    drain(drainer)
    assert (route_of(store).waited_at, route_of(store).wait_seconds) == (clock.now, 600)


def test_a_drain_of_what_is_refused_altogether_makes_no_dead_letters(
    drainer: Drainer, store: Store, langfuse: StandIn
) -> None:
    langfuse.behave(standin.status(413))
    for _ in range(2):
        drain(drainer)
    assert (store.ledger().dead, store.ledger().pending) == (0, 20)


ROUTE = Route.unknown("pk-lf-test", "http://127.0.0.1:9", "pk-lf-test")


@pytest.mark.parametrize(
    ("verdict", "waits", "is_unsettled", "failures", "is_over"),
    [
        (Verdict.DELIVERED, 0.0, True, 0, False),
        (Verdict.SPLIT, 0.0, False, 1, False),
        (Verdict.WAIT, 5.0, False, 2, False),
        (Verdict.WAIT, 61.0, False, 2, True),
        (Verdict.HOLD, 330.0, False, 1, True),
        (Verdict.HOLD, 330.0, True, 2, False),
        (None, 0.0, False, 1, False),
    ],
    ids=[
        "delivered", "split", "a short wait", "a long wait", "a hold", "nothing can be settled",
        "another process sends",
    ],
)  # fmt: skip
def test_what_a_request_leaves_of_the_patience_with_a_route_that_failed_once(
    verdict: Verdict | None, waits: float, failures: int, *, is_unsettled: bool, is_over: bool
) -> None:
    target = Target.langfuse("pk-lf-test", "sk-lf-test", "http://127.0.0.1:9")
    errand = drain_once._Errand(target, last_id=1, limit=3, failures=1)
    route = replace(ROUTE, wait_seconds=waits)
    errand.heed(verdict, route, (1.0, 60.0), is_unsettled=is_unsettled)
    assert (errand.failures, errand.is_over) == (failures, is_over)


def test_a_route_that_is_another_ones_by_now_is_left_alone() -> None:
    target = Target.langfuse("pk-lf-test", "sk-lf-test", "http://127.0.0.1:9")
    for now in (None, replace(ROUTE, name="pk-lf-other")):
        errand = drain_once._Errand(target, last_id=1, limit=3)
        errand.heed(None, now, (1.0, 60.0), is_unsettled=False)
        assert errand.is_over
