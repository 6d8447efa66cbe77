"""Where a spool may live, and how its files are made.

Invariants:

- Files are 0600, in a directory of 0700 where we create it; its parents are fsynced.
- The last path component is no symlink; no file of another owner is used, unless by root, who hands
  what it creates to that owner.
- Nothing is created beside a file that is refused.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from pathlib import Path
from typing import Final

from spool.errors import SpoolFileError, SpoolFullError, SpoolNoRoomError

# SQLite's WAL needs shared memory between the processes, which these cannot give
# (https://www.sqlite.org/wal.html, "Disadvantages").
_NETWORK_FILESYSTEMS: Final = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph"}
)

# What is left on the disk for settling and for checkpoints: but not so much of a small one.
_RESERVE: Final = 8 << 20
_MOST_OF_A_DISK: Final = 8


def beside(path: Path, suffix: str) -> Path:
    """Name a file of the spool that stands beside its main file."""
    return path.with_name(path.name + suffix)


def prepare(path: Path) -> None:
    """Make the directory, and check that a spool may live at `path`. Raises SpoolFileError."""
    if sys.platform not in ("linux", "darwin"):
        raise SpoolFileError(f"{path}: langfuse-spool runs on Linux and macOS, not {sys.platform}")
    try:
        _make_directory(path.parent)
        check(path)
    except OSError as error:
        raise unusable(path, error) from error
    filesystem = _filesystem(path.parent)
    if filesystem in _NETWORK_FILESYSTEMS:
        raise SpoolFileError(
            f"{path}: it lies on {filesystem}, where SQLite's WAL does not work; "
            "set SPOOL_PATH to a file on a local disk"
        )


def check(path: Path) -> os.stat_result | None:
    """Refuse symlinks, what is no file, and another owner's file; None where nothing is there."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return None
    if stat.S_ISLNK(status.st_mode):
        raise SpoolFileError(f"{path}: it is a symlink; set SPOOL_PATH to the file itself")
    if not stat.S_ISREG(status.st_mode):
        raise SpoolFileError(f"{path}: it is not a regular file; set SPOOL_PATH to another one")
    if os.geteuid() not in (0, status.st_uid):
        raise SpoolFileError(
            f"{path}: it belongs to user {status.st_uid}, not to you ({os.geteuid()}); "
            "run as that user, or set SPOOL_PATH to a file of your own"
        )
    return status


def create(path: Path, owner_of: Path) -> int:
    """Open a file for reading and writing, created where absent; give its descriptor.

    On a disk that is read-only now it is for reading, which is enough to lock it. If we are root
    it is handed to the owner of the file at `owner_of`. Raises OSError.
    """
    flags = os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path, flags | os.O_RDWR)
    except FileNotFoundError:
        fd = os.open(path, flags | os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        return os.open(path, flags | os.O_RDONLY)
    if os.geteuid() == 0 and owner_of.exists():
        status = os.stat(owner_of)
        os.fchown(fd, status.st_uid, status.st_gid)
    return fd


def sync(fd: int) -> None:
    """Make an open file's content survive a power cut. Raises OSError."""
    # macOS has no fdatasync.
    getattr(os, "fdatasync", os.fsync)(fd)


def sync_file(path: Path) -> None:
    """Make a file's content survive a power cut. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
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


def room(at: Path | int) -> int:
    """Tell how many bytes a disk has left for spans; negative where none. Raises OSError.

    The disk is a path's or an open file's. The rest is kept for settling and for checkpoints.
    """
    disk = os.statvfs(at)
    reserve = min(_RESERVE, disk.f_blocks * disk.f_frsize // _MOST_OF_A_DISK)
    return disk.f_bavail * disk.f_frsize - reserve


def cramped(path: Path) -> SpoolNoRoomError:
    """Say that the disk has no room."""
    return SpoolNoRoomError(f"{path}: the disk is almost full; make room there")


def full(path: Path) -> SpoolFullError:
    """Say that the spool may hold no more."""
    return SpoolFullError(f"{path}: it is as large as SPOOL_MAX_BYTES allows")


def unusable(path: Path, error: OSError) -> SpoolFileError:
    """Say of an operating system's error which file it hit, and what to do."""
    where = error.filename or path
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return SpoolNoRoomError(f"{path}: {error.strerror}: {where}; make room there")
    return SpoolFileError(
        f"{path}: cannot be used as the spool: {error.strerror}: {where}; "
        "set SPOOL_PATH to a file in a directory that you may write"
    )


def _make_directory(directory: Path) -> None:
    if directory.is_dir():
        return
    if directory.exists() and not directory.is_dir():  # it may just have been made elsewhere
        raise SpoolFileError(f"{directory}: it is not a directory; set SPOOL_PATH elsewhere")
    _make_directory(directory.parent)
    directory.mkdir(mode=0o700, exist_ok=True)
    sync_directory(directory.parent)


def _filesystem(directory: Path) -> str:
    """Name the type of the filesystem (proc(5), mountinfo); empty where that is not to be had."""
    device = os.stat(directory).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        mounts = Path("/proc/self/mountinfo").read_text(errors="replace")
    except OSError:
        return ""
    for line in mounts.splitlines():
        mount, _, rest = line.partition(" - ")
        if mount.split()[2] == wanted:
            return rest.split()[0]
    return ""
