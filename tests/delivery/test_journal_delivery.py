from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

import standin
from drains import (
    Clock,
    assert_delivered,
    drain_all,
    drainer_of,
    end,
    route_of,
    spans_in_rows,
)
from manners import each_manner, each_manner_with_gzip
from spans import batch
from spool.delivery.client import Tally
from spool.delivery.drainer import Drainer
from spool.otlp.batch import ROW_BYTES
from spool.settings.settings import Settings
from spool.settings.target import Target
from spool.store.maintenance import Maintenance
from spool.store.records import Ledger
from spool.store.store import Store
from spool.system.locks import signature
from standin import StandIn

pytestmark = pytest.mark.once


@each_manner_with_gzip
def test_what_ends_while_its_route_is_well_is_sent_without_becoming_a_row(
    fresh: Drainer, store: Store, target: Target, clock: Clock, langfuse: StandIn
) -> None:
    assert not fresh.send_due()  # what comes meanwhile is sent in company
    assert_delivered(store, langfuse, "a", "b", "c")
    assert fresh.client.tally == Tally(delivered=3, requests=1)
    end(store, target, "d")
    fresh.send_due()
    assert_delivered(store, langfuse, *"abcd")
    assert len(langfuse.requests) == 2
    assert (spans_in_rows(store), route_of(store).last_success_at) == (0, clock.now)


@each_manner
def test_maintenance_leaves_the_journal_to_a_drainer_that_sends(
    fresh: Drainer, store: Store, settings: Settings, target: Target, langfuse: StandIn
) -> None:
    fresh.send_due()
    end(store, target, "d")
    maintenance = Maintenance(store, settings)
    store.database.written.clear()
    maintenance.keep()
    assert (spans_in_rows(store), store.database.written.is_set()) == (0, True)
    langfuse.behave(standin.unavailable())
    fresh.send_due()
    maintenance.keep()
    assert (spans_in_rows(store), route_of(store).pending_spans) == (1, 1)


