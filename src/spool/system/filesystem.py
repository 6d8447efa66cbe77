"""Where a spool may live, and how its files are made and opened.

Invariants:

- Files are 0600 from their first moment, in a directory of 0700 where we create it; its parents are
  fsynced.
- All files of a spool belong to its owner: to us, or where we are root to whom the spool file
  belongs, and before there is one its directory. Root hands what it creates to that owner.
- What is opened is looked at after the opening, which waits for nothing: only a regular file of the
  spool's owner is used. Anything else at its path is somebody else's.
- Where every user may write, nobody but the owner may remove a file (the sticky bit, as in /tmp);
  a directory without that is refused. Who may write by group was chosen by the directory's owner.
- Nothing is created beside a file that is refused.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import sys
from pathlib import Path
from typing import Final

from spool.errors import SpoolFileError, SpoolFullError, SpoolStrangerError, SpoolUnavailableError

# SQLite's WAL needs shared memory between the processes, which these cannot give
# (https://www.sqlite.org/wal.html, "Disadvantages").
_NETWORK_FILESYSTEMS: Final = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph"}
)

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

_SAFELY: Final = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_SQLITES: Final = ("-wal", "-shm", "-journal")
# What a salvage makes, see `database`.
_SALVAGES: Final = (".salvaged", ".salvaging", ".grafted")
# What else we open beside the main file.
_OTHERS: Final = r"(\.probe)?\.(turn|deputy)|\.(lock|drainer|inbox-\d+-[0-9a-f]{12})"


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
    """Refuse a directory that is not safe, and what is not ours there; None for no file yet.

    Raises SpoolFileError, OSError.
    """
    directory, status = _status(path.parent, follow=True), _status(path)
    if directory is None:
        return None
    if status is not None and stat.S_ISLNK(status.st_mode):
        raise SpoolFileError(f"{path}: it is a symlink; set SPOOL_PATH to the file itself")
    _check_directory(path, directory, status)
    owner = owner_of(path)[0]
    if status is not None and (why := _strangeness(status, owner)):
        raise SpoolFileError(f"{path}: {why}; run as its owner, or set SPOOL_PATH to another file")
    for suffix in (*_SQLITES, *_SALVAGES):
        if (found := _status(beside(path, suffix))) is not None:
            _refuse_stranger(beside(path, suffix), found, owner)
    return status


def _status(path: Path, *, follow: bool = False) -> os.stat_result | None:
    try:
        return os.stat(path, follow_symlinks=follow)
    except FileNotFoundError:
        return None


def _check_directory(path: Path, directory: os.stat_result, found: os.stat_result | None) -> None:
    if not directory.st_mode & stat.S_IWOTH:
        return
    such_as = path.parent / "spool" / path.name
    own = f"set SPOOL_PATH to a file in a directory of your own, such as {such_as}"
    if not directory.st_mode & stat.S_ISVTX:
        raise SpoolFileError(
            f"{path.parent}: every user may put files in the spool's place there, as it has no "
            f"sticky bit; {own}"
        )
    if directory.st_uid not in (0, os.geteuid()):  # whom the sticky bit does not stop
        raise SpoolFileError(f"{path.parent}: it belongs to user {directory.st_uid}; {own}")
    # Root must not write into what somebody has put in /tmp for it.
    if os.geteuid() == 0 and found is not None and found.st_uid not in (0, directory.st_uid):
        raise SpoolFileError(
            f"{path}: it belongs to user {found.st_uid}, and every user may put files there; "
            f"run as that user, or {own}"
        )


def owner_of(spool: Path) -> tuple[int, int]:
    """Tell to which user and group a spool's files belong. Raises OSError."""
    if os.geteuid() != 0:
        return os.geteuid(), os.getegid()
    try:
        status = os.lstat(spool)
    except FileNotFoundError:
        status = os.stat(spool.parent)
    return status.st_uid, status.st_gid


