"""A background thread: it may be started long before it has work, and begins when it is told to.

Invariants:

- Before it has begun it does nothing, and where it never does, it ends at once.
- `begin`, and what wakes it, wait for nothing: a signal handler may call them.
- What it does `safely` never ends it: one that died would be a silent stall. After a defect it
  rests: that may come again at once, and each time after a request.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final, TypeVar

from spool.errors import SpoolError, SpoolNotMadeError
from spool.system.event import SignalSafeEvent
from spool.system.log import LimitedWarning, logger

if TYPE_CHECKING:
    from collections.abc import Callable

_Result = TypeVar("_Result")

_REST_SECONDS: Final = 1.0


class BackgroundThread(ABC):
    """A daemon thread that does its `run`, once, from its beginning until it is `stopping`.

    `trouble` is what is said when the spool does not do its part.
    """

    def __init__(self, name: str, trouble: str) -> None:
        self.stopping = SignalSafeEvent()
        self.warning = LimitedWarning(trouble)
        self._begun = SignalSafeEvent()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @abstractmethod
    def run(self) -> None:
        """Work until it is `stopping`."""

    @abstractmethod
    def wake(self) -> None:
        """Let it look at once whether there is something to do, or to stop."""

    def start(self, *, at_once: bool = True) -> None:
        """Start, to begin `at_once` or when it is told to.

        Raises RuntimeError where no thread is to be had, as during interpreter exit.
        """
        if at_once:
            self.begin()
        self._thread.start()

    def begin(self) -> None:
        """Do from now on what is to be done."""
        self._begun.set()

    def stop(self, timeout: float) -> None:
        """End after the work in hand; wait `timeout` seconds for that."""
        self.stopping.set()
        self.begin()
        self.wake()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def safely(self, work: Callable[[], _Result], *, otherwise: _Result) -> _Result:
        """Do something; where it fails, say so, and give what is given `otherwise`."""
        try:
            return work()
        except SpoolNotMadeError:
            pass  # in a moment it is
        except SpoolError as error:
            self.warning.warn(error)
        except Exception:  # noqa: BLE001 - as the invariants say
            logger.exception("langfuse-spool: a defect in %s; it goes on", self._thread.name)
            self.stopping.wait(_REST_SECONDS)
        return otherwise

    def _run(self) -> None:
        self._begun.wait()
        self.run()
