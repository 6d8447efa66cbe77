"""The maintenance thread: when what keeps a spool well is done.

It sleeps while nothing is written, but wakes by itself where there is an age limit. What comes
gathers for a moment, is moved, and all that is due is done once an interval; at once where the WAL
has grown. Whatever fails is tried again, and a disk without room is looked at again and again: when
it has some, that is said once.
"""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING, Final

from spool.errors import SpoolDamagedError, SpoolNotMadeError, SpoolUnavailableError
from spool.store.connections import LARGE_WAL
from spool.store.maintenance import Maintenance
from spool.system import disk, metering
from spool.system.background_thread import BackgroundThread
from spool.system.log import LimitedWarning

if TYPE_CHECKING:
    from collections.abc import Callable

    from spool.journal.overflow import Overflow
    from spool.settings.settings import Settings
    from spool.store.store import Store

# So long spans come together in the journal before they are moved.
_GATHER_SECONDS: Final = 0.2
_SHORTEST_INTERVAL: Final = 0.1


class MaintenanceThread(BackgroundThread):
    """Does the `maintenance` of one store.

    `is_refused`: the disk has refused something. That it takes all again is said.
    """

    def __init__(self, store: Store, settings: Settings, overflow: Overflow | None = None) -> None:
        super().__init__("spool-maintenance", "cannot keep the spool file")
        self.maintenance = Maintenance(store, settings, overflow, stopping=self.stopping)
        self._store = store
        self._interval = max(settings.sync_seconds, _SHORTEST_INTERVAL)
        self._gather_seconds = min(_GATHER_SECONDS, self._interval / 2)
        self._look_seconds = self.maintenance.limits.look_seconds
        self._is_owed = False
        self.is_refused = False
        self._well = LimitedWarning(str(store.database.path))
        self._kept_at = -self._interval

    def wake(self) -> None:
        """Look at once whether there is something to do."""
        self._store.database.written.set()
        self._store.database.is_wal_large.set()

    def run(self) -> None:
        """Do what is due, until it is stopping."""
        while not self.stopping.is_set():
            metering.look()
            work = functools.partial(self._do, self._wait())
            if not (self.stopping.is_set() or self.safely(work, otherwise=False)):
                self.safely(self.maintenance.make_room, otherwise=None)
                self._store.database.written.set()  # it is still to be done
                self.stopping.wait(self._interval)

    def _wait(self) -> Callable[[], None]:
        """Sleep until there is something to do; give what it is."""
        database, journal = self._store.database, self._store.journal
        rest = self._kept_at + self._interval - time.monotonic()
        if database.written.wait(max(0.0, rest) if self._is_owed else self._look_seconds):
            database.is_wal_large.wait(self._gather_seconds)
        rest = self._kept_at + self._interval - time.monotonic()
        # A journal that is crowded is soon seen to; a WAL takes long.
        is_large = database.is_wal_large.is_set() and not journal.is_crowded
        database.written.clear()
        database.is_wal_large.clear()
        is_crowded, journal.is_crowded = journal.is_crowded, False
        self._is_owed = rest >= self._gather_seconds and not is_large
        if not self._is_owed:
            return self._keep
        return self.maintenance.relieve if is_crowded else self.maintenance.move

    def _do(self, work: Callable[[], None]) -> bool:
        """Do something; say it when the disk takes what it has refused before."""
        try:
            work()
        except (SpoolDamagedError, SpoolNotMadeError):
            raise
        except SpoolUnavailableError:
            self.is_refused = True
            raise
        self.is_refused |= self._store.is_cramped
        if self.is_refused:
            self._look_again(is_kept=work == self._keep)
        return True

    def _look_again(self, *, is_kept: bool) -> None:
        if is_kept and self._is_disk_well():
            self.is_refused = False
            self._well.warn("the disk takes spans again")
            return
        self._store.database.written.set()
        if is_kept:
            self.stopping.wait(self._interval)

    def _is_disk_well(self) -> bool:
        return not self._store.is_cramped and disk.refusal(self._store.database.path) is None

    def _keep(self) -> None:
        self._kept_at = time.monotonic()
        self.maintenance.keep()
        if self._store.database.wal_bytes() > LARGE_WAL:  # a reader needs it: do not insist
            self.stopping.wait(self._interval)
