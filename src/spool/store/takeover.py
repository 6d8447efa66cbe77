"""The neighbours: when somebody looks after what other processes have left in their journals.

Invariants:

- However many processes drain, one looks at a time: whoever is first when a pause is over. When
  that was last, the change time of the file tells that all of them hold while they drain.
- Nothing tells of a death but the dead one's lock: so somebody looks again and again, at those with
  something to be moved, and rarely at all. It takes a small part of the time at most.
- What they left can wait: no trouble with it keeps anything else back.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, Final

from spool.errors import SpoolError
from spool.store import ingest
from spool.system.locks import BRIEFLY
from spool.system.log import LimitedWarnings

if TYPE_CHECKING:
    from spool.settings.settings import Settings
    from spool.store.store import Store

_PAUSE: Final = 1.0
# To look takes at most one part of the time in so many.
_SHARE: Final = 50
# So often, in seconds, those with nothing in them are looked at, too: a dead one's goes.
_SWEEP: Final = 60.0


class Takeover:
    """Looks after the other processes of one store, for one thread."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._settings = settings
        self._pause = 0.0  # who begins looks at once: perhaps it does not live for long
        self._swept_at = -_SWEEP
        self._warnings = LimitedWarnings()

    def look(self) -> None:
        """Move what dead and stopped ones left, unless somebody has just looked."""
        if not self._is_time():
            return
        started = time.monotonic()
        is_sweep = started - self._swept_at >= _SWEEP
        try:
            is_done = ingest.ingest_others(
                self._store,
                compress=self._settings.is_gzip,
                sending=self._settings.timeout_seconds,
                only_unmoved=not is_sweep,
                timeout=BRIEFLY,
            )
        except SpoolError as error:  # what is in the file can be sent all the same
            self._warnings.warn("journals of other processes", error)
            return
        for path, why in self._store.unreadable.items():
            self._warnings.warn(f"{path} is passed over", why)
        if is_sweep and is_done:
            self._swept_at = started
        # What there was no time for comes next; others may be faster.
        self._pause = max(_PAUSE, _SHARE * (time.monotonic() - started)) if is_done else 0.0

    def _is_time(self) -> bool:
        looked_at = self._store.presence.path
        with contextlib.suppress(OSError):  # nobody drains, or the disk is read-only
            if abs(time.time() - os.stat(looked_at).st_mtime) < self._pause:
                return False
            os.utime(looked_at)
        return True
