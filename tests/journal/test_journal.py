from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from disks import no_room
from spans import batch
from spool.errors import SpoolFileError, SpoolFullError, SpoolUnsyncedError
from spool.journal import at_fork, directory, header, reader
from spool.journal.journal import LARGE, Journal
from spool.settings.durability import Durability
from spool.settings.target import Target
from spool.system import filesystem
from spool.system.locks import can_lock
from waits import wait_until

MINE = Target.langfuse("pk-lf-mine", "sk-lf-mine", "https://langfuse.example")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Name a spool whose directory is there."""
    return tmp_path / "spool.db"


@pytest.fixture
def mine(path: Path) -> Iterator[Journal]:
    """Use a journal of this process."""
    mine = made(path)
    yield mine
    mine.close()


def made(path: Path, durability: Durability = Durability.PROCESS_DEATH) -> Journal:
    return Journal(path, lambda new: filesystem.create(new, path), durability)


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


def fill(mine: Journal, count: int = 5) -> list[str]:
    """Append so many frames; give what `read` will say of them."""
    appended = []
    for number in range(count):
        one = batch(f"s{number}", size=100 * number)
        mine.append(MINE, one, float(number))
        appended.append(f"{len(one.payload)} at {number}")
    return appended


# Appending


def test_a_new_journal_makes_no_file_before_something_is_appended(
    mine: Journal, path: Path
) -> None:
    assert directory.paths(path) == []
    fill(mine, 1)
    assert the_file(path).stat().st_mode & 0o777 == 0o600


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
        patched.setattr(filesystem, "room", lambda _: 0)
        with pytest.raises(SpoolFileError, match="make room there"):
            fill(mine)
    assert read(the_file(path)) == (appended, 0)


def test_a_file_grows_no_further_than_the_room_that_there_was(
    mine: Journal, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filesystem, "room", lambda _: 10_000)
    for _ in range(30):
        mine.append(MINE, batch("a", size=1000), 1.0)
    assert len(directory.paths(path)) == 4


def test_what_cannot_be_synced_is_said_and_is_in_the_file_all_the_same(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = made(path, Durability.POWER_CUT)
    appended = fill(mine, 1)

    def broken(_: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(filesystem, "sync", broken)
        with pytest.raises(SpoolUnsyncedError, match="Input/output error"):
            fill(mine, 1)
    assert read(the_file(path)) == (appended * 2, 0)
    mine.close()


def of_all(path: Path) -> tuple[int, int]:
    """Count the frames of all files of a spool, and the spans in them that are lost."""
    found = [read(file) for file in directory.paths(path)]
    return sum(len(whole) for whole, _ in found), sum(lost for _, lost in found)


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
        return filesystem.create(new, path)

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
        assert not file.is_final
        assert mine.emptied() == []
        mine.unlink([file])
        mine.close()
        assert mine.files() == [file]
        may_end.set()
        append.result()
    assert file.is_final
    assert of_all(path) == (1, 0)


def test_a_handler_that_forks_in_the_middle_of_an_append_leaves_both_processes_whole(
    mine: Journal, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(mine, 1)
    write, pids = os.writev, list[int]()

    def fork_first(fd: int, parts: tuple[bytes, bytes]) -> int:
        monkeypatch.setattr(os, "writev", write)
        pids.append(os.fork())
        return write(fd if pids[0] else mine_of_parent.fd, parts)  # as the next bytecode would

    (mine_of_parent,) = mine.files()
    monkeypatch.setattr(os, "writev", fork_first)
    try:
        fill(mine, 1)
    finally:
        if pids == [0]:
            os._exit(0)
    assert os.waitpid(pids[0], 0)[1] == 0
    assert sorted(len(read(file)[0]) for file in directory.paths(path)) == [1, 2]


@pytest.mark.parametrize("is_broken", [False, True])
def test_one_fsync_is_for_all_who_wait_for_it(
    path: Path, monkeypatch: pytest.MonkeyPatch, is_broken: bool
) -> None:
    mine, synced = made(path, Durability.POWER_CUT), list[int]()
    is_syncing, may_end = threading.Event(), threading.Event()
    fill(mine, 1)

    def sync(fd: int) -> None:
        synced.append(len(read(the_file(path))[0]))
        is_syncing.set()
        assert may_end.wait(60)
        if is_broken and len(synced) == 2:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(filesystem, "sync", sync)
    with ThreadPoolExecutor(33) as threads:
        first = threads.submit(fill, mine, 1)
        assert is_syncing.wait(60)
        others = [threads.submit(fill, mine, 1) for _ in range(32)]
        wait_until(lambda: len(read(the_file(path))[0]) == 34)
        may_end.set()
        first.result()
        errors = [other.exception() for other in others]
    assert synced[:2] == [2, 34]
    assert len(synced) == 2
    assert all(isinstance(error, SpoolUnsyncedError) for error in errors) == is_broken
    assert any(errors) == is_broken
    mine.close()


def test_a_signal_handler_syncs_in_the_middle_of_its_threads_own_sync(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, sync = made(path, Durability.POWER_CUT), filesystem.sync

    def interrupted(fd: int) -> None:
        monkeypatch.setattr(filesystem, "sync", sync)
        fill(mine, 1)
        sync(fd)

    monkeypatch.setattr(filesystem, "sync", interrupted)
    fill(mine, 1)
    fill(mine, 1)
    assert of_all(path) == (3, 0)
    mine.close()


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


# Files


def test_what_is_not_a_journal_is_none_of_ours(mine: Journal, path: Path) -> None:
    fill(mine, 1)
    name = the_file(path).name
    for other in (f"{name}.bak", "spool.db.inbox-notes", "spool.db.inbox-1-0123456789abX"):
        path.with_name(other).write_text("mine")
    path.with_name("spool.db.inbox-1-0123456789ab").mkdir()
    path.with_name("spool.db.inbox-2-0123456789ab").symlink_to("elsewhere")
    assert [file.name for file in directory.paths(path)] == [name]


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


def test_a_child_closes_what_was_claimed_when_the_journal_was_closed(mine: Journal) -> None:
    fill(mine)
    (file,) = mine.files()
    mine.claim(file)
    mine.close()
    if (pid := os.fork()) == 0:
        try:
            os.fstat(file.fd)
        except OSError:
            os._exit(0)
        os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0
    mine.release(file, None)


def test_two_journals_of_one_spool_have_files_of_their_own(path: Path) -> None:
    one, two = made(path), made(path)
    fill(one, 1)
    fill(two, 2)
    assert sorted(len(read(file)[0]) for file in directory.paths(path)) == [1, 2]
    one.close()
    two.close()


def test_a_file_that_another_takes_for_a_dead_processs_is_not_used(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []

    def create(new: Path) -> int:
        fd = filesystem.create(new, path)
        if len(taken) == 0:  # locked by another, just now
            taken.append(os.open(new, os.O_RDONLY))
            assert can_lock(taken[0])
        elif len(taken) == 1:  # or even removed
            new.unlink()
            taken.append(0)
        return fd

    mine = Journal(path, create)
    fill(mine, 1)
    assert [len(read(file)[0]) for file in mine_files(mine)] == [1]
    mine.close()
    os.close(taken[0])


def mine_files(mine: Journal) -> list[Path]:
    return [file.path for file in mine.files()]


# Processes


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


def test_a_forked_child_has_a_journal_of_its_own_and_does_not_keep_its_parents_alive(
    path: Path,
) -> None:
    code = """
