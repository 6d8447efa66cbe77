"""What one process has open of its journal."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from spool.system.locks import ThreadLock

if TYPE_CHECKING:
    from spool.journal.file import File


@dataclass(slots=True)
class OwnFiles:
    """What a process has open: `current` takes what comes, the others are to be moved.

    Of those that are `claimed` the oldest spans are being sent. They stay open until that is over,
    also when the others are closed. `moving` is held by the thread that uses the files in any other
    way than to append, `lock` for moments only, where a file comes or goes.
    """

    moving: ThreadLock = field(default_factory=ThreadLock)
    lock: threading.RLock = field(default_factory=threading.RLock)
    # In the order they came. A signal handler may add one: who goes through it takes a copy.
    open: dict[File, None] = field(default_factory=dict)
    current: File | None = None
    claimed: list[File] = field(default_factory=list)

    def abandon(self) -> None:
        """Let go of all without unlocking it, in the child of a fork."""
        for file in {*self.open, *self.claimed}:
            # A signal handler may have forked in the middle of an append.
            file.is_left = True
            file.close()

    def unmoved_bytes(self) -> int:
        """Tell how much waits to be moved. Raises OSError."""
        return sum(file.unmoved_bytes for file in list(self.open))

    def remove(self, file: File) -> None:
        """Let go of one."""
        del self.open[file]
        file.close()
