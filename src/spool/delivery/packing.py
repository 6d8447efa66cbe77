"""Packing: while a route cannot be sent there is time to make few large rows of its many.

Invariants:

- Only the holder of the route's drain lock packs it.
- What was read in vain is not read again before there is somewhat more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from spool.otlp.batch import ROW_BYTES
from spool.store import row_packing

if TYPE_CHECKING:
    from spool.settings.settings import Settings
    from spool.store.records import Route
    from spool.store.store import Store

_ROWS_BETWEEN_PACKS: Final = 64


class Packer:
    """Packs the rows of one store."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._max_bytes = min(ROW_BYTES, settings.max_request_bytes)
        self._sending = settings.timeout_seconds
        self._unpacked: dict[str, int] = {}

    def is_worthwhile(self, route: Route) -> bool:
        """Say whether more rows wait than could not be packed the last time."""
        return route.pending_batches > self._unpacked.get(route.name, 1)

    def look_again(self, route: str) -> None:
        """Note that rows of a route go: how many could not be packed says nothing any more."""
        self._unpacked.pop(route, None)

    def pack(self, route: Route) -> bool:
        """Make one row of some; say whether there may be more to pack. Raises SpoolError."""
        lock = self._store.lock_of(route)
        with lock.take(self._sending) as is_had:
            fresh = self._store.route(route.id) if is_had else None
            if fresh is None or self._store.lock_of(fresh) is not lock:
                return False
            is_packed = row_packing.pack(self._store.database, route.id, self._max_bytes)
        if not is_packed:  # all that is not packed was read for this
            self._unpacked[route.name] = route.pending_batches + _ROWS_BETWEEN_PACKS
        return is_packed
