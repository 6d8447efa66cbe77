"""A journal of this process's beside a spool, and what its files hold."""

from __future__ import annotations

import os
from pathlib import Path

from spans import batch
from spool.journal import directory, header, reader
from spool.journal.journal import Journal
from spool.settings.durability import Durability
from spool.system import spool_files
from targets import MINE


def made(path: Path, durability: Durability = Durability.PROCESS_DEATH) -> Journal:
    return Journal(path, lambda new: spool_files.create(new, path), durability)


def fill(mine: Journal, count: int = 5) -> list[str]:
    """Append so many frames; give what `read` will say of them."""
    appended = []
    for number in range(count):
        one = batch(f"s{number}", size=100 * number)
        mine.append(MINE, one, float(number))
        appended.append(f"{len(one.payload)} at {number}")
    return appended


def read(path: Path, *, is_final: bool = False) -> tuple[list[str], int]:
    """Give the payloads' sizes and times of a file's frames, and how many spans are lost."""
    fd = os.open(path, os.O_RDONLY)
    found, lost, offset = [], 0, header.begins_at(fd, b"")
    while (chunk := reader.read(fd, offset, is_final=is_final)) is not None:
        found += [f"{len(one.batch.payload)} at {one.created_at:g}" for one in chunk.frames]
        lost, offset = lost + chunk.lost, chunk.end
    os.close(fd)
    return found, lost


def the_file(path: Path) -> Path:
    (file,) = directory.paths(path)
    return file


def of_all(path: Path) -> tuple[int, int]:
    """Count the frames of all files of a spool, and the spans in them that are lost."""
    found = [read(file) for file in directory.paths(path)]
    return sum(len(whole) for whole, _ in found), sum(lost for _, lost in found)
