from __future__ import annotations

import time

import pytest

from spans import batch
from spool.delivery.drainer import Drainer
from spool.settings import known_targets
from spool.settings.known_targets import MANY, KnownTargets
from spool.settings.settings import Settings
from spool.settings.target import Target
from spool.store import ingest
from spool.store.store import Store

LASTING = Target.langfuse("pk-lf-lasting", "sk", "https://langfuse.example")


def target(number: int) -> Target:
    return Target.langfuse(f"pk-lf-{number}", "sk", "https://langfuse.example")


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> KnownTargets:
    """Know one for good, and twice as many as are many by use; idle as soon as they were used."""
    monkeypatch.setattr(known_targets, "_IDLE_SECONDS", 0.0)
    known = KnownTargets()
    known.add(LASTING)
    for number in range(2 * MANY):
        known.use(target(number))
    return known


def test_few_targets_are_never_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_targets, "_IDLE_SECONDS", 0.0)
    known = KnownTargets()
    for number in range(MANY):
        known.use(target(number))
    assert known.idle() == {}


def test_idle_targets_are_forgotten_but_not_those_whose_spans_wait(known: KnownTargets) -> None:
    time.sleep(0.001)
    known.forget(known.idle(), {"pk-lf-7"})
    assert {one.route for one in known.values()} == {"pk-lf-lasting", "pk-lf-7"}


def test_a_target_that_is_used_meanwhile_is_not_forgotten(known: KnownTargets) -> None:
    time.sleep(0.001)
    idle = known.idle()
    time.sleep(0.001)
    known.use(target(3))
    known.forget(idle, set())
    assert {one.route for one in known.values()} == {"pk-lf-lasting", "pk-lf-3"}


def test_a_target_used_a_moment_ago_is_not_idle() -> None:
    known = KnownTargets()
    for number in range(2 * MANY):
        known.use(target(number))
    assert known.idle() == {}


def test_a_target_is_not_forgotten_while_its_spans_are_in_the_journal_or_wait_as_rows(
    known: KnownTargets, store: Store, settings: Settings
) -> None:
    drainer = Drainer(store, settings, targets=known)
    store.open()
    store.accept(target(5), batch("a"), 1.0)
    time.sleep(0.001)
    for _ in range(5):
        drainer._forget_targets()
    assert len(known) == 2 * MANY + 1
    ingest.ingest(store, compress=False)
    for _ in range(2):
        drainer._forget_targets()
    assert {one.route for one in known.values()} == {"pk-lf-lasting", "pk-lf-5"}


def test_a_route_of_two_hosts_that_owners_named_is_two() -> None:
    known = KnownTargets()
    elsewhere = Target.langfuse("pk-lf-lasting", "sk", "https://other.example")
    rotated = Target.langfuse("pk-lf-lasting", "new", "https://langfuse.example")
    by_default = Target.langfuse("pk-lf-lasting", "sk")
    assert known.add(LASTING) == LASTING
    assert known.add(elsewhere) == known.add(elsewhere) == elsewhere.marked()
    assert known.add(rotated) == rotated
    assert known.add(by_default) == by_default
    assert len(known) == 2


def test_a_route_with_other_headers_given_in_code_is_two_and_with_other_extra_ones_is_one() -> None:
    known = KnownTargets()
    first, second = (LASTING.redirected(None, {"x-tenant": tenant}) for tenant in "ab")
    assert known.add(first) == first
    assert known.add(second) == known.add(second) == second.marked()
    assert known.add(LASTING) == LASTING.marked()
    assert known.get(first.route) == first
    extra = first.with_extra({"x-gateway": "in"})
    assert known.add(extra) == extra
    assert second.with_extra({"x-gateway": "in"}).marked().route == second.marked().route
    assert len(known) == 3
