"""Where a spool may live: its directory, and on what filesystem that is.

Invariants:

- A directory that we make is 0700; its parents are fsynced. Root gives it to the owner of the one
  above.
- Where every user may write, nobody but the owner may remove a file (the sticky bit, as in /tmp);
  a directory without that is refused. Who may write by group was chosen by the directory's owner.
- Nothing is created beside a file that is refused.
"""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path
from typing import Final

from spool.errors import SpoolFileError
from spool.system import disk, spool_files
from spool.system.words import user_of

# SQLite's WAL needs shared memory between the processes, which these cannot give
# (https://www.sqlite.org/wal.html, "Disadvantages").
NETWORK_FILESYSTEMS: Final = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph"}
)


def prepare(path: Path) -> None:
    """Make the directory, and check that a spool may live at `path`. Raises SpoolFileError."""
    if sys.platform not in ("linux", "darwin"):
        raise SpoolFileError(f"{path}: langfuse-spool runs on Linux and macOS, not {sys.platform}")
    try:
        _make_directory(path.parent)
        check(path)
    except OSError as error:
        raise disk.unusable(path, error) from None  # it says all that the other did
    if (kind := filesystem(path.parent)) in NETWORK_FILESYSTEMS:
        raise on_a_network(path, kind)


def obstacle(path: Path) -> tuple[str, str] | None:
    """Say why this user can make no spool there, and what to do; None where nothing is known.

    Raises OSError.
    """
    above = existing(path.parent)
    who = user_of(os.geteuid())
    if not above.is_dir():
        return f"{above} is not a directory", "set SPOOL_PATH elsewhere"
    if disk.free(above)[1]:
        return (
            f"the disk of {above} is read-only, so what ends is in the programs' memory only",
            "mount it for writing, or set SPOOL_PATH elsewhere",
        )
    if not may(above, os.W_OK | os.X_OK):
        return (
            f"{who} may not write {above}",
            "set SPOOL_PATH elsewhere, or give that user the right",
        )
    return None


def existing(directory: Path) -> Path:
    """Give it, or what of the way there exists."""
    while not os.path.lexists(directory):
        directory = directory.parent
    return directory


def may(path: Path, mode: int) -> bool:
    """Say whether this user may do that, as in `os.access`."""
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


def on_a_network(path: Path, kind: str) -> SpoolFileError:
    """Give the error of a path on a filesystem of this kind."""
    return SpoolFileError(
        f"{path}: it lies on {kind}, where SQLite's WAL does not work; "
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
    owner = spool_files.owner_of(path)[0]
    if status is not None and (why := spool_files.strangeness(status, owner)):
        if status.st_uid != owner:
            why = f"it belongs to {user_of(status.st_uid)}, not to {user_of(owner)}"
        raise SpoolFileError(f"{path}: {why}; {spool_files.ONE_USER}")
    for suffix in (*spool_files.SQLITES, *spool_files.SALVAGES):
        if (found := _status(spool_files.beside(path, suffix))) is not None:
            spool_files.refuse_stranger(spool_files.beside(path, suffix), found, owner)
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
    directory.chmod(0o700)  # the umask may have taken more
    if os.geteuid() == 0:
        _hand_over(directory, directory.parent.stat())
    spool_files.sync_directory(directory.parent)


def _hand_over(directory: Path, parent: os.stat_result) -> None:
    """Give a directory that root has made to the owner of the one above."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fchown(fd, parent.st_uid, parent.st_gid)
    finally:
        os.close(fd)


def filesystem(directory: Path) -> str:
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
