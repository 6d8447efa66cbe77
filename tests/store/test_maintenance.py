from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from spans import batch
from spool.errors import SpoolFileError
from spool.journal import directory
from spool.journal.overflow import Overflow
from spool.settings.settings import Settings
from spool.store.maintenance import Maintenance
from spool.store.store import Store
from targets import MINE


def test_what_is_committed_is_synced_though_what_is_in_memory_cannot_be_moved(
    store: Store, small: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    syncs: list[int] = []
    monkeypatch.setattr(store.database, "sync", lambda: syncs.append(1))
    store.append(MINE, batch("a"), now=1.0)
    overflow = Overflow()
    overflow.add(MINE, batch("held"), 1.0)
    monkeypatch.setattr(store, "record", lambda *_: (_ for _ in ()).throw(SpoolFileError("full")))
    with pytest.raises(SpoolFileError):
        Maintenance(store, small, overflow).keep()
    assert syncs


def test_on_a_cramped_disk_the_journal_is_moved_when_nothing_else_waits(
    store: Store, small: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.append(MINE, batch("first"), now=1.0)
    store.accept(MINE, batch("second"), now=2.0)
    monkeypatch.setattr(store.database, "is_cramped", lambda: True)
    Maintenance(store, small).keep()
    assert len(store.pending()) == 1
    take = store.oldest(1, max_bytes=1 << 20, max_spans=10)
    assert take is not None
    store.settle(take, now=3.0)
    Maintenance(store, small).keep()
    assert [row.created_at for row in store.pending()] == [2.0]


def test_an_exit_leaves_no_journal_behind(store: Store, small: Settings, path: Path) -> None:
    store.open()
    store.accept(MINE, batch("a"), now=1.0)
    Maintenance(store, small).save(is_last=True)
    assert directory.paths(path) == []
    assert store.ledger().pending == 1


def test_new_spans_do_not_wait_behind_the_counts_of_what_was_sent_from_memory(
    store: Store, small: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    overflow, done = Overflow(), list[str]()
    for _ in range(3):
        overflow.add(MINE, batch("sent"), 1.0)
    overflow.deliver(overflow.take(MINE.route, 1 << 20))
    overflow.add(MINE, batch("held"), 2.0)
    record, credit = store.record, store.credit

    def noting(word: str, work: Callable[..., None]) -> Callable[..., None]:
        def noted(*arguments: object) -> None:
            done.append(word)
            work(*arguments)

        return noted

    monkeypatch.setattr(store, "record", noting("span", record))
    monkeypatch.setattr(store, "credit", noting("count", credit))
    Maintenance(store, small, overflow).save()
    assert done == ["span", "count"]
    ledger = store.ledger()
    assert (ledger.accepted, ledger.delivered, ledger.pending) == (4, 3, 1)
