"""What a ledger says, and what it promises."""

from __future__ import annotations

from pathlib import Path

from spool.store.records import Ledger
from spool.store.store import Store


def ledger_of(path: Path) -> Ledger:
    store = Store(path)
    ledger = store.ledger()
    store.close()
    return ledger


def balances(ledger: Ledger) -> bool:
    """Say whether all that came is somewhere, and counted there once."""
    gone = ledger.delivered + ledger.dead + ledger.evicted + ledger.purged + ledger.exported
    return ledger.accepted + ledger.imported == gone + ledger.damaged + ledger.pending
