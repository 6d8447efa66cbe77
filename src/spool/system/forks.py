"""Forks: what each process has for itself, and must not share with the child of a fork.

Invariants:

- A child begins anew at its first use, whether the fork ran Python's handlers or not (uWSGI forks
  in C): so no lock that another thread of the parent held is ever waited for.
- What was the parent's is let go of once, by one thread.
- A child is another process also where it has its parent's number, as the first of a new namespace
  of processes may (pid_namespaces(7)).
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
_forks = 0  # that Python made, from the first process to this one


def own_id() -> int:
    """Give what tells this process from its parents."""
    return os.getpid() | _forks << 64


class PerProcess(Generic[_State]):
    """Gives each process a state of its own: `begin` makes one, `abandon` lets go of a parent's.

    `abandon` must not unlock or finish anything: that is the parent's to do.
    """

    def __init__(self, begin: Callable[[], _State], abandon: Callable[[_State], None]) -> None:
        self._begin = begin
        self._abandon = abandon
        self._states = {own_id(): begin()}
        _everything.add(self)

    def get(self) -> _State:
        """Give this process's state."""
        state = self._states.get(own_id())
        return self._start_over() if state is None else state

    def _start_over(self) -> _State:
        # Several threads may come here at once, without a lock: each step is one for all of them.
        own = own_id()
        state = self._states.setdefault(own, self._begin())
        for one in list(self._states):
            if one != own and (inherited := self._states.pop(one, None)) is not None:
                self._abandon(inherited)
        return state


_everything: Final[weakref.WeakSet[PerProcess[Any]]] = weakref.WeakSet()


def will_fork() -> bool:
    """Say whether this process is uWSGI's, which has still to fork its workers."""
    uwsgi: Any = sys.modules.get("uwsgi")  # its own module, which nobody else can have
    return hasattr(uwsgi, "worker_id") and not (uwsgi.worker_id() or uwsgi.mule_id())


def _start_over() -> None:
    global _forks  # noqa: PLW0603 - once in a process
    _forks += 1
    for one in list(_everything):
        one.get()


os.register_at_fork(after_in_child=_start_over)