def _strangeness(status: os.stat_result, owner: int) -> str:
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


def _refuse_stranger(path: Path, status: os.stat_result, owner: int) -> None:
    if why := _strangeness(status, owner):
        raise SpoolStrangerError(f"{path}: {why}; remove it")


def open_file(path: Path, spool: Path, flags: int = os.O_RDONLY) -> int:
    """Open a file of a spool that is there; give its descriptor. Waits for nothing.

    Raises SpoolStrangerError for what is no regular file of the spool's owner, OSError.
    """
    owner = owner_of(spool)[0]
    try:
        fd = os.open(path, flags | _SAFELY)
    except OSError:
        _refuse_stranger(path, os.lstat(path), owner)  # a symlink, or not for us to read
        raise
    try:
        _refuse_stranger(path, os.fstat(fd), owner)
    except BaseException:
        os.close(fd)
        raise
    return fd


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
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _SAFELY, 0o600)
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
    fixed = "|".join(map(re.escape, (*_SQLITES, *_SALVAGES)))
    owner, names = owner_of(spool)[0], re.compile(f"{re.escape(spool.name)}({fixed}|{_OTHERS})")
    found = []
    with os.scandir(spool.parent) as entries:
        for entry in entries:
            if names.fullmatch(entry.name):
                with contextlib.suppress(FileNotFoundError):
                    if why := _strangeness(entry.stat(follow_symlinks=False), owner):
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
    for one in (path, *(beside(path, suffix) for suffix in _SQLITES)):
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


def room(at: Path | int) -> int:
    """Tell how many bytes a disk has left for spans; negative where none. Raises OSError.

    The disk is a path's or an open file's. The rest is kept for settling and for checkpoints.
    """
    disk = os.statvfs(at)
    reserve = min(_RESERVE, disk.f_blocks * disk.f_frsize // _MOST_OF_A_DISK)
    return disk.f_bavail * disk.f_frsize - reserve


def cramped(path: Path) -> SpoolUnavailableError:
    """Say that the disk has no room."""
    return SpoolUnavailableError(f"{path}: the disk is almost full; make room there")


def full(path: Path) -> SpoolFullError:
    """Say that the spool may hold no more."""
    return SpoolFullError(f"{path}: it is as large as SPOOL_MAX_BYTES allows")


def unusable(path: Path, error: OSError) -> SpoolFileError:
    """Say of an operating system's error which file it hit, and what to do."""
    where = error.filename or path
    remedy = _REMEDIES.get(error.errno or 0)
    if remedy is None:
        return SpoolFileError(
            f"{path}: cannot be used as the spool: {error.strerror}: {where}; "
            "set SPOOL_PATH to a file in a directory that you may write"
        )
    if error.errno == errno.ENOSPC and not _has_inodes(path.parent):
        remedy = "no inodes are left: remove files there"
    return SpoolUnavailableError(f"{path}: {error.strerror}: {where}; {remedy}")


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


def _has_inodes(directory: Path) -> bool:
    with contextlib.suppress(OSError):
        disk = os.statvfs(directory)
        return disk.f_files == 0 or disk.f_favail > 0
    return True


def _make_directory(directory: Path) -> None:
    if directory.is_dir():
        return
    if directory.exists() and not directory.is_dir():  # it may just have been made elsewhere
        raise SpoolFileError(f"{directory}: it is not a directory; set SPOOL_PATH elsewhere")
    _make_directory(directory.parent)
    try:
        directory.mkdir(mode=0o700)
    except FileExistsError:
        if not directory.is_dir():
            raise
        return  # another process was faster
    if os.geteuid() == 0:
        _hand_over(directory, directory.parent.stat())
    sync_directory(directory.parent)


def _hand_over(directory: Path, parent: os.stat_result) -> None:
    """Give a directory that root has made to the owner of the one above."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fchown(fd, parent.st_uid, parent.st_gid)
    finally:
        os.close(fd)


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
