"""The watch: whether something may have to be done in a spool since it was looked at last.

It looks at the states of a few files, however much waits and however many processes there are.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from spool.errors import SpoolError

if TYPE_CHECKING:
    from spool.delivery.routes import Routes
    from spool.store.store import Store

# So long nothing is looked at at most: the wall clock may have jumped.
_LONGEST: Final = 30.0


class FileWatch:
    """Watches one store and what is known of its routes, for one thread."""

    def __init__(self, store: Store, routes: Routes) -> None:
        self._store = store
        self._routes = routes
        self._seen: object = None
        self._until = 0.0

    def begin(self) -> None:
        """Remember how all stands now, before it is looked at."""
        self._seen = self._state()

    def rest(self, seconds: float) -> None:
        """Note that there is nothing to do for so long, unless something changes."""
        self._until = time.monotonic() + min(seconds, _LONGEST)

    def is_over(self) -> bool:
        """Say whether something has changed, or the time has come."""
        return time.monotonic() >= self._until or self._state() != self._seen

    def _state(self) -> object:
        try:
            return self._store.database.state(), self._routes.credentials_state()
        except SpoolError:
            return object()  # look at it, and say what is wrong
