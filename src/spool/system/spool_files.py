"""The files of a spool: how they are named, created, opened, overwritten and made durable.

Invariants:

- Files are 0600 from their first moment.
- None is open as standard input, output or error, where these were closed: who puts something else
  in their place, as daemons do, would take a lock from under us.
- All files of a spool belong to its owner: to us, or where we are root to whom the spool file
  belongs, and before there is one its directory. Root hands what it creates to that owner.
- What is opened is looked at after the opening, which waits for nothing: only a regular file of the
  spool's owner is used. Anything else at its path is somebody else's.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
from typing import TYPE_CHECKING, Final

from spool.errors import SpoolStrangerError

if TYPE_CHECKING:
    from pathlib import Path

_SAFELY: Final = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_STANDARD: Final = 2  # the last of the descriptors that every program has
SQLITES: Final = ("-wal", "-shm", "-journal")
# What a salvage makes, see `store.recovery`.
SALVAGES: Final = (".salvaged", ".salvaging", ".grafted")
# What who meets the files of another user is to do.
ONE_USER: Final = (
    "run as its owner, since application and drainer must be one user (files are 0600), or set "
    "SPOOL_PATH to another file"
)
# What else we open beside the main file.
_OTHERS: Final = (
    r"(\.probe)?\.(turn|deputy)|\.(lock|reporter|drainer|(drainer|inbox)-\d+-[0-9a-f]{12})"
)


def beside(path: Path, suffix: str) -> Path:
    """Name a file of the spool that stands beside its main file."""
    return path.with_name(path.name + suffix)


def owner_of(spool: Path) -> tuple[int, int]:
    """Tell to which user and group a spool's files belong. Raises OSError."""
    if os.geteuid() != 0:
        return os.geteuid(), os.getegid()
    try:
        status = os.lstat(spool)
    except FileNotFoundError:
        status = os.stat(spool.parent)
    return status.st_uid, status.st_gid


def strangeness(status: os.stat_result, owner: int) -> str:
    """Say why a file is none of a spool's; nothing where it may be."""
    if stat.S_ISLNK(status.st_mode):
        return "it is a symlink"
    if not stat.S_ISREG(status.st_mode):
        return "it is not a regular file"
    # Root may meet what it has created and not handed over yet; a second link would be a trap.
    is_roots = os.geteuid() == status.st_uid == 0 and status.st_nlink == 1
    if status.st_uid != owner and not is_roots:
        return f"it belongs to user {status.st_uid}, not to user {owner}"
    return ""


def refuse_stranger(path: Path, status: os.stat_result, owner: int) -> None:
    """Raise SpoolStrangerError for what may be none of a spool's files."""
    if why := strangeness(status, owner):
        raise SpoolStrangerError(f"{path}: {why}; remove it")


def open_file(path: Path, spool: Path, flags: int = os.O_RDONLY) -> int:
    """Open a file of a spool that is there; give its descriptor. Waits for nothing.

    Raises SpoolStrangerError for what is no regular file of the spool's owner, OSError.
    """
    owner = owner_of(spool)[0]
    try:
        fd = _open(path, flags)
    except OSError:
        refuse_stranger(path, os.lstat(path), owner)  # a symlink, or not for us to read
        raise
    try:
        refuse_stranger(path, os.fstat(fd), owner)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _open(path: Path, flags: int) -> int:
    fd = os.open(path, flags | _SAFELY, 0o600)
    if fd > _STANDARD:
        return fd
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _STANDARD + 1)
    finally:
        os.close(fd)


def create(path: Path, spool: Path) -> int:
    """Open a file of a spool for reading and writing, created where it is absent.

    Gives its descriptor. On a disk that is read-only now it is for reading, which is enough to lock
    it. Raises SpoolStrangerError as `open_file` does, OSError.
    """
    uid, gid = owner_of(spool)
    try:
        return open_file(path, spool, os.O_RDWR)
    except FileNotFoundError:
        pass
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        return open_file(path, spool)
    try:
        fd = _open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    except FileExistsError:  # another process was faster
        return open_file(path, spool, os.O_RDWR)
    os.fchmod(fd, 0o600)  # the umask may have taken more
    if (uid, gid) != (os.geteuid(), os.getegid()):
        os.fchown(fd, uid, gid)
    return fd


def strangers(spool: Path) -> list[str]:
    """Name what stands in place of a spool's files and is passed over, each with the reason.

    Raises OSError.
    """
    fixed = "|".join(map(re.escape, (*SQLITES, *SALVAGES)))
    owner, names = owner_of(spool)[0], re.compile(f"{re.escape(spool.name)}({fixed}|{_OTHERS})")
    found = []
    with os.scandir(spool.parent) as entries:
        for entry in entries:
            if names.fullmatch(entry.name):
                with contextlib.suppress(FileNotFoundError):
                    if why := strangeness(entry.stat(follow_symlinks=False), owner):
                        found.append(f"{entry.path}: {why}")
    return sorted(found)


def write_head(fd: int, head: bytes) -> None:
    """Write the first bytes of an open file. Raises OSError."""
    if os.pwrite(fd, head, 0) != len(head):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def overwrite_head(path: Path, fd: int, head: bytes) -> None:
    """Overwrite the first bytes of the file that is open as `fd`, if it is still at the path.

    Not by `fd`: Linux appends what is written to one that is open for that. Raises OSError.
    """
    writable = os.open(path, os.O_WRONLY | _SAFELY)
    try:
        if os.path.sameopenfile(writable, fd):
            write_head(writable, head)
    finally:
        os.close(writable)


def remove(path: Path) -> None:
    """Remove a SQLite file of the spool's, if it is there, with what SQLite laid beside it."""
    for one in (path, *(beside(path, suffix) for suffix in SQLITES)):
        if os.path.lexists(one):  # a disk that is read-only refuses what is not there, too
            one.unlink(missing_ok=True)


def sync(fd: int) -> None:
    """Make an open file's content survive a power cut. Raises OSError."""
    # macOS has no fdatasync.
    getattr(os, "fdatasync", os.fsync)(fd)


def sync_file(path: Path) -> None:
    """Make a file's content survive a power cut. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | _SAFELY)
    try:
        sync(fd)
    finally:
        os.close(fd)


def sync_directory(path: Path) -> None:
    """Make the names in a directory survive a power cut. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
