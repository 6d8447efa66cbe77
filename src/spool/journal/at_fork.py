"""What a fork waits for, and what its child closes, that concerns journals.

Invariants:

- A child never inherits a file that only the thread that makes it knows of: the fork waits, but
  briefly, until it is in the list. What is there the child lets go of (`OwnFiles.abandon`).
- A child keeps no other process's file open: the lock that was taken on it would live on.
"""

from __future__ import annotations

import os
import weakref
from typing import TYPE_CHECKING, Final

from spool.system.locks import BRIEFLY

if TYPE_CHECKING:
    import threading

    from spool.journal.own_files import OwnFiles
    from spool.system.forks import PerProcess

# What the journals of this process have open.
journals: Final[weakref.WeakSet[PerProcess[OwnFiles]]] = weakref.WeakSet()

# Others' files, open in this process.
borrowed: Final[set[int]] = set()

# What this fork has locked: another thread may make a journal meanwhile.
_locked: Final[list[threading.RLock]] = []


def _before_fork() -> None:
    for files in sorted(journals, key=id):
        lock = files.get().lock
        if lock.acquire(timeout=BRIEFLY):
            _locked.append(lock)


def _after_in_parent() -> None:
    while _locked:
        _locked.pop().release()


def _after_in_child() -> None:
    _locked.clear()
    while borrowed:
        os.close(borrowed.pop())


os.register_at_fork(
    before=_before_fork, after_in_parent=_after_in_parent, after_in_child=_after_in_child
)
