from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

import standin
from drains import (
    Clock,
    drain_all,
    drainer_of,
    refuse_to_settle,
    route_of,
)
from manners import each_manner, each_manner_with_gzip
from spans import batch
from spool.delivery import drain_once
from spool.delivery.client import Tally
from spool.delivery.drainer import Drainer
from spool.delivery.http.classification import Outcome
from spool.delivery.http.sender import Sender
from spool.journal.journal import LARGE
from spool.otlp.batch import ROW_BYTES
from spool.settings.settings import Settings
from spool.settings.target import Target
from spool.store import ingest, journal_chunks, route_waits, takeover
from spool.store.maintenance import Maintenance
from spool.store.records import Ledger
from spool.store.schema import ID_BITS
from spool.store.store import Store
from spool.system.locks import signature
from standin import StandIn

pytestmark = pytest.mark.once


@pytest.fixture
def fresh(store: Store, settings: Settings, target: Target, clock: Clock) -> Drainer:
    """Drain a spool whose journal holds three spans."""
    store.register(target)
    end(store, target, "a", "b", "c")
    return drainer_of(store, settings, target, clock)


def end(store: Store, target: Target, *names: str) -> None:
    for name in names:
        store.accept(target, batch(name), 1.0)


def spans_in_rows(store: Store) -> int:
    """Count the spans that a route ever took into rows."""
    return store.last_id(store.routes()[0].name) & (1 << ID_BITS) - 1


def assert_delivered(store: Store, langfuse: StandIn, *names: str) -> None:
    assert langfuse.names() == Counter(names)
    assert store.ledger() == Ledger(accepted=len(names), delivered=len(names))


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
def test_what_another_process_has_moved_and_sent_is_not_sent_again(
    fresh: Drainer,
    store: Store,
    settings: Settings,
    target: Target,
    clock: Clock,
    langfuse: StandIn,
    peer: Store,
) -> None:
    drain_once.drain(drainer_of(peer, settings, target, clock), 10, lambda: None)
    assert_delivered(store, langfuse, "a", "b", "c")
    fresh.send_due()
    end(store, target, "d")
    fresh.send_due()
    assert_delivered(store, langfuse, *"abcd")


