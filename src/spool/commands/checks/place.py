"""The place: the spool file, its rights, its filesystem and room; and SQLite."""

from __future__ import annotations

import os
import sqlite3
import stat
from typing import TYPE_CHECKING, Final

from spool.commands.checks.finding import Finding
from spool.errors import SpoolError
from spool.journal import directory
from spool.store import version
from spool.system import disk, location, spool_files
from spool.system.words import count_of, size_of, user_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from spool.settings.settings import Settings

# https://www.sqlite.org/wal.html, "The WAL-Reset Bug".
_FIRST_BAD, _LAST_BAD = (3, 7, 0), (3, 51, 2)
# What goes with more than the file, and is no network.
_FLEETING: Final = {
    "tmpfs": "it lies in memory (tmpfs), and is gone when the machine, or the container, restarts",
    "ramfs": "it lies in memory (ramfs), and is gone when the machine restarts",
    "overlay": "it lies in a container (overlay), and goes with it",
}
# What the kernel shows as files.
_NO_DISKS: Final = frozenset({"proc", "sysfs", "cgroup", "cgroup2", "devpts", "securityfs"})


def examine(settings: Settings) -> Iterator[Finding]:
    """Say whether the spool can be where it is to be."""
    path = settings.path
    try:
        version.check_ours(path)
        yield _there(path) if path.exists() else _to_be_made(path)
        yield _rights(path)
        yield from _filesystem(path)
        if location.filesystem(location.existing(path.parent)) not in _NO_DISKS:
            yield _room(settings)
    except SpoolError as error:
        yield Finding.of_error("path", error)
    except OSError as error:
        yield Finding.of_error("path", disk.unusable(path, error))
    yield _sqlite()


def _there(path: Path) -> Finding:
    if not path.stat().st_size:
        return Finding("path", f"{path} is empty: the first program that writes makes the spool")
    return Finding("path", f"{path}, {size_of(path.stat().st_size)}")


def _to_be_made(path: Path) -> Finding:
    if found := location.obstacle(path):
        words, remedy = found
        return Finding.wrong("path", f"{path} is not there, and cannot be made: {words}", remedy)
    if not os.path.lexists(path.parent):
        words = f"{path} is not there yet, nor is {path.parent}"
        return Finding("path", f"{words}: the first program that writes makes both")
    if left := directory.paths(path):
        words = (
            f"{path} is not there, and {count_of(len(left), 'journal')} beside it may hold spans"
        )
        return Finding.wrong("path", words, "send these by `python -m spool drain`")
    return Finding("path", f"{path} is not there yet: the first program that writes makes it")


def _rights(path: Path) -> Finding:
    here = path if path.exists() else location.existing(path.parent)
    status = here.stat()
    said = f"{here} is {stat.filemode(status.st_mode)[1:]}, of {user_of(status.st_uid)}"
    if here == path and status.st_mode & 0o077:
        return Finding.wrong("rights", f"{said}: others can read spans", f"chmod 600 {path}")
    if here == path and disk.free(path.parent)[1]:
        remedy = f"mount {path.parent} for writing; until then what ends is in memory only"
        return Finding.wrong("rights", f"{said}, but its disk is read-only", remedy)
    if here == path and not location.may(path, os.R_OK | os.W_OK):
        return Finding.wrong("rights", f"{said}: {_who()} may not write it", f"chmod 600 {path}")
    if here != path and status.st_mode & 0o002 and here == path.parent:
        return Finding("rights", f"{said}: every user may write there", is_well=None)
    return Finding("rights", f"{said}; this is {_who()}")


def _filesystem(path: Path) -> Iterator[Finding]:
    kind = location.filesystem(location.existing(path.parent))
    if kind in _NO_DISKS:
        words = f"{path}: it lies on {kind}, which holds no files of ours"
        yield Finding.wrong("filesystem", words, "set SPOOL_PATH to a file on a disk")
    elif kind in location.NETWORK_FILESYSTEMS:
        yield Finding.of_error("filesystem", location.on_a_network(path, kind))
    elif kind in _FLEETING:
        words = f"{_FLEETING[kind]}; what is to outlive that needs SPOOL_PATH on a disk or volume"
        yield Finding("filesystem", words, is_well=None)
    else:
        yield Finding("filesystem", kind or "of a kind that is not told here")


def _room(settings: Settings) -> Finding:
    path = settings.path
    room, limit = disk.room(location.existing(path.parent)), settings.max_bytes
    used = sum(
        one.stat().st_size
        for suffix in ("", *spool_files.SQLITES)
        if (one := spool_files.beside(path, suffix)).exists()
    )
    said = f"{size_of(max(room, 0))} free; the limit is {size_of(limit)}"
    if room <= 0:
        return Finding.wrong("room", f"the disk is full, or almost: {said}", "make room there")
    if room + used < limit:
        remedy = f"make room there, or set SPOOL_MAX_BYTES below {size_of(room + used)}"
        return Finding.wrong("room", f"{said}: in an outage the disk is full first", remedy)
    return Finding("room", said)


def _sqlite() -> Finding:
    found = sqlite3.sqlite_version
    if _FIRST_BAD <= sqlite3.sqlite_version_info <= _LAST_BAD:
        return Finding("sqlite", f"{found}; its WAL-reset bug (up to 3.51.2) cannot occur here")
    return Finding("sqlite", found)


def _who() -> str:
    return user_of(os.geteuid())
