from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from owners import STRANGER


@pytest.fixture
def shared_directory() -> Iterator[Path]:
    """A directory where every user may make files; tmp_path's parents are closed to others."""
    directory = Path(tempfile.mkdtemp())
    directory.chmod(0o1777)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def strangers_directory(shared_directory: Path) -> Path:
    """A directory of another user's, who alone may write in it."""
    shared_directory.chmod(0o755)
    os.chown(shared_directory, STRANGER, STRANGER)
    return shared_directory
