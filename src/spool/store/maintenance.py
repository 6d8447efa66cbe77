"""Maintenance: what keeps a spool well, so that no thread of the application ever does it.

What is in the journal is moved to the file, what the disk had refused is written down, all of it is
synced, the limits are kept, what other processes left is taken over, the WAL is checkpointed and
free pages are given back. When that is done is `maintenance_thread`'s.

Invariants:

- What can be written is synced, whatever else fails.
- What the drainer takes care of stays in the journal, unless it is much.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Final

from spool.journal.overflow import Held
from spool.otlp.batch import ROW_BYTES
from spool.store import ingest
from spool.store.connections import LARGE_WAL
from spool.store.limits import Limits
from spool.store.takeover import Takeover
from spool.system.event import SignalSafeEvent
from spool.system.locks import BRIEFLY, PATIENTLY

if TYPE_CHECKING:
    from collections.abc import Callable

    from spool.journal.overflow import Overflow
    from spool.settings.settings import Settings
    from spool.store.store import Store

# So large a part of the limit is not left to the drainer.
_MUCH_OF_A_SPOOL: Final = 16
# What a checkpoint leaves of the WAL, where the disk may be full of it.
_LITTLE: Final = 64 << 10


class Maintenance:
    """Keeps one store as the settings say; `overflow` is what memory holds for it.

    What takes long ends when it is `stopping`. All methods raise SpoolError.
    """

    def __init__(
        self,
        store: Store,
        settings: Settings,
        overflow: Overflow | None = None,
        *,
        stopping: SignalSafeEvent | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limits = Limits(store, settings, monotonic)
        self._store = store
        self._overflow = overflow
        self._is_gzip = settings.is_gzip
        self._takeover = Takeover(store, settings)
        self._much = min(2 * ROW_BYTES, settings.max_bytes // _MUCH_OF_A_SPOOL)
        self._stopping = SignalSafeEvent() if stopping is None else stopping

    def keep(self) -> None:
        """Do once all that is due."""
        self._store.database.repair()
        try:  # first: what is held in memory may be waiting for room
            self.limits.heed_disk()
            self.limits.limit_age()
            self.limits.limit_size()
        finally:
            self.save()
        self._takeover.look()
        self.limits.limit_size()  # what has come out of the journal counts, too
        self._store.database.checkpoint(LARGE_WAL)
        self._shrink()

    def _shrink(self) -> None:
        """Give free pages back to the filesystem, if there are many."""
        is_smaller = False
        while not self._stopping.is_set() and self._store.database.vacuum():
            is_smaller = True
            self._store.database.checkpoint(LARGE_WAL)
        if is_smaller:
            self._store.database.checkpoint()

    def save(self, *, is_last: bool = False) -> None:
        """Write what is only in memory, move what is in the journal, and sync.

        `is_last`: the process ends. Then the mutex is waited for only briefly: what is in the
        journal is safe.
        """
        try:
            if is_last:
                self._store.journal.leave()
                self._store.journal.served_until = -math.inf
            self.move(BRIEFLY if is_last else math.inf)
        finally:
            try:
                self.write_down(BRIEFLY if is_last else PATIENTLY)
            finally:
                ingest.sync(self._store)

    def move(self, timeout: float = math.inf) -> None:
        """Move what is in the journal, within `timeout` seconds, unless that can wait."""
        journal = self._store.journal
        if time.monotonic() < journal.served_until and (size := journal.unmoved_bytes) < self._much:
            if size:  # should the drainer not come
                self._store.database.written.set()
            return
        if self._store.is_cramped and any(one.pending_spans for one in self._store.routes()):
            return  # what is settled makes room for it
        ingest.ingest(self._store, compress=self._is_gzip, timeout=timeout)

    def relieve(self) -> None:
        """Look to the limit at once: much has come."""
        self.limits.limit_size()
        if self._store.journal.unmoved_bytes:
            self._store.database.written.set()  # to be moved

    def make_room(self) -> None:
        """Give the WAL's space back, where the disk may be full of it."""
        self._store.database.checkpoint(_LITTLE)

    # What is only in memory

    def write_down(self, patience: float) -> None:
        """Write what is only in memory: spans first, then counts."""
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
