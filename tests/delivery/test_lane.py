from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import standin
from drains import Clock, NewDrainer, route_of
from spans import batch
from spool.delivery import drain_once
from spool.delivery.drainer import Drainer
from spool.settings.settings import Settings
from spool.settings.target import Target
from spool.store import operations
from spool.store.store import Store
from standin import StandIn
from trials import Trial

pytestmark = pytest.mark.once

TENANTS = 20


def tenant(number: int, server: StandIn) -> Target:
    return Target.langfuse(f"pk-lf-{number}", f"sk-lf-{number}", server.url)


def swallow(exchange: standin.Exchange) -> None:
    """Read the request, and never answer."""
    exchange.read()
    exchange.hang()


@pytest.fixture
def deaf() -> Iterator[StandIn]:
    """Serve a host that swallows requests."""
    with StandIn() as server:
        server.behave(swallow)
        yield server


@pytest.fixture
def tenants(store: Store, deaf: StandIn) -> list[Target]:
    """Let spans of many projects wait whose host swallows requests."""
    targets = [tenant(number, deaf) for number in range(TENANTS)]
    for target in targets:
        store.append(target, batch("theirs"), 1.0)
    return targets


@pytest.fixture
def drainer(store: Store, settings: Settings, tenants: list[Target], clock: Clock) -> Drainer:
    """Drain for all of them, with a short deadline."""
    drainer = Drainer(store, replace(settings, timeout_seconds=0.5), clock=clock)
    for target in tenants:
        drainer.routes.add(target)
    return drainer


def test_beside_many_tenants_whose_host_swallows_requests_a_healthy_route_is_sent(
    drainer: Drainer,
    store: Store,
    target: Target,
    langfuse: StandIn,
    deaf: StandIn,
    report: Callable[[Trial], None],
) -> None:
    spans = 3
    store.register(target)
    drainer.routes.add(target)
    drainer.start()
    try:
        deaf.wait_for(lambda server: len(server.requests) == 1)
        for number in range(spans):
            store.accept(target, batch(f"mine {number}"), 1.0)
            langfuse.wait_for(lambda server: server.accepted == number + 1)  # noqa: B023 - waited for here
            assert len(deaf.requests) < TENANTS
    finally:
        drainer.stop(30)
    ended, ledger = TENANTS + spans, store.ledger()
    lost, again = ended - ledger.delivered - ledger.pending, langfuse.accepted - spans
    name = "a healthy route beside 20 whose host hangs"
    report(Trial(name, 1, ended, ledger.accepted, ledger.refused, 0, lost, again))


def test_one_request_tells_for_all_routes_of_a_host_that_answers_nobody(
    drainer: Drainer, store: Store, deaf: StandIn
) -> None:
    assert not drainer.send_due()
    assert len(deaf.requests) == 1
    routes = store.routes()
    assert {route.attempts for route in routes} == {1}
    assert {route.last_error for route in routes} == {routes[0].last_error}
    assert "no complete answer" in routes[0].last_error


def test_routes_that_were_put_off_are_sent_when_their_host_answers_again(
    drainer: Drainer, deaf: StandIn, clock: Clock
) -> None:
    drainer.send_due()
    deaf.keys = {f"pk-lf-{number}": f"sk-lf-{number}" for number in range(TENANTS)}
    deaf.behave(None)
    clock.now += 60
    drainer.send_due()
    assert deaf.accepted == TENANTS


def test_a_route_in_trouble_that_is_tried_keeps_no_turn_from_those_that_are_well(
    drainer: Drainer, path: Path, deaf: StandIn, clock: Clock
) -> None:
    drainer.send_due()
    clock.now += 60
    peer = Store(path)
    trying = threading.Thread(target=drainer.send_due)
    trying.start()
    try:
        deaf.wait_for(lambda server: len(server.requests) == 2)
        with peer.drain_lock.take(60) as well, peer.probe_lock.take(60) as troubled:
            assert (well, troubled) == (True, False)
    finally:
        trying.join()
        peer.close()


