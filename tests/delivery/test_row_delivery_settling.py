"""What was delivered, and the file refuses to settle, is not sent again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from drains import (
    Clock,
    assert_nothing_lost,
    drain_all,
)
from manners import each_manner_with_gzip
from spans import batch
from spool.delivery.drainer import Drainer
from spool.errors import SpoolFileError
from spool.settings.target import Target
from spool.store.records import Take
from spool.store.store import Store
from standin import StandIn

pytestmark = pytest.mark.once


@each_manner_with_gzip
def test_what_was_delivered_but_not_settled_is_not_sent_again(
    drainer: Drainer, store: Store, langfuse: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle: Callable[..., int] = store.settle
    failures = iter([True, True])

    def failing(take: Take, now: float, **how: Any) -> int:
        if next(failures, False):
            raise SpoolFileError("the disk is full")
        return settle(take, now, **how)

    monkeypatch.setattr(store, "settle", failing)
    for _ in range(2):
        drainer.send_due()
        assert store.ledger().pending == 20
    drainer.send_due()
    assert_nothing_lost(store, langfuse)
    assert len(langfuse.requests) == 1


@each_manner_with_gzip
def test_while_the_file_refuses_to_settle_all_that_waits_is_sent_once(
    drainer: Drainer,
    store: Store,
    target: Target,
    clock: Clock,
    langfuse: StandIn,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settle = store.settle

    def failing(*_: object, **__: object) -> int:
        raise SpoolFileError("the disk is full")

    monkeypatch.setattr(store, "settle", failing)
    drain_all(drainer)
    store.append(target, batch("later"), clock.now)
    drain_all(drainer)
    drain_all(drainer)
    assert langfuse.accepted == 21
    assert store.ledger().pending == 21
    monkeypatch.setattr(store, "settle", settle)
    drain_all(drainer)
    assert (store.ledger().delivered, store.ledger().pending) == (21, 0)
    assert len(langfuse.requests) == 2
