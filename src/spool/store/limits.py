"""The limits of a spool: how old spans may get, how large it may be, and what room the disk has.

Invariants:

- What waits is limited: live rows, and the journals of all processes together. The file's own size
  never evicts anything.
- The oldest go first: rows before what is in a journal, of which each process lets go its share.
- No wall clock decides on age: everything grows older by the time that somebody has watched it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from spool.store import eviction, ingest, journal_chunks
from spool.store.connections import LARGE_WAL
from spool.system.log import LimitedWarning

if TYPE_CHECKING:
    from collections.abc import Callable

    from spool.settings.settings import Settings
    from spool.store.store import Store

# So exact the age limit is: a span may stay longer by such a share of it.
_LOOKS_AN_AGE: Final = 16


class Limits:
    """The limits of one store, as the settings say. All methods raise SpoolError.

    `look_seconds` is how often an idle spool is to be looked at; None without an age limit.
    """

    def __init__(
        self, store: Store, settings: Settings, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self.look_seconds: float | None = None
        if settings.max_age_seconds is not None:
            self.look_seconds = settings.max_age_seconds / _LOOKS_AN_AGE
        self._store = store
        self._settings = settings
        self._monotonic = monotonic
        self._watched_at = monotonic()
        self._eviction = LimitedWarning("the spool is full, the oldest spans are evicted")
        self._expiry = LimitedWarning("spans older than SPOOL_MAX_AGE_SECONDS are evicted")

    def heed_disk(self) -> None:
        """Accept nothing while the disk is cramped."""
        self._store.is_cramped = False  # also where that cannot be told
        self._store.is_cramped = self._store.database.is_cramped()

    def limit_age(self) -> None:
        """Evict what is too old, if it is time to look again."""
        max_age = self._settings.max_age_seconds
        if max_age is None or self.look_seconds is None:
            return
        now = self._monotonic()
        if now - self._watched_at < self.look_seconds:
            return
        eviction.watch(self._store, now - self._watched_at, now)
        self._watched_at = now
        while evicted := eviction.expire(self._store, max_age, time.time()):
            self._warn(self._expiry, evicted)
            self._store.database.checkpoint(LARGE_WAL)

    def limit_size(self) -> None:
        """Evict the oldest of what is too much, or refuse what is to come."""
        limit, own = self._settings.max_bytes, self._store.journal.unmoved_bytes
        inbound = journal_chunks.inbound_bytes(self._store.database)
        live = self._store.database.live_bytes()
        if self._settings.when_full == "drop-newest":
            self._store.journal.limit = max(0, limit - live - max(0, inbound - own))
            self._store.is_full = live + inbound > limit
            return
        self._store.journal.bound(limit)
        left = max(0, limit - inbound)  # rows are older
        while live > left and (evicted := eviction.evict(self._store, left, time.time())):
            self._warn(self._eviction, evicted)
            self._store.database.checkpoint(LARGE_WAL)
            live = self._store.database.live_bytes()
        if inbound > limit and (evicted := ingest.evict(self._store, own - limit * own / inbound)):
            self._warn(self._eviction, evicted)

    def _warn(self, warning: LimitedWarning, spans: int) -> None:
        warning.warn(f"{spans} spans, {self._store.database.path}")
