"""What the tests of the store share."""

from __future__ import annotations

from pathlib import Path

import pytest

from spool.settings.settings import Settings
from targets import MINE


@pytest.fixture
def small(path: Path) -> Settings:
    """Keep a spool of 1 MiB, ten times a second."""
    return Settings(path=path, target=MINE, sync_seconds=0.1, max_bytes=1 << 20)
