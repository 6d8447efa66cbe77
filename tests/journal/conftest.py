"""A spool whose directory is there, and this process's journal beside it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from journals import made
from spool.journal.journal import Journal
from spool.settings.durability import Durability


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Name a spool whose directory is there."""
    return tmp_path / "spool.db"


@pytest.fixture
def mine(path: Path) -> Iterator[Journal]:
    """Use a journal of this process."""
    mine = made(path)
    yield mine
    mine.close()


@pytest.fixture
def synced(path: Path) -> Iterator[Journal]:
    """Use a journal of this process whose appends survive a power cut."""
    synced = made(path, Durability.POWER_CUT)
    yield synced
    synced.close()
