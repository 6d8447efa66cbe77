"""Which routes wait, and what ends that."""

from __future__ import annotations

import pytest

from spool.store import route_waits
from spool.store.store import Store
from stores import route_of, take_of

pytestmark = pytest.mark.once


def test_settling_clears_the_routes_trouble(filled: Store) -> None:
    route_waits.hold(filled.database, route_of(filled), "0a1b2c3d", 330, now=100.0, reason="401")
    assert route_of(filled).fingerprints == ("0a1b2c3d",)
    filled.settle(take_of(filled), now=150.0, accepted_by="0a1b2c3d")
    route = route_of(filled)
    assert (route.attempts, route.wait_seconds, route.fingerprints) == (0, 0, ())
    assert (route.last_error, route.last_success_at) == ("", 150.0)


def test_a_delivery_clears_only_the_target_that_took_it(filled: Store) -> None:
    for fingerprint in ("old", "older", "new"):
        route_waits.hold(
            filled.database, route_of(filled), fingerprint, 330, now=100.0, reason="401"
        )
    filled.settle(take_of(filled, max_spans=1), now=150.0, accepted_by="new")
    route = route_of(filled)
    assert (route.fingerprints, route.is_held, route.held_at) == (("old", "older"), False, 100.0)
    filled.settle(take_of(filled, max_spans=1), now=150.0, accepted_by="old")
    assert route_of(filled).fingerprints == ("older",)


def test_a_wait_that_began_in_the_future_can_be_restarted(filled: Store) -> None:
    route_waits.wait(filled.database, route_of(filled), 60, now=1e9, reason="503")
    route_waits.restart_wait(filled.database, route_of(filled), now=50.0)
    assert route_of(filled).waited_at == 50.0


def test_a_route_fails_since_its_first_failure_until_it_succeeds(filled: Store) -> None:
    assert route_of(filled).failing_since is None
    route_waits.wait(filled.database, route_of(filled), 60, now=100.0, reason="503")
    route_waits.hold(filled.database, route_of(filled), "0a1b2c3d", 330, now=200.0, reason="401")
    route_waits.put_off(filled.database, [(route_of(filled), 60)], now=300.0, reason="refused")
    assert route_of(filled).failing_since == 100.0
    filled.settle(take_of(filled, max_spans=1), now=400.0, accepted_by="0a1b2c3d")
    assert route_of(filled).failing_since is None
    route_waits.put_off(filled.database, [(route_of(filled), 60)], now=500.0, reason="refused")
    assert route_of(filled).failing_since == 500.0


def test_no_trouble_began_in_the_future(filled: Store) -> None:
    route_waits.wait(filled.database, route_of(filled), 60, now=1e9, reason="503")
    route_waits.restart_wait(filled.database, route_of(filled), now=50.0)
    assert route_of(filled).failing_since == 50.0
