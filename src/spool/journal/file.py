"""One file of a journal: how it is made, appended to, and told from what stands in its place.

Invariants:

- One process appends to a file, and holds its lock as long as it lives: who can take the lock knows
  that the process is dead.
- An append waits for no other: one write to a file opened with O_APPEND is atomic between threads.
  It pins its file meanwhile, and a file is final, so that it may be closed, only when it was left
  and is not pinned.
- A name is never used twice, and a file only grows.
- What was refused may have left half a frame: nothing is appended behind it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from spool.errors import SpoolUnsyncedError
from spool.journal import header, reader
from spool.journal.group_commit import GroupCommit
from spool.settings.durability import Durability
from spool.system import disk, spool_files
from spool.system.locks import can_lock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from spool.journal.chunk import Chunk

# What stands behind the spool's name: `.inbox-<pid>-<12 hex digits>`.
SUFFIX: Final = ".inbox-"

_RANDOM_BYTES: Final = 6
_TRIES: Final = 3
_CLOSED: Final = -1


@dataclass(eq=False, repr=False, slots=True)
class File:
    """An open file: `moved` is how much of it the store has, `room` how much may still come.

    `is_left`: no append to it begins any more; `pins` are those that have begun. Each is fsynced by
    `group_commit`, where there is one. This process's own is moved even if somebody has removed it
    meanwhile: what was moved of it is known here. Of others only the store knows that, and it
    forgets those that are gone.
    """

    path: Path
    fd: int
    moved: int = 0
    room: int = 0
    is_own: bool = True
    is_left: bool = False
    pins: set[object] = field(default_factory=set)
    group_commit: GroupCommit | None = None

    def __repr__(self) -> str:
        """Tell its name, its state, and what of it was moved."""
        if self.is_closed:
            return f"<{self.path.name}: closed>"
        state = "final" if self.is_final else "left" if self.is_left else "open"
        return f"<{self.path.name}: {state}, {self.moved} of {self.size} bytes moved>"

    @property
    def is_final(self) -> bool:
        """Say whether nobody appends to it any more."""
        return self.is_left and not self.pins  # in this order: a pin is put before that is read

    @property
    def is_closed(self) -> bool:
        """Say whether it was let go of: in the child of a fork, also in the middle of an append."""
        return self.fd == _CLOSED

    @property
    def size(self) -> int:
        """Tell how large it is. Raises OSError."""
        return os.fstat(self.fd).st_size

    @property
    def unmoved_bytes(self) -> int:
        """Tell how much waits to be moved. Raises OSError."""
        return max(0, self.size - self.moved)

    def takes_more(self) -> bool:
        """Say whether an append may begin."""
        return not self.is_left and self.room > 0

    def append(self, frame: tuple[bytes, bytes]) -> None:
        """Write a frame at the end. Only for who has a pin. Raises OSError, SpoolUnsyncedError."""
        try:
            size = len(frame[0]) + len(frame[1])
            self.room -= size
            if os.writev(self.fd, frame) != size:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # noqa: TRY301 - as write itself would
            if self.group_commit is not None:
                self._sync_append(self.group_commit)
        except OSError:
            self.is_left = True  # its end may be half a frame
            raise

    def _sync_append(self, group_commit: GroupCommit) -> None:
        try:
            group_commit.sync(self.fd)
        except OSError as error:
            if self.is_closed:
                raise
            raise SpoolUnsyncedError(f"{self.path}: cannot be synced: {error.strerror}") from error

    def unmoved(self) -> Iterator[Chunk]:
        """Give what it holds that was not moved. Raises OSError."""
        offset = self.moved
        while (chunk := reader.read(self.fd, offset)) is not None:
            yield chunk
            offset = chunk.end

    def begins_at(self, salt: bytes) -> int:
        """Tell from where on it is for the database with this salt: others had what is before.

        Raises OSError.
        """
        return header.begins_at(self.fd, salt)

    def write_header(self, salt: bytes, moved: int) -> None:
        """Tell other databases that the one with this salt has it up to an offset.

        Only for the holder of the mutex.
        """
        # Where it was removed nobody else will look for it; and what could not be written is only
        # moved again where the database, too, is moved away.
        with contextlib.suppress(OSError):
            begun = self.begins_at(salt)
            if begun >= header.SIZE:  # else it has none
                spool_files.overwrite_head(self.path, self.fd, header.make(salt, begun, moved))

    def is_at_path(self) -> bool:
        """Say whether it is still what stands at its path. Raises OSError."""
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(self.fd))
        except (FileNotFoundError, NotADirectoryError):
            return False

    def is_gone(self) -> bool:
        """Say whether it is elsewhere now, or another process's and was removed. Raises OSError."""
        is_removed = os.fstat(self.fd).st_nlink == 0
        return not self.is_own if is_removed else not self.is_at_path()

    def close(self) -> None:
        """Let go of it, and of its lock where no other process has inherited it."""
        fd, self.fd = self.fd, _CLOSED
        os.close(fd)


def make(spool: Path, create: Callable[[Path], int], durability: Durability, largest: int) -> File:
    """Make a file of this process's, locked and with its header; `largest` is its room at most.

    Raises OSError, SpoolFileError.
    """
    for _ in range(_TRIES):
        name = f"{SUFFIX}{os.getpid()}-{os.urandom(_RANDOM_BYTES).hex()}"
        path = spool_files.beside(spool, name)
        fd = create(path)
        try:
            # Another process may have found it before it was locked, and taken it for a dead one's.
            if can_lock(fd) and os.fstat(fd).st_nlink:
                room = min(_begin(spool, path, fd), largest)
                file = File(path, fd, moved=header.SIZE, room=room)
                if durability is Durability.POWER_CUT:
                    spool_files.sync_directory(spool.parent)
                    file.group_commit = GroupCommit()
                return file
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN), path)


def _begin(spool: Path, path: Path, fd: int) -> int:
    """Write the header of a new file; give the bytes that the disk has room for."""
    room = disk.room(fd)
    if room <= 0:
        path.unlink()
        raise disk.almost_full(spool)
    try:
        spool_files.write_head(fd, header.NEW)
    except OSError:
        path.unlink()
        raise
    fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND)
    return room
