"""The first comer: of all processes that would do something, the one that came first does it.

Invariants:

- It does so until it gives that up or dies; then the next one that asks does.
- Nobody waits: neither for another process, nor for another thread.
- The child of a fork closes what it inherited without unlocking: its parent's turn goes on.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from spool.system.forks import PerProcess
from spool.system.locks import can_lock

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


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
            fd = self._create(self.path)
            if not can_lock(fd) or held.fd is not None:  # another one, or another thread of ours
                os.close(fd)
            else:
                held.fd = fd
        return held.fd is not None

    def close(self) -> None:
        """Let the next one be it."""
        self._own.get().close()

    def _is_at_path(self, fd: int) -> bool:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return os.path.samestat(os.stat(self.path), os.fstat(fd))
        return False
