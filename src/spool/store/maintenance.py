"""Maintenance: a thread that brings spans from the journal to the file, and looks after both.

It sleeps while nothing is written. Otherwise it moves what has come together and is not sent at
once, syncs once an interval, checkpoints when the WAL has grown, and gives free pages back, so that
no thread of the application ever does. What the disk had refused it writes as soon as that works.
Where there is an age limit it wakes by itself, and lets everything grow older by the time that it
has watched.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Final

from spool.errors import SpoolError
from spool.journal.overflow import Held
from spool.otlp.batch import ROW_BYTES
from spool.store import ingest
from spool.store.connections import LARGE_WAL
from spool.store.takeover import Takeover
from spool.system.background_thread import BackgroundThread
from spool.system.locks import BRIEFLY, PATIENTLY
from spool.system.log import LimitedWarning, logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from spool.journal.overflow import Overflow
    from spool.settings.settings import Settings
    from spool.store.store import Store

# So long spans come together in the journal before they are moved.
_GATHER_SECONDS: Final = 0.2
# So large a part of the limit is not left to the drainer.
_MUCH_OF_A_SPOOL: Final = 16
_SHORTEST_INTERVAL: Final = 0.1
# What a checkpoint leaves of the WAL.
_LITTLE: Final = 64 << 10
# So exact the age limit is: a span may stay longer by such a share of it.
_LOOKS_AN_AGE: Final = 16


class Maintenance(BackgroundThread):
    """Keeps one store as the settings say: the sync interval, and the limit of its size."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        overflow: Overflow | None = None,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__("spool-maintenance")
        self._store = store
        self._overflow = overflow
        self._settings = settings
        self._takeover = Takeover(store, settings)
        self._interval = max(settings.sync_seconds, _SHORTEST_INTERVAL)
        self._gather_seconds = min(_GATHER_SECONDS, self._interval / 2)
        self._much = min(2 * ROW_BYTES, settings.max_bytes // _MUCH_OF_A_SPOOL)
        self._is_owed = False
        self._kept_at = -self._interval
        self._monotonic = monotonic
        self._watched_at = monotonic()
        self._look_seconds = None
        if settings.max_age_seconds is not None:
            self._look_seconds = settings.max_age_seconds / _LOOKS_AN_AGE
        self._eviction = LimitedWarning("the spool is full, the oldest spans are evicted")
        self._expiry = LimitedWarning("spans older than SPOOL_MAX_AGE_SECONDS are evicted")
        self._warning = LimitedWarning("cannot keep the spool file")

    def wake(self) -> None:
        """Look at once whether there is something to do."""
        self._store.database.written.set()
        self._store.database.is_wal_large.set()

    def keep(self) -> None:
        """Do once what is due. Raises SpoolError."""
        self._kept_at = time.monotonic()
        self._store.database.repair()
        try:  # first: what is held in memory may be waiting for room
            self._heed_disk()
            self._limit_age()
            self._limit_size()
        finally:
            self.save()
        self._takeover.look()
        self._limit_size()  # what has come out of the journal counts, too
        self._store.database.checkpoint(LARGE_WAL)
        if self._store.database.wal_bytes() > LARGE_WAL:  # a reader needs it: do not insist
            self.stopping.wait(self._interval)
        self._shrink()

    def _heed_disk(self) -> None:
        self._store.is_cramped = False  # also where that cannot be told
        self._store.is_cramped = self._store.database.is_cramped()

    def _shrink(self) -> None:
        """Give free pages back to the filesystem, if there are many."""
        is_smaller = False
        while not self.stopping.is_set() and self._store.database.vacuum():
            is_smaller = True
            self._store.database.checkpoint(LARGE_WAL)
        if is_smaller:
            self._store.database.checkpoint()

    def save(self, *, is_last: bool = False) -> None:
        """Write what is only in memory, move what is in the journal, and sync. Raises SpoolError.

        `is_last`: the process ends. Then the mutex is waited for only briefly: what is in the
        journal is safe.
        """
        try:
            if is_last:
                self._store.journal.leave()
                self._store.journal.served_until = -math.inf
            self._move(BRIEFLY if is_last else math.inf)
        finally:
            try:
                self.write_down(BRIEFLY if is_last else PATIENTLY)
            finally:
                ingest.sync(self._store)

    def write_down(self, patience: float) -> None:
        """Write what is only in memory: spans first, then counts. Raises SpoolError."""
        try:
            while self._overflow is not None and self._write_one_down(self._overflow, patience):
                pass
        finally:  # counts find room where spans do not
            if self._overflow is not None:
                self._credit(self._overflow, patience)
            self._store.count_refused(time.time(), patience)

    def _write_one_down(self, overflow: Overflow, patience: float) -> bool:
        with overflow.moving:  # shutdown saves too, perhaps while the thread still does
            held = overflow.oldest(ROW_BYTES)
            if held:  # a full file may have free pages where the disk has none
                self._store.record(Held.joined(held), patience)
            for one in held:
                overflow.forget(one)
        return bool(held)

    def _credit(self, overflow: Overflow, patience: float) -> None:
        with overflow.moving:
            for target, spans in overflow.delivered():
                self._store.credit(target, spans, patience)
                overflow.credited(target, spans)

    def _move(self, timeout: float = math.inf) -> None:
        journal = self._store.journal
        if time.monotonic() < journal.served_until and (size := journal.unmoved_bytes) < self._much:
            if size:  # should the drainer not come
                self._store.database.written.set()
            return
        if self._store.is_cramped and any(one.pending_spans for one in self._store.routes()):
            return  # what is settled makes room for it
        ingest.ingest(self._store, compress=self._settings.is_gzip, timeout=timeout)

    def _limit_age(self) -> None:
        max_age = self._settings.max_age_seconds
        if max_age is None or self._look_seconds is None:
            return
        now = self._monotonic()
        if now - self._watched_at < self._look_seconds:
            return
        self._store.watch(now - self._watched_at, now)
        self._watched_at = now
        while evicted := self._store.expire(max_age, time.time()):
            self._expiry.warn(f"{evicted} spans, {self._store.database.path}")
            self._store.database.checkpoint(LARGE_WAL)

    def _limit_size(self) -> None:
        """Keep what waits under the limit: live data and the journals of all processes together.

        The file's own size never evicts anything.
        """
        limit, own = self._settings.max_bytes, self._store.journal.unmoved_bytes
        inbound, live = self._store.inbound_bytes(), self._store.database.live_bytes()
        if self._settings.when_full == "drop-newest":
            self._store.journal.limit = max(0, limit - live - max(0, inbound - own))
            self._store.is_full = live + inbound > limit
            return
        self._store.journal.bound(limit)
        left = max(0, limit - inbound)  # rows are older
        while live > left and (evicted := self._store.evict(left, time.time())):
            self._say_evicted(evicted)
            self._store.database.checkpoint(LARGE_WAL)
            live = self._store.database.live_bytes()
        if inbound > limit:  # each process lets go its share
            self._say_evicted(ingest.evict(self._store, own - limit * own / inbound))

    def _relieve(self) -> None:
        """Look to the limit at once: much has come."""
        self._limit_size()
        if self._store.journal.unmoved_bytes:
            self._store.database.written.set()  # to be moved

    def _say_evicted(self, spans: int) -> None:
        if spans:
            self._eviction.warn(f"{spans} spans, {self._store.database.path}")

    def _make_room(self) -> None:
        """Give the WAL's space back, where the disk may be full of it."""
        self._store.database.checkpoint(_LITTLE)

    def run(self) -> None:
        """Do what is due, until it is stopping."""
        while not self.stopping.is_set():
            is_due = self._wait()
            is_crowded, self._store.journal.is_crowded = self._store.journal.is_crowded, False
            if self.stopping.is_set():
                return
            self._is_owed = not is_due
            work = self.keep if is_due else self._relieve if is_crowded else self._move
            if not self._safely(work):
                self._safely(self._make_room)
                self._store.database.written.set()  # it is still to be done
                self.stopping.wait(self._interval)

    def _wait(self) -> bool:
        """Sleep until there is something to do; say whether that is more than to move spans."""
        database = self._store.database
        rest = self._kept_at + self._interval - time.monotonic()
        if database.written.wait(max(0.0, rest) if self._is_owed else self._look_seconds):
            database.is_wal_large.wait(self._gather_seconds)
        rest = self._kept_at + self._interval - time.monotonic()
        is_crowded = self._store.journal.is_crowded  # that is soon seen to; a WAL takes long
        is_large = database.is_wal_large.is_set() and not is_crowded
        is_due = rest < self._gather_seconds or is_large
        database.written.clear()
        database.is_wal_large.clear()
        return is_due

    def _safely(self, work: Callable[[], None]) -> bool:
        """Do something, and say whether it was done."""
        try:
            work()
        except SpoolError as error:
            self._warning.warn(error)
        except Exception:  # noqa: BLE001 - one that died would go unseen
            logger.exception("langfuse-spool: a defect in maintenance; it goes on")
        else:
            return True
        return False
