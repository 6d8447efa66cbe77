from __future__ import annotations

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from disks import no_room
from journals import fill, made, of_all, read, the_file
from spans import batch
from spool.errors import SpoolFileError, SpoolFullError
from spool.journal import directory
from spool.journal.journal import LARGE, Journal
from spool.system import disk, spool_files
from spool.system.locks import can_lock
from targets import MINE


def test_a_new_journal_makes_no_file_before_something_is_appended(
    mine: Journal, path: Path
) -> None:
    assert directory.paths(path) == []
    fill(mine, 1)
    assert the_file(path).stat().st_mode & 0o777 == 0o600


def test_a_full_disk_is_an_error_and_no_more_files(mine: Journal, path: Path) -> None:
    with no_room():
        for _ in range(3):
            with pytest.raises(SpoolFileError, match=str(path)):
                mine.append(MINE, batch("a"), 1.0)
    fill(mine, 1)
    mine.unlink(mine.emptied())
    assert len(directory.paths(path)) == 1


def test_no_file_is_begun_on_a_disk_without_room_or_beyond_the_limit(
    mine: Journal, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    appended = fill(mine)
    mine.leave()
    mine.limit = 10
    with pytest.raises(SpoolFullError, match="SPOOL_MAX_BYTES"):
        fill(mine)
    mine.limit = 1 << 20
    with monkeypatch.context() as patched:
        patched.setattr(disk, "room", lambda _: 0)
        with pytest.raises(SpoolFileError, match="make room there"):
            fill(mine)
    assert read(the_file(path)) == (appended, 0)


def test_a_signal_handler_appends_in_the_middle_of_an_append_and_nothing_is_refused(
    mine: Journal, path: Path
) -> None:
    of_handler, of_program = 0, 0

    def append(*_: object) -> None:
        nonlocal of_handler
        mine.append(MINE, batch("of the handler"), 1.0)
        of_handler += 1
        if of_handler % 5 == 0:  # whatever else a handler does
            (mine.close if of_handler % 2 else mine.turn_over)()

    before = signal.signal(signal.SIGALRM, append)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    try:
        while of_handler < 500:
            mine.append(MINE, batch("of the program"), 1.0)
            of_program += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert of_all(path) == (of_handler + of_program, 0)
    assert not any(file.pins for file in mine.files())


def test_a_signal_handler_that_comes_while_a_file_is_made_appends_all_the_same(path: Path) -> None:
    is_first = True

    def create(new: Path) -> int:
        nonlocal is_first
        if is_first:
            is_first = False
            interrupted.append(MINE, batch("of the handler"), 1.0)
        return spool_files.create(new, path)

    mine = interrupted = Journal(path, create)
    fill(mine, 3)
    mine.turn_over()
    assert of_all(path) == (4, 0)
    of_the_handler, current = mine.files()
    assert of_the_handler.is_final
    assert not current.is_final
    mine.close()


def test_no_number_of_threads_is_refused_however_often_the_file_is_left(
    mine: Journal, path: Path
) -> None:
    is_over, final_sizes = threading.Event(), dict[Path, int]()

    def turn_over() -> None:
        while not is_over.is_set():
            mine.leave()
            for file in mine.files():
                if file.is_final:
                    final_sizes.setdefault(file.path, os.fstat(file.fd).st_size)

    with ThreadPoolExecutor(17) as threads:
        leaving = threads.submit(turn_over)
        try:
            list(threads.map(lambda _: fill(mine, 50), range(16)))
        finally:
            is_over.set()
        leaving.result()
    assert of_all(path) == (16 * 50, 0)
    assert {path: path.stat().st_size for path in final_sizes} == final_sizes


@pytest.mark.timeout(600)
def test_an_exception_out_of_a_signal_handler_leaves_no_lock_behind(mine: Journal) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    one, interrupted = batch("a"), 0
    try:
        while interrupted < 100:
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.0001 + interrupted * 0.000007)
                while True:
                    mine.append(MINE, one, 1.0)
            except KeyboardInterrupt:
                interrupted += 1
            with ThreadPoolExecutor() as others:
                others.submit(mine.append, MINE, one, 2.0).result()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_large_file_is_left_for_a_new_one(mine: Journal, path: Path) -> None:
    mine.append(MINE, batch("a", size=LARGE), 1.0)
    first = the_file(path)
    mine.turn_over()
    mine.append(MINE, batch("b"), 2.0)
    mine.turn_over()
    (second,) = set(directory.paths(path)) - {first}
    assert len(read(second)[0]) == 1


def test_a_file_that_was_removed_is_still_this_processs_to_move(mine: Journal, path: Path) -> None:
    fill(mine)
    the_file(path).unlink()
    mine.turn_over()
    fill(mine)
    assert [one.spans for file in mine.files() for one in file.unmoved()] == [5, 5]


def test_a_file_that_was_moved_away_belongs_to_where_it_is_now(
    mine: Journal, path: Path, tmp_path: Path
) -> None:
    appended = fill(mine)
    aside = tmp_path / "aside"
    aside.mkdir()
    moved = the_file(path).rename(aside / the_file(path).name)
    mine.turn_over()
    fill(mine, 2)
    assert [one.spans for file in mine.files() for one in file.unmoved()] == [2]
    assert read(moved) == (appended, 0)
    fd = os.open(moved, os.O_RDONLY)
    assert can_lock(fd), "it is for others to move now"
    os.close(fd)


def test_only_what_is_left_and_was_moved_can_go(mine: Journal, path: Path) -> None:
    fill(mine)
    (file,) = mine.files()
    file.moved = the_file(path).stat().st_size
    assert mine.emptied() == []
    mine.leave()
    assert mine.emptied() == [file]
    file.moved -= 1
    assert mine.emptied() == []
    file.moved += 1
    mine.unlink([file])
    mine.unlink([file])  # as two threads would
    assert (directory.paths(path), mine.files()) == ([], [])


def test_a_mark_is_past_when_all_that_was_there_is_moved_or_elsewhere(mine: Journal) -> None:
    assert mine.is_past(mine.mark())
    fill(mine)
    (file,) = mine.files()
    mark = mine.mark()
    assert not mine.is_past(mark)
    fill(mine)  # what comes later does not count
    file.moved = mark[0][1]
    assert mine.is_past(mark)
    assert not mine.is_past(mine.mark())
    file.moved = 0
    mine.close()
    assert mine.is_past(mark)


def test_what_is_claimed_stays_open_and_locked_when_the_journal_is_closed(mine: Journal) -> None:
    fill(mine)
    (file,) = mine.files()
    mine.claim(file)
    assert mine.is_claimed()
    mine.close()
    other = os.open(file.path, os.O_RDONLY)
    assert not can_lock(other)
    mine.release(file, None)
    assert not mine.is_claimed()
    assert can_lock(other)
    os.close(other)


def test_what_is_claimed_is_not_removed_under_who_sends_it(mine: Journal) -> None:
    fill(mine)
    mine.leave()
    (file,) = mine.files()
    mine.claim(file)
    file.moved = file.path.stat().st_size
    mine.unlink([file])
    assert file.path.exists()
    mine.release(file, None)
    mine.unlink([file])
    assert not file.path.exists()


def test_two_journals_of_one_spool_have_files_of_their_own(path: Path) -> None:
    one, two = made(path), made(path)
    fill(one, 1)
    fill(two, 2)
    assert sorted(len(read(file)[0]) for file in directory.paths(path)) == [1, 2]
    one.close()
    two.close()