def test_a_request_holds_no_more_of_the_journal_than_a_row(
    fresh: Drainer, store: Store, target: Target, langfuse: StandIn
) -> None:
    for number in range(40):
        store.accept(target, batch(str(number), size=ROW_BYTES // 10), 1.0)
    assert fresh.send_due()  # there is more
    assert 3 < langfuse.accepted < 20
    drain_all(fresh)
    assert store.ledger() == Ledger(accepted=43, delivered=43)


def test_fresh_spans_do_not_wait_behind_a_backlog(
    drainer: Drainer, store: Store, settings: Settings, target: Target, langfuse: StandIn
) -> None:
    slow = Drainer(store, replace(settings, max_request_bytes=1024), clock=lambda: 1.0)
    slow.routes.add(target)
    end(store, target, "fresh")
    while slow.send_due():
        if "fresh" in langfuse.names():
            break
    assert store.ledger().pending > 10
    drain_all(slow)
    assert store.ledger() == Ledger(accepted=21, delivered=21)


@each_manner_with_gzip
def test_rows_that_wait_go_before_what_is_in_the_journal(
    drainer: Drainer, store: Store, target: Target, langfuse: StandIn
) -> None:
    end(store, target, "last")
    drainer.send_due()
    assert [len(request.body) > 0 for request in langfuse.requests] == [True, True]
    assert list(langfuse.names())[-1] == "last"
    assert store.ledger() == Ledger(accepted=21, delivered=21)


@each_manner
def test_what_was_sent_from_the_journal_in_vain_becomes_rows_and_waits(
    fresh: Drainer, store: Store, settings: Settings, clock: Clock, langfuse: StandIn
) -> None:
    langfuse.behave(standin.too_many(60))
    assert not fresh.send_due()
    route = route_of(store)
    assert (route.attempts, route.wait_seconds) == (1, 60)
    Maintenance(store, settings).save()
    fresh.send_due()  # it is not due
    assert len(langfuse.requests) == 1
    langfuse.behave(None)
    clock.now += 60
    fresh.send_due()
    assert_delivered(store, langfuse, "a", "b", "c")
    assert spans_in_rows(store) == 3


def test_a_route_whose_key_is_refused_is_held(
    fresh: Drainer, store: Store, langfuse: StandIn
) -> None:
    langfuse.behave(standin.status(401))
    fresh.send_due()
    assert route_of(store).fingerprints
    fresh.send_due()
    assert len(langfuse.requests) == 1
    assert store.ledger() == Ledger(accepted=3, pending=3)


@each_manner
def test_a_bad_span_in_the_journal_is_found_among_rows(
    fresh: Drainer, store: Store, settings: Settings, langfuse: StandIn
) -> None:
    langfuse.behave(standin.reject_span("b"))
    fresh.send_due()
    Maintenance(store, settings).save()
    drain_all(fresh)
    assert langfuse.names() == Counter("ac")
    assert store.ledger() == Ledger(accepted=3, delivered=2, dead=1)


@pytest.mark.parametrize("rejected", [1, 7])
def test_spans_of_the_journal_that_a_receiver_rejects_are_dead_letters(
    fresh: Drainer, store: Store, langfuse: StandIn, rejected: int
) -> None:
    langfuse.behave(standin.partial_success(rejected, "too old"))
    fresh.send_due()
    dead = min(rejected, 3)
    assert store.ledger() == Ledger(accepted=3, delivered=3 - dead, dead=dead)
    (letter,) = store.dead_letters()
    assert (letter.batch.spans, letter.created_at) == (dead, 1.0)
    assert "too old" in letter.reason
    assert fresh.client.tally == Tally(delivered=3 - dead, requests=1, dead=dead)


def test_what_several_routes_have_in_the_journal_becomes_rows_of_each(
    fresh: Drainer, store: Store, settings: Settings, target: Target, langfuse: StandIn
) -> None:
    others = Target.langfuse("pk-lf-others", "sk-lf-others", langfuse.url)
    langfuse.keys["pk-lf-others"] = "sk-lf-others"
    store.register(others)
    fresh.routes.add(others)
    end(store, others, "theirs")
    end(store, target, "mine")
    fresh.send_due()
    assert not langfuse.requests
    Maintenance(store, settings).save()
    drain_all(fresh)
    assert_delivered(store, langfuse, "a", "b", "c", "theirs", "mine")
    assert len(langfuse.requests) == 2


@each_manner_with_gzip
def test_a_part_of_the_journal_that_makes_a_request_is_sent_and_the_rest_at_once(
    store: Store, settings: Settings, target: Target, clock: Clock, langfuse: StandIn
) -> None:
    store.register(target)
    large = [batch(name, size=2000) for name in "abc"]
    for one in large:
        store.accept(target, one, 1.0)
    small = replace(settings, max_request_bytes=5 * large[0].raw_bytes // 2)
    drainer = drainer_of(store, small, target, clock)
    assert drainer.send_due()
    assert not drainer.send_due()
    assert drainer.client.tally == Tally(delivered=3, requests=2)
    assert_delivered(store, langfuse, "a", "b", "c")


def test_maintenance_helps_where_much_is_in_the_journal(
    fresh: Drainer, store: Store, settings: Settings, target: Target, langfuse: StandIn
) -> None:
    for number in range(60):
        store.accept(target, batch(str(number), size=ROW_BYTES // 10), 1.0)
    assert fresh.send_due()
    Maintenance(store, settings).save()
    assert spans_in_rows(store) > 0
    drain_all(fresh)
    assert store.ledger() == Ledger(accepted=63, delivered=63)


@each_manner
def test_one_bad_span_alone_in_the_journal_holds_its_route_until_others_are_accepted(
    store: Store, settings: Settings, target: Target, clock: Clock, langfuse: StandIn
) -> None:
    store.register(target)
    end(store, target, "bad")
    langfuse.behave(standin.reject_span("bad"))
    plain = replace(settings, compression="none")  # a 400 to gzip is asked once more, without it
    drainer = drainer_of(store, plain, target, clock)
    for _ in range(20):
        drainer.send_due()
        Maintenance(store, settings).save()
    assert len(langfuse.requests) == 2  # from the journal, and as a row
    assert store.ledger() == Ledger(accepted=1, pending=1)
    route = route_of(store)
    assert (route.is_held, route.last_error) == (True, "400 cannot take the span bad")
    assert route.last_success_at is None
    end(store, target, "fresh")
    for _ in range(5):  # no time has passed
        drainer.send_due()
        Maintenance(store, settings).save()
    assert store.ledger() == Ledger(accepted=2, delivered=1, dead=1)
    assert drainer.client.tally == Tally(delivered=1, requests=4, dead=1)


@each_manner
def test_a_route_without_a_target_keeps_its_spans_until_they_are_rows(
    fresh: Drainer, store: Store, settings: Settings, langfuse: StandIn
) -> None:
    end(store, Target.langfuse("pk-lf-theirs", "sk-lf-theirs", langfuse.url), "theirs")
    fresh.send_due()
    Maintenance(store, settings).save()
    drain_all(fresh)
    assert langfuse.names() == Counter("abc")
    assert store.ledger() == Ledger(accepted=4, delivered=3, pending=1)


def test_a_small_spool_sends_only_rows(
    fresh: Drainer, store: Store, settings: Settings, target: Target, clock: Clock
) -> None:
    small = replace(settings, max_bytes=31 << 20)
    drainer = drainer_of(store, small, target, clock)
    drainer.send_due()
    assert store.ledger() == Ledger(accepted=3, pending=3)
    Maintenance(store, small).save()
    drain_all(drainer)
    end(store, target, "d")
    Maintenance(store, small).save()  # it is not kept from it
    assert route_of(store).pending_spans == 1


def test_an_idle_drainer_takes_no_turn(store: Store, drainer: Drainer) -> None:
    drain_all(drainer)
    signed = signature(store.drain_lock._lock.path, store.database.path)
    drainer.send_due()
    assert signature(store.drain_lock._lock.path, store.database.path) == signed
