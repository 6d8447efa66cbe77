"""What is sent from the journal while others are at it, while it is damaged, or not settled."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

import standin
from drains import (
    Clock,
    assert_delivered,
    drain_all,
    drainer_of,
    end,
    refuse_to_settle,
    route_of,
    spans_in_rows,
)
from manners import each_manner, each_manner_with_gzip
from ports import HOST, free_port
from spans import batch
from spool.delivery import drain_once
from spool.delivery.client import Tally
from spool.delivery.drainer import Drainer
from spool.delivery.http.classification import Outcome
from spool.delivery.http.sender import Sender
from spool.journal.journal import LARGE
from spool.settings.settings import Settings
from spool.settings.target import Target
from spool.store import ingest, journal_chunks, route_waits, takeover
from spool.store.maintenance import Maintenance
from spool.store.records import Ledger
from spool.store.store import Store
from standin import StandIn

pytestmark = pytest.mark.once


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


def test_a_first_request_that_hangs_is_left_soon_where_others_go_to_another_host(
    fresh: Drainer, store: Store, langfuse: StandIn
) -> None:
    langfuse.behave(standin.mute())
    fresh.routes.add(Target.langfuse("pk-lf-other", "sk-lf-other", f"http://{HOST}:{free_port()}"))
    fresh.send_due()
    assert "while others waited" in route_of(store).last_error
    langfuse.behave(None)
    ingest.ingest(store, compress=False)
    drain_all(fresh)
    assert_delivered(store, langfuse, "a", "b", "c")


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
def test_a_delivery_leaves_the_endpoint_that_another_process_has_registered(
    fresh: Drainer, store: Store, target: Target, langfuse: StandIn
) -> None:
    store.register(Target.langfuse(target.route, "sk-lf-test", "http://127.0.0.1:9"))
    endpoint = route_of(store).endpoint
    fresh.send_due()
    assert_delivered(store, langfuse, "a", "b", "c")
    assert route_of(store).endpoint == endpoint


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
