"""A disk that takes nothing when `run` starts: it goes on all the same, as nobody may be there.

A box whose disk is full is where its spans should leave; to end would be a loop of restarts.

Invariants:

- What waits in journals is sent once, as it is; rows are the drainer's. A route's backoff holds.
- As soon as the disk takes something the spool is opened, and all goes on as if it had begun then.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from spool.delivery import drain_full_disk
from spool.delivery.instrumentation import hidden_from_instrumentation
from spool.errors import SpoolDamagedError, SpoolUnavailableError
from spool.system.background_thread import BackgroundThread
from spool.system.log import logger

if TYPE_CHECKING:
    from spool.commands.open_spool import OpenSpool
    from spool.store.maintenance_thread import MaintenanceThread

_PAUSE: Final = 2.0


def _tell_nobody() -> None:
    """Show no progress."""


class RefusingDisk(BackgroundThread):
    """Opens the spool, at once or when the disk lets it."""

    def __init__(self, spool: OpenSpool, maintenance: MaintenanceThread) -> None:
        super().__init__("spool-disk", "the disk")
        self._spool = spool
        self._maintenance = maintenance
        self._sent: dict[str, int] = {}

    def open(self) -> None:
        """Open the spool; where the disk refuses, say so, and start to try again.

        Raises SpoolFileError where a person has to correct something else.
        """
        if (refusal := self._try()) is not None:
            logger.warning(
                "langfuse-spool: %s; what waits is sent all the same, as far as it can be read, "
                "and counted when the disk takes that",
                refusal,
            )
            self._maintenance.is_refused = True  # it says when the disk is well
            self._maintenance.wake()
            self.start()

    def wake(self) -> None:
        """Nothing wakes it but the end."""

    def run(self) -> None:
        """Try until it is open, or stopping."""
        with hidden_from_instrumentation():
            while not self.stopping.is_set() and not self.safely(self._go_on, otherwise=False):
                self.stopping.wait(_PAUSE)

    def _go_on(self) -> bool:
        if self._try() is None:
            return True  # maintenance says so
        if self._spool.store.exists():
            drain_full_disk.send_journals(self._spool.drainer, math.inf, _tell_nobody, self._sent)
        return False

    def _try(self) -> SpoolUnavailableError | None:
        """Open the spool, and note where its routes go now; give what the disk has against it."""
        try:
            self._spool.store.open()
            self._spool.salvaging(self._spool.drainer.routes.name_endpoints)
        except SpoolDamagedError:
            raise
        except SpoolUnavailableError as error:
            return error
        return None
