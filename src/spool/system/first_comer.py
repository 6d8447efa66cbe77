"""The first comer: of all processes that would do something, the one that came first does it.

Invariants:

- It does so until it gives that up, dies, or has not asked for `LAPSE_SECONDS`; then the next one
  that asks does; the last time the one after that, since the first takes the file away.
- Nobody waits: neither for another process, nor for another thread.
- The child of a fork closes what it inherited without unlocking: its parent's turn goes on.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from spool.system.forks import PerProcess
from spool.system.locks import can_lock

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# Longer than any reader of metrics rests.
LAPSE_SECONDS: Final = 300.0


@dataclass(slots=True)
class _Held:
    """The locked file, as one process has it open."""

    fd: int | None = None

    def close(self) -> None:
        if self.fd is not None:
            fd, self.fd = self.fd, None
            os.close(fd)


class FirstComer:
    """A lock on one file, taken by whoever asks first, for as long as its process lives.

    `create` opens the lock file for reading and writing, and creates it where it is absent.
    """

    def __init__(self, path: Path, create: Callable[[Path], int]) -> None:
        self.path = path
        self._create = create
        self._own = PerProcess(_Held, _Held.close)

    def is_us(self) -> bool:
        """Say whether this process is the one. Raises SpoolFileError, OSError."""
        held = self._own.get()
        if held.fd is not None and not self._is_at_path(held.fd):
            held.close()
        if held.fd is None:
            self._try(held)
        if (fd := held.fd) is None:
            return False
        os.utime(fd)  # we have asked
        return True

    def _try(self, held: _Held) -> None:
        fd = self._create(self.path)
        if can_lock(fd) and held.fd is None:  # neither another one's, nor another thread's of ours
            held.fd = fd
            return
        if time.time() - os.fstat(fd).st_mtime > LAPSE_SECONDS and self._is_at_path(fd):
            self.path.unlink(missing_ok=True)
        os.close(fd)

    def close(self) -> None:
        """Let the next one be it."""
        self._own.get().close()

    def _is_at_path(self, fd: int) -> bool:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return os.path.samestat(os.stat(self.path), os.fstat(fd))
        return False
