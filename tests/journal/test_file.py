from __future__ import annotations

import os
import resource
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from journals import fill, made, of_all, read, the_file
from spans import batch
from spool.errors import SpoolFileError, SpoolUnsyncedError
from spool.journal import directory, header
from spool.journal.file import File
from spool.journal.journal import Journal
from spool.system import disk, spool_files
from spool.system.locks import can_lock
from targets import MINE


def state(file: File) -> str:
    """Give what its `repr` says between the name and the bytes."""
    return repr(file).split(": ")[1].split(",")[0].rstrip(">")


def test_a_file_is_open_then_left_and_final_then_closed(mine: Journal) -> None:
    fill(mine, 1)
    (file,) = mine.files()
    size = file.path.stat().st_size
    assert repr(file) == f"<{file.path.name}: open, {header.SIZE} of {size} bytes moved>"
    assert file.takes_more()
    pin = object()
    file.pins.add(pin)
    mine.leave()
    assert (state(file), file.takes_more(), file.is_final) == ("left", False, False)
    file.pins.discard(pin)
    assert (state(file), file.is_final) == ("final", True)
    mine.close()
    assert (state(file), file.is_closed) == ("closed", True)


def test_what_the_disk_cuts_short_is_refused_and_spoils_nothing(mine: Journal, path: Path) -> None:
    appended = fill(mine)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    room = the_file(path).stat().st_size + 50
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        with pytest.raises(SpoolFileError, match="No space left"):
            mine.append(MINE, batch("too much"), 1.0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    again = fill(mine, 2)
    first, second = sorted(directory.paths(path), key=lambda file: file.stat().st_mtime_ns)
    assert (read(first), read(second)) == ((appended, 0), (again, 0))


def test_a_file_grows_no_further_than_the_room_that_there_was(
    mine: Journal, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "room", lambda _: 10_000)
    for _ in range(30):
        mine.append(MINE, batch("a", size=1000), 1.0)
    assert len(directory.paths(path)) == 4


def test_what_cannot_be_synced_is_said_and_is_in_the_file_all_the_same(
    synced: Journal, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    appended = fill(synced, 1)

    def broken(_: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(spool_files, "sync", broken)
        with pytest.raises(SpoolUnsyncedError, match="Input/output error"):
            fill(synced, 1)
    assert read(the_file(path)) == (appended * 2, 0)


def test_a_file_is_final_only_when_the_appends_to_it_are_over(
    mine: Journal, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, is_written, may_end = os.writev, threading.Event(), threading.Event()

    def pause(fd: int, parts: tuple[bytes, bytes]) -> int:
        is_written.set()
        assert may_end.wait(60)
        return write(fd, parts)

    monkeypatch.setattr(os, "writev", pause)
    with ThreadPoolExecutor() as others:
        append = others.submit(fill, mine, 1)
        assert is_written.wait(60)
        mine.leave()
        (file,) = mine.files()
        assert state(file) == "left"
        assert mine.emptied() == []
        mine.unlink([file])
        mine.close()
        assert mine.files() == [file]
        may_end.set()
        append.result()
    assert state(file) == "final"
    assert of_all(path) == (1, 0)


def test_a_file_that_another_takes_for_a_dead_processs_is_not_used(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []

    def create(new: Path) -> int:
        fd = spool_files.create(new, path)
        if len(taken) == 0:  # locked by another, just now
            taken.append(os.open(new, os.O_RDONLY))
            assert can_lock(taken[0])
        elif len(taken) == 1:  # or even removed
            new.unlink()
            taken.append(0)
        return fd

    mine = Journal(path, create)
    fill(mine, 1)
    (file,) = mine.files()
    assert len(read(file.path)[0]) == 1
    mine.close()
    os.close(taken[0])


def test_the_lock_says_whether_its_process_lives(path: Path) -> None:
    reads, writes = os.pipe()
    pid = os.fork()
    if pid == 0:
        fill(made(path))
        os.write(writes, b".")
        signal.pause()
        os._exit(1)
    os.read(reads, 1)
    fd = os.open(the_file(path), os.O_RDONLY)
    assert not can_lock(fd)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert can_lock(fd)
    for one in (fd, reads, writes):
        os.close(one)
