"""Forks: what each process has for itself, and must not share with the child of a fork.

Invariants:

- A child begins anew at its first use, whether the fork ran Python's handlers or not (uWSGI forks
  in C): so no lock that another thread of the parent held is ever waited for.
- What was the parent's is let go of once, by one thread.
- No thread is begun in a process that uWSGI has still to fork: it does that without Python's own
  lock, and a worker whose parent had another thread run Python just then waits for that for ever.
  (So does the child of any fork in C beside a thread that waits for Python's own lock: no code of
  ours comes to run there.)
"""

from __future__ import annotations

import os
import sys
import weakref
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_State = TypeVar("_State")


class PerProcess(Generic[_State]):
    """Gives each process a state of its own: `begin` makes one, `abandon` lets go of a parent's.

    `abandon` must not unlock or finish anything: that is the parent's to do.
    """

    def __init__(self, begin: Callable[[], _State], abandon: Callable[[_State], None]) -> None:
        self._begin = begin
        self._abandon = abandon
        self._states = {os.getpid(): begin()}
        _everything.add(self)

    def get(self) -> _State:
        """Give this process's state."""
        state = self._states.get(os.getpid())
        return self._start_over() if state is None else state

    def _start_over(self) -> _State:
        # Several threads may come here at once, without a lock: each step is one for all of them.
        own = os.getpid()
        state = self._states.setdefault(own, self._begin())
        for pid in list(self._states):
            if pid != own and (inherited := self._states.pop(pid, None)) is not None:
                self._abandon(inherited)
        return state


_everything: Final[weakref.WeakSet[PerProcess[Any]]] = weakref.WeakSet()


def will_fork() -> bool:
    """Say whether this process is uWSGI's, which has still to fork its workers."""
    uwsgi: Any = sys.modules.get("uwsgi")  # its own module, which nobody else can have
    return hasattr(uwsgi, "worker_id") and not (uwsgi.worker_id() or uwsgi.mule_id())


def _start_over() -> None:
    for one in list(_everything):
        one.get()


os.register_at_fork(after_in_child=_start_over)
