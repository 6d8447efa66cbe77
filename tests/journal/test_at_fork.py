from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from journals import fill, made, read, the_file
from spool.journal import at_fork, directory
from spool.journal.journal import Journal
from spool.system.locks import can_lock


def is_closed_in_child(fd: int) -> bool:
    if (pid := os.fork()) == 0:
        try:
            os.fstat(fd)
        except OSError:
            os._exit(0)
        os._exit(1)
    return os.waitpid(pid, 0)[1] == 0


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


def test_a_child_closes_what_was_claimed_when_the_journal_was_closed(mine: Journal) -> None:
    fill(mine)
    (file,) = mine.files()
    mine.claim(file)
    mine.close()
    assert is_closed_in_child(file.fd)
    mine.release(file, None)


def test_a_forked_child_has_a_journal_of_its_own_and_does_not_keep_its_parents_alive(
    path: Path,
) -> None:
    code = """
import os, sys
from pathlib import Path
from journals import fill, made
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
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
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
        assert is_closed_in_child(file.fd)
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