def test_a_route_that_another_process_has_put_off_meanwhile_is_not_sent(
    fresh: Drainer, store: Store, clock: Clock, langfuse: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = store.drain_lock.take

    def take_behind_another(sending: float) -> contextlib.AbstractContextManager[bool]:
        route_waits.wait(store.database, route_of(store), 60, clock.now, "429")
        return take(sending)

    monkeypatch.setattr(store.drain_lock, "take", take_behind_another)
    fresh.send_due()
    assert not langfuse.requests


@each_manner
def test_between_requests_from_the_journal_another_process_gets_its_turn(
    fresh: Drainer, store: Store, target: Target, path: Path, langfuse: StandIn
) -> None:
    other, is_had, is_over = Store(path), threading.Event(), threading.Event()

    def poll() -> None:
        while not is_over.is_set():
            with other.drain_lock.take(60) as had:
                if had:
                    is_had.set()
                    return
            time.sleep(0.0005)

    langfuse.behave(standin.delay(0.02))
    fresh.send_due()
    polling = threading.Thread(target=poll)
    polling.start()
    for number in range(300):
        end(store, target, str(number))
        fresh.send_due()
        if is_had.is_set():
            break
    is_over.set()
    polling.join()
    other.close()
    assert is_had.is_set()


@each_manner
def test_a_spool_that_is_closed_while_it_sends_still_settles(
    fresh: Drainer, store: Store, langfuse: StandIn, peer: Store
) -> None:
    (file,) = store.journal.files()

    def close(exchange: standin.Exchange) -> None:
        reply = exchange.judge()
        store.close()
        takeover.take_over(peer, compress=True, sending=10.0)
        exchange.answer(reply)

    langfuse.behave(close)
    fresh.send_due()
    assert_delivered(store, langfuse, "a", "b", "c")
    assert file.path.exists()
    takeover.take_over(peer, compress=True, sending=10.0)  # it is nobody's any more
    assert not file.path.exists()


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
def test_a_delivery_leaves_the_endpoint_that_another_process_has_registered(
    fresh: Drainer, store: Store, target: Target, langfuse: StandIn
) -> None:
    store.register(Target.langfuse(target.route, "sk-lf-test", "http://127.0.0.1:9"))
    endpoint = route_of(store).endpoint
    fresh.send_due()
    assert_delivered(store, langfuse, "a", "b", "c")
    assert route_of(store).endpoint == endpoint


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


@each_manner
def test_a_damaged_journal_is_not_sent_as_it_is(
    fresh: Drainer, store: Store, settings: Settings, target: Target, langfuse: StandIn
) -> None:
    (file,) = store.journal.files()
    with file.path.open("r+b") as damaged:
        damaged.seek(60)
        damaged.write(b"\x00\x00")
    fresh.send_due()
    assert not langfuse.requests
    Maintenance(store, settings).save()
    drain_all(fresh)
    assert langfuse.names() == Counter("bc")
    assert store.ledger() == Ledger(accepted=3, delivered=2, damaged=1)


def test_what_cannot_be_read_at_the_end_of_the_journal_is_told_when_nothing_more_comes(
    fresh: Drainer, store: Store, settings: Settings, langfuse: StandIn
) -> None:
    (file,) = store.journal.files()
    fresh.send_due()
    end(store, fresh.routes.targets["pk-lf-test"], "d")
    os.truncate(file.path, file.path.stat().st_size - 1)
    with file.path.open("ab") as damaged:
        damaged.write(b"?")
    fresh.send_due()
    assert store.journal.files() == [file]
    Maintenance(store, settings).save()
    assert langfuse.names() == Counter("abc")
    assert store.ledger() == Ledger(accepted=4, delivered=3, damaged=1)


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


@each_manner_with_gzip
def test_what_is_being_sent_is_not_moved_meanwhile(
    fresh: Drainer, store: Store, settings: Settings, langfuse: StandIn, peer: Store
) -> None:
    seen: list[bool] = []

    def look(exchange: standin.Exchange) -> None:
        reply = exchange.judge()
        ingest.ingest(store, compress=True)
        is_done = takeover.take_over(peer, compress=True, sending=10.0, everything=True)
        seen.extend([is_done, fresh.has_prospects()])
        exchange.answer(reply)

    langfuse.behave(look)
    fresh.send_due()
    assert seen == [False, True]
    assert not fresh.has_prospects()
    assert_delivered(store, langfuse, "a", "b", "c")
    assert spans_in_rows(store) == 0


@each_manner
def test_what_a_deputy_has_moved_meanwhile_is_not_delivered_twice_over(
    fresh: Drainer, store: Store, langfuse: StandIn, peer: Store
) -> None:

    def move(exchange: standin.Exchange) -> None:  # it takes us for stopped
        reply = exchange.judge()
        takeover.take_over(peer, compress=True, sending=-100.0, everything=True)
        exchange.answer(reply)

    langfuse.behave(move)
    fresh.send_due()
    assert store.ledger() == Ledger(accepted=3, pending=3)
    langfuse.behave(None)
    drain_all(fresh)
    assert langfuse.names() == Counter("aabbcc")  # the request in flight, once more
    assert store.ledger() == Ledger(accepted=3, delivered=3)


@each_manner_with_gzip
def test_what_was_delivered_from_the_journal_and_cannot_be_settled_is_not_sent_again(
    fresh: Drainer,
    store: Store,
    settings: Settings,
    langfuse: StandIn,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(journal_chunks, "deliver", refuse_to_settle)
        fresh.send_due()
        fresh.send_due()
        Maintenance(store, settings).save()
        assert fresh.client.tally == Tally(requests=1)
    assert store.ledger() == Ledger(accepted=3, pending=3)
    fresh.send_due()
    assert_delivered(store, langfuse, "a", "b", "c")
    assert (fresh.client.tally, spans_in_rows(store)) == (Tally(delivered=3, requests=1), 0)


def test_a_delivery_of_a_spool_that_was_moved_away_is_settled_by_nobody_here(
    fresh: Drainer, store: Store, path: Path, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(journal_chunks, "deliver", refuse_to_settle)
        fresh.send_due()
    path.parent.rename(path.parent.with_name("moved"))
    ingest.ingest(store, compress=True)  # it goes on with a new file
    end(store, target, "d")
    ingest.ingest(store, compress=True)
    for _ in range(2):
        fresh.send_due()
    assert store.ledger() == Ledger(accepted=1, delivered=1)
    assert not fresh.has_prospects()


def test_an_idle_drainer_takes_no_turn(store: Store, drainer: Drainer) -> None:
    drain_all(drainer)
    signed = signature(store.drain_lock._lock.path, store.database.path)
    drainer.send_due()
    assert signature(store.drain_lock._lock.path, store.database.path) == signed


def test_a_defect_while_sending_leaves_the_journal_to_maintenance(
    fresh: Drainer, store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def defective(*_: object) -> Outcome:
        raise ValueError("a defect")

    monkeypatch.setattr(Sender, "send", defective)
    with pytest.raises(ValueError, match="a defect"):
        fresh.send_due()
    Maintenance(store, settings).save()
    assert route_of(store).pending_spans == 3


def test_an_emptied_journal_is_removed_when_its_delivery_is_synced(
    fresh: Drainer, store: Store, settings: Settings, target: Target, langfuse: StandIn
) -> None:
    (first,) = (file.path for file in store.journal.files())
    store.accept(target, batch("large", size=LARGE), 1.0)
    drain_all(fresh)
    end(store, target, "d")
    fresh.send_due()
    assert first.exists()
    Maintenance(store, settings).keep()
    assert not first.exists()
    assert_delivered(store, langfuse, *"abc", "large", "d")
