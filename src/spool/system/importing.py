"""Imports that come late, perhaps in a background thread: a fork waits for them.

The child of a fork in the middle of one has half a module for ever: it fails, or waits for a thread
that only its parent has.

Invariant: nobody waits longer than `PATIENTLY`, neither a fork nor an import. That is longer than a
fork waits for anything else: from a cold disk an import takes that long, and a child that hangs for
ever is worse. It happens once in a process, with its first failure.
"""

from __future__ import annotations

import contextlib
import os
import threading
from typing import TYPE_CHECKING

from spool.system.locks import PATIENTLY

if TYPE_CHECKING:
    from collections.abc import Iterator

_lock = threading.RLock()
# What this fork has locked.
_held: list[threading.RLock] = []


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Keep forks away while a block imports. Not each other for long: imports may need imports."""
    lock = _lock
    is_had = lock.acquire(timeout=PATIENTLY)
    try:
        yield
    finally:
        if is_had:
            lock.release()


def _before_fork() -> None:
    if _lock.acquire(timeout=PATIENTLY):
        _held.append(_lock)


def _after_in_parent() -> None:
    while _held:
        _held.pop().release()


def _after_in_child() -> None:
    global _lock  # noqa: PLW0603 - another thread of the parent may have it
    _held.clear()
    _lock = threading.RLock()


os.register_at_fork(
    before=_before_fork, after_in_parent=_after_in_parent, after_in_child=_after_in_child
)
