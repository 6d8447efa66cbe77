"""The journals beside a spool, any process's: found, opened one at a time, and read.

Invariant: one that cannot be read keeps no other back, and of many only one is open.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from typing import TYPE_CHECKING

from spool.errors import SpoolStrangerError
from spool.journal import at_fork, header
from spool.journal.file import SUFFIX, File
from spool.system import spool_files

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


def paths(spool: Path) -> list[Path]:
    """Give the journals beside a spool, any process's. Raises OSError."""
    name = re.compile(re.escape(spool.name + SUFFIX) + r"\d+-[0-9a-f]{12}")
    try:
        with os.scandir(spool.parent) as entries:
            found = [one.name for one in entries if name.fullmatch(one.name) and _is_file(one)]
    except FileNotFoundError:
        return []
    return [spool.parent / one for one in found]


def _is_file(entry: os.DirEntry[str]) -> bool:
    return entry.is_file(follow_symlinks=False)


@contextlib.contextmanager
def opened(path: Path, spool: Path) -> Iterator[File]:
    """Open one journal of a spool, any process's, to read it.

    Raises SpoolStrangerError, OSError.
    """
    fd = spool_files.open_file(path, spool)
    at_fork.borrowed.add(fd)
    try:
        yield File(path, fd, is_own=False)
    finally:
        at_fork.borrowed.discard(fd)
        os.close(fd)


@contextlib.contextmanager
def passing_over(path: Path, unreadable: dict[Path, str]) -> Iterator[None]:
    """Let a journal that cannot be read stop nothing else: note why, unless it is gone.

    Raises OSError where it is this process that has too many files open: none can be read now.
    """
    try:
        yield
    except (FileNotFoundError, SpoolStrangerError):  # it was moved meanwhile, or is none of ours
        pass
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise
        unreadable[path] = str(error.strerror)


def bytes_beside(spool: Path, moved: Mapping[str, int]) -> int:
    """Add up what waits in all journals of a spool; `moved` is how far each was moved, by name.

    Raises OSError.
    """
    found = 0
    for path in paths(spool):
        with contextlib.suppress(FileNotFoundError):
            found += max(0, os.stat(path).st_size - moved.get(path.name, header.SIZE))
    return found
