"""Every command works on the spool at the path, with the stand-in's keys and short waits."""

from __future__ import annotations

import pytest

from spans import batch
from spool.settings.target import Target
from spool.store.store import Store


@pytest.fixture(autouse=True)
def _short_waits(environment: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPOOL_BACKOFF_SECONDS", "0.01..0.02")


@pytest.fixture
def filled(store: Store, target: Target) -> Store:
    """Hold ten spans for the stand-in."""
    for number in range(10):
        store.append(target, batch(f"s{number}"), now=1_700_000_000.0)
    store.close()
    return store