def test_a_route_is_sent_only_in_the_turn_of_its_lane(
    drainer: Drainer, store: Store, tenants: list[Target], deaf: StandIn, clock: Clock
) -> None:
    drainer.send_due()
    clock.now += 60
    before = len(deaf.requests)
    route = route_of(store)
    with store.drain_lock.take(60):
        assert drainer.row_delivery.send(route.id, tenants[0]) is None
    assert len(deaf.requests) == before
    with store.probe_lock.take(60):
        assert drainer.row_delivery.send(route.id, tenants[0]) is not None
    assert len(deaf.requests) == before + 1


def test_those_that_were_delivered_last_go_first_and_again_after_a_slow_failure(
    store: Store, target: Target, langfuse: StandIn, new_drainer: NewDrainer
) -> None:
    with StandIn() as one, StandIn() as other:
        one.behave(swallow)
        other.behave(swallow)
        drainer = new_drainer(timeout_seconds=0.5)
        for number, server in enumerate((one, other)):
            store.append(tenant(number, server), batch("theirs"), 1.0)
            drainer.routes.add(tenant(number, server))
        store.append(target, batch("first"), 1.0)
        with store.drain_lock.take(60):
            drainer.row_delivery.send(store.routes()[-1].id, target)
        store.append(target, batch("second"), 1.0)
        assert drainer.send_due()
        store.append(target, batch("third"), 1.0)
        drainer.send_due()
        assert [len(server.requests) for server in (langfuse, one, other)] == [3, 1, 1]
        second, third = langfuse.requests[1:]
        assert second.at < one.requests[0].at < third.at < other.requests[0].at


def test_while_others_wait_an_unknown_host_has_only_a_short_time_at_first(
    store: Store, settings: Settings, target: Target, clock: Clock, langfuse: StandIn
) -> None:
    with StandIn() as slow:
        slow.keys = {"pk-lf-0": "sk-lf-0"}
        slow.behave(standin.sequence([swallow, None]))
        theirs = tenant(0, slow)
        store.append(theirs, batch("theirs"), clock.now)
        store.append(target, batch("mine"), clock.now)
        patient = Drainer(store, replace(settings, timeout_seconds=60), clock=clock)
        patient.routes.add(theirs)
        patient.routes.add(target)
        assert patient.send_due()
        assert "while others waited" in route_of(store).last_error
        patient.send_due()
        assert (slow.accepted, langfuse.accepted) == (1, 1)
        assert store.ledger().pending == 0


def test_a_stranded_route_in_trouble_is_not_adopted_while_it_is_tried(
    drainer: Drainer, store: Store, path: Path, target: Target
) -> None:
    drainer.send_due()
    stranded = route_of(store)
    peer, is_adopted = Store(path), threading.Event()

    def adopt() -> None:
        operations.adopt(peer, stranded, target, 60)
        is_adopted.set()

    with store.probe_lock.take(60):
        adopting = threading.Thread(target=adopt)
        adopting.start()
        assert not is_adopted.wait(0.5)
    adopting.join(30)
    assert is_adopted.is_set()
    peer.close()


def test_a_route_in_trouble_is_not_packed_while_another_process_tries_it(
    drainer: Drainer, store: Store, tenants: list[Target], peer: Store
) -> None:
    small = Drainer(store, replace(drainer.settings, max_request_bytes=5000), clock=lambda: 1.0)
    small.routes.add(tenants[0])
    for number in range(40):
        store.append(tenants[0], batch(str(number)), 1.0)
    small.send_due()
    with peer.probe_lock.take(60):
        assert not small.pack_idle()
    assert small.pack_idle()


def test_by_hand_too_one_request_tells_for_all_routes_of_a_host_that_answers_nobody(
    store: Store, settings: Settings, tenants: list[Target], target: Target, deaf: StandIn
) -> None:
    drainer = Drainer(store, replace(settings, timeout_seconds=0.5))
    for one in (*tenants, target):
        drainer.routes.add(one)
    store.append(target, batch("mine"), 1.0)
    drain_once.drain(drainer, None, lambda: None)
    assert len(deaf.requests) <= 5  # not each of them several times
    routes = store.routes()
    assert sum(route.pending_spans for route in routes) == TENANTS
    waiting = [route for route in routes if route.pending_spans]
    assert all("no complete answer" in route.last_error for route in waiting)
