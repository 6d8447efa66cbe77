"""The disk of a spool: what room it has, and what is said where it refuses."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING, Final

from spool.errors import SpoolFileError, SpoolFullError, SpoolUnavailableError
from spool.system import spool_files
from spool.system.words import user_of

if TYPE_CHECKING:
    from pathlib import Path

# What is left on the disk for settling and for checkpoints: but not so much of a small one.
_RESERVE: Final = 8 << 20
_MOST_OF_A_DISK: Final = 8

_A_PAGE: Final = 4096
# What a disk or the system may refuse for now, and what helps; all else is a wrong path.
_REMEDIES: Final = {
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "make room there, or raise the quota",
    errno.EFBIG: "raise the limit of a file's size",
    errno.EROFS: "mount it for writing, or set SPOOL_PATH to a file elsewhere",
    errno.EMFILE: "raise the limit of open files",
    errno.ENFILE: "raise the limit of open files",
    errno.EIO: "see to the disk",
    errno.ENXIO: "see to the disk",
    errno.ENODEV: "see to the disk",
    errno.ENOMEM: "free some memory",
    errno.EAGAIN: "try again",
}


def room(at: Path | int) -> int:
    """Tell how many bytes a disk has left for spans; negative where none. Raises OSError.

    The disk is a path's or an open file's. The rest is kept for settling and for checkpoints.
    """
    disk = os.statvfs(at)
    reserve = min(_RESERVE, disk.f_blocks * disk.f_frsize // _MOST_OF_A_DISK)
    return disk.f_bavail * disk.f_frsize - reserve


def free(directory: Path) -> tuple[int, bool]:
    """Tell how many bytes a disk has left, and whether it is read-only. Raises OSError."""
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize, bool(found.f_flag & os.ST_RDONLY)


def refusal(path: Path) -> OSError | None:
    """Try to write beside a path, and give what the disk says to that; None where it works.

    What is written has no name, and is gone at once.
    """
    import tempfile  # noqa: PLC0415 - rarely needed

    try:
        with tempfile.TemporaryFile(dir=path.parent, buffering=0) as file:
            file.write(bytes(_A_PAGE))
    except OSError as error:
        return OSError(error.errno, error.strerror, str(path.parent))
    return None


def almost_full(path: Path) -> SpoolUnavailableError:
    """Give the error of a disk that has no room."""
    return SpoolUnavailableError(f"{path}: the disk is full, or almost; make room there")


def over_limit(path: Path) -> SpoolFullError:
    """Give the error of a spool that may hold no more."""
    return SpoolFullError(
        f"{path}: it is as large as SPOOL_MAX_BYTES allows; raise that, or drain it"
    )


def unusable(path: Path, error: OSError) -> SpoolFileError:
    """Give what an operating system's error means: which file it hit, and what to do."""
    where = error.filename or path
    remedy = _REMEDIES.get(error.errno or 0)
    if remedy is None:
        if error.errno in (errno.EACCES, errno.EPERM) and (whose := _whose(path)):
            return SpoolFileError(f"{path}: {error.strerror}: {whose}; {spool_files.ONE_USER}")
        return SpoolFileError(
            f"{path}: cannot be used as the spool: {error.strerror}: {where}; "
            "set SPOOL_PATH to a file in a directory that you may write"
        )
    if error.errno == errno.ENOSPC and not _has_inodes(path.parent):
        remedy = "no inodes are left: remove files there"
    return SpoolUnavailableError(f"{path}: {error.strerror}: {where}; {remedy}")


def _whose(path: Path) -> str:
    """Say whose a spool is that only its owner may look at; nothing where that is not the cause."""
    for one in (path, path.parent):
        with contextlib.suppress(OSError):
            status = os.stat(one)
            if status.st_uid == os.geteuid() or status.st_mode & 0o077:
                return ""
            return f"{one} belongs to {user_of(status.st_uid)}, not to {user_of(os.geteuid())}"
    return ""


def _has_inodes(directory: Path) -> bool:
    with contextlib.suppress(OSError):
        disk = os.statvfs(directory)
        return disk.f_files == 0 or disk.f_favail > 0
    return True
