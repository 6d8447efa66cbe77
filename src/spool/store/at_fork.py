"""Forks: no connection to SQLite crosses one, and no fork waits for one longer than `BRIEFLY`."""

from __future__ import annotations

import os
import time
import weakref
from typing import TYPE_CHECKING, Protocol

from spool.system.locks import BRIEFLY

if TYPE_CHECKING:
    from pathlib import Path


class Freezable(Protocol):
    """A use of the file at a path that can be frozen while this process forks."""

    path: Path

    def freeze(self, deadline: float, *, ask_others: bool = True) -> bool:
        """Close what is open and let nobody open it; False where it is in use until `deadline`."""
        ...

    def thaw(self) -> None:
        """End a `freeze`."""
        ...


_known: weakref.WeakSet[Freezable] = weakref.WeakSet()
# Those that this fork has frozen: another thread may make one meanwhile.
_frozen: list[Freezable] = []


def freeze_at_forks(one: Freezable) -> None:
    """Freeze this one before each fork from now on, and thaw it in the parent."""
    _known.add(one)


def _before_fork() -> None:
    deadline = time.monotonic() + BRIEFLY
    for one in sorted(_known, key=id):
        is_ours = any(one.path == frozen.path for frozen in _frozen)
        if one.freeze(deadline, ask_others=not is_ours):
            _frozen.append(one)


def _after_in_parent() -> None:
    while _frozen:
        _frozen.pop().thaw()


os.register_at_fork(
    before=_before_fork, after_in_parent=_after_in_parent, after_in_child=_frozen.clear
)
