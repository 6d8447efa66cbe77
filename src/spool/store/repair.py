"""Repair: a damaged file is moved aside with its WAL, and what can be read of it comes back.

Invariants:

- A damaged file is kept aside with its WAL before anything else is done about it.
- The salvaged one comes to the path only when it is complete and certain on disk; how that is
  finished after a crash is `recovery`'s.
- A file that another process has put in place of the damaged one meanwhile is left alone.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from typing import TYPE_CHECKING

from spool.store import recovery
from spool.store.sqlite import connect
from spool.system import spool_files
from spool.system.importing import importing
from spool.system.log import logger

if TYPE_CHECKING:
    from spool.store.connections import Connections, Inode


class Repair:
    """Repairs the file that these connections are to."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._damaged: Inode = None

    @property
    def is_due(self) -> bool:
        """Whether a use of the file found that it is damaged."""
        return self._damaged is not None

    def note_damage(self) -> None:
        """Note that the file that was at the path just now is damaged."""
        self._damaged = self._connections.main

    def run(self) -> None:
        """Salvage the file if it is known to be damaged, or cannot be opened for that.

        Only for the holder of the mutex. Raises SpoolFileError, OSError, sqlite3.Error.
        """
        if self._damaged not in (None, self._connections.inodes()[0]):
            self._connections.leak()
            self._damaged = None
        try:
            if self._damaged is None:
                self._connections.writer()
                return
        except UnicodeDecodeError:  # SQLite quotes damaged bytes in its own message
            pass
        except sqlite3.DatabaseError as error:
            # SQLite's corruption codes have no class of their own; all else has.
            if type(error) is not sqlite3.DatabaseError:
                raise
        self._connections.leak()
        self._salvage()
        self._damaged = None

    def _salvage(self) -> None:
        with importing():
            from spool.store import salvage  # noqa: PLC0415 - rarely needed

        path, wal = self._connections.path, self._connections.wal
        aside = spool_files.beside(path, f".corrupt-{time.time_ns()}")
        growing = spool_files.beside(path, recovery.SALVAGING)
        os.link(path, aside)
        if wal.exists():
            os.link(wal, spool_files.beside(aside, "-wal"))
        recovery.remove_leftovers(path)
        os.close(spool_files.create(growing, path))
        with contextlib.closing(connect(growing, "rw")) as sqlite:
            self._connections.set_up(sqlite)
            grafted = spool_files.beside(path, recovery.GRAFTED)
            salvaged = salvage.salvage(aside, growing, sqlite, grafted)
        growing.rename(spool_files.beside(path, recovery.SALVAGED))
        spool_files.sync_directory(path.parent)
        logger.error(
            "langfuse-spool: %s was damaged and was moved to %s; %d spans were rescued, "
            "%d are known to be lost",
            path,
            aside,
            salvaged.rescued,
            salvaged.lost,
        )
        path.unlink()
        recovery.put_salvaged_in_place(path)
