"""The totals of a spool that nobody here has open."""

from __future__ import annotations

from pathlib import Path

from spool.store.records import Ledger
from spool.store.store import Store


def ledger_of(path: Path) -> Ledger:
    store = Store(path)
    ledger = store.ledger()
    store.close()
    return ledger
