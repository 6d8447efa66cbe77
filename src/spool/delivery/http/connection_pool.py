"""The connections that are open and idle: few, and not for long.

Invariants:

- Who uses a connection has taken it: nobody else has it, and what is here is closed at any time.
- Routes of one endpoint share its connection. No more than `_MOST` are kept, those that were used
  last, and none that its server has closed or will not take a request on.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from spool.delivery.http.connection import Connection

if TYPE_CHECKING:
    from collections.abc import Iterable

    from spool.settings.settings import Settings

_MOST: Final = 8


class ConnectionPool:
    """Keeps what requests leave open for those that follow; safe between background threads.

    `sent_bytes` is about how much was sent over any.
    """

    def __init__(self, settings: Settings) -> None:
        self.sent_bytes = 0
        self._settings = settings
        self._idle: dict[str, Connection] = {}  # the one that was used last, last
        self._lock = threading.Lock()

    def take(self, endpoint: str) -> Connection:
        """Give one to an endpoint, open if one is kept that can take a request. Raises OSError."""
        with self._lock:
            kept = self._idle.pop(endpoint, None)
        if kept is not None and kept.is_usable():
            return kept
        if kept is not None:
            kept.close()
        return Connection(endpoint, self._settings, self._note_sent)

    def _note_sent(self, sent: int) -> None:
        self.sent_bytes += sent

    def keep(self, endpoint: str, connection: Connection) -> None:
        """Take back one that could take another request now."""
        connection.keep()
        with self._lock:
            surplus = [self._idle.pop(endpoint, None)]
            self._idle[endpoint] = connection
            if len(self._idle) > _MOST:
                surplus.append(self._idle.pop(next(iter(self._idle))))
        _close(surplus)

    def close_unusable(self) -> None:
        """Close those that were idle for long, or that their servers have closed."""
        with self._lock:
            found = [end for end, connection in self._idle.items() if not connection.is_usable()]
            surplus = [self._idle.pop(endpoint) for endpoint in found]
        _close(surplus)

    def close(self) -> None:
        """Close all that are kept; the next requests open others."""
        with self._lock:
            kept, self._idle = self._idle, {}
        _close(kept.values())


def _close(connections: Iterable[Connection | None]) -> None:
    for connection in connections:
        if connection is not None:
            connection.close()
