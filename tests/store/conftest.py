"""What the tests of the store share."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from damaged_files import fill
from spans import batch
from spool.settings.settings import Settings
from spool.store.store import Store
from targets import MINE


@pytest.fixture
def small(path: Path) -> Settings:
    """Keep a spool of 1 MiB, ten times a second."""
    return Settings(path=path, target=MINE, sync_seconds=0.1, max_bytes=1 << 20)


@pytest.fixture
def filled(store: Store) -> Store:
    """Hold five single spans, a to e."""
    store.register(MINE)
    for name in "abcde":
        store.append(MINE, batch(name), now=100.0)
    return store


@pytest.fixture
def crashed(store: Store, path: Path) -> Path:
    """Give the directory of a filled spool, as a crash would leave it."""
    fill(store)
    crashed = path.parent.with_name("crashed")
    shutil.copytree(path.parent, crashed)
    return crashed


@pytest.fixture
def whole(crashed: Path) -> Path:
    """Give the main file of that spool, with all that was in the WAL."""
    store = Store(crashed / "spool.db")
    store.open()
    store.close()
    return crashed / "spool.db"