import os, sys
from pathlib import Path
sys.path.insert(0, "journal")
from test_journal import fill, made
mine = made(Path(sys.argv[1]))
fill(mine, 3)
if os.fork() == 0:
    fill(mine, 2)
    print("forked", flush=True)
    sys.stdin.read()
    os._exit(0)
os._exit(0)
"""
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1]
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"forked\n"
        os.waitid(os.P_PID, parent.pid, os.WEXITED | os.WNOWAIT)
        whole = {}
        for file in directory.paths(path):
            fd = os.open(file, os.O_RDONLY)
            whole[can_lock(fd)] = len(read(file)[0])
            os.close(fd)
        assert whole == {True: 3, False: 2}


def test_a_journal_that_is_made_while_another_thread_forks_is_in_nobodys_way(path: Path) -> None:
    first = made(path)
    at_fork._before_fork()
    second = made(path)
    at_fork._after_in_parent()
    with ThreadPoolExecutor() as others:
        for one in (first, second):
            others.submit(fill, one).result()
            one.close()


def test_a_child_does_not_keep_what_its_parent_borrowed(path: Path) -> None:
    dead = made(path)
    fill(dead)
    dead.close()
    (left,) = directory.paths(path)
    with directory.opened(left, path) as file:
        pid = os.fork()
        if pid == 0:
            try:
                os.fstat(file.fd)
            except OSError:
                os._exit(0)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert at_fork.borrowed == set()


def test_a_fork_that_runs_no_handlers_is_noticed(
    mine: Journal, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(mine, 3)
    parents = the_file(path)
    with monkeypatch.context() as patched:  # as if fork(2) had been called in C
        patched.setattr(os, "getpid", lambda: 1)
        fill(mine, 2)
    (childs,) = set(directory.paths(path)) - {parents}
    assert (len(read(parents)[0]), len(read(childs)[0])) == (3, 2)
