"""What a crash left at the path, put in order before the file is opened.

Invariants:

- At every moment of a salvage a crash leaves the damaged file at the path with its WAL, or the
  salvaged one, or no file there and the salvaged one beside it.
- No WAL stands beside another file than its own: SQLite would replay it into that one.

All of it is for the holder of the mutex.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Final

from spool.system import location, spool_files

if TYPE_CHECKING:
    from pathlib import Path

# Only ever complete.
SALVAGED: Final = ".salvaged"
# A fresh file, and a copy of the damaged one: while a salvage lasts.
SALVAGING: Final = ".salvaging"
GRAFTED: Final = ".grafted"


def prepare(path: Path) -> None:
    """Let a file be at the path, whatever a crash left. Raises SpoolFileError, OSError."""
    is_absent = location.check(path) is None
    remove_leftovers(path)
    if is_absent and spool_files.beside(path, SALVAGED).exists():
        put_salvaged_in_place(path)
    elif is_absent:
        _set_aside_orphans(path)
        os.close(spool_files.create(path, path))


def remove_leftovers(path: Path) -> None:
    """Remove the copies of a salvage that was cut short."""
    for suffix in (SALVAGING, GRAFTED):
        spool_files.remove(spool_files.beside(path, suffix))


def put_salvaged_in_place(path: Path) -> None:
    """Finish a salvage, after a crash too: no file is at the path, and a complete one beside.

    Each step is certain before the next.
    """
    spool_files.sync_directory(path.parent)
    for suffix in ("-shm", "-wal"):
        spool_files.beside(path, suffix).unlink(missing_ok=True)
    spool_files.sync_directory(path.parent)
    spool_files.beside(path, SALVAGED).replace(path)
    spool_files.sync_directory(path.parent)


def _set_aside_orphans(path: Path) -> None:
    """Keep the WAL of a main file that is gone."""
    for suffix in ("-wal", "-shm"):
        orphan = spool_files.beside(path, suffix)
        if orphan.exists():
            orphan.rename(spool_files.beside(path, f".orphaned-{time.time_ns()}{suffix}"))
