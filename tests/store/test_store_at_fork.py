"""No connection crosses a fork, and no fork waits for one."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from spans import batch
from spool.errors import SpoolBusyError
from spool.store.store import Store
from stopped import stopped_holder_of_the_mutex
from targets import MINE


def in_forked_child(work: Callable[[], None]) -> int:
    """Run `work` in a forked child that exits without cleaning up; give its exit status."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_parent_and_forked_child_both_append(store: Store) -> None:
    store.append(MINE, batch("before"), now=1.0)
    assert in_forked_child(lambda: store.append(MINE, batch("child"), now=2.0)) == 0
    store.append(MINE, batch("after"), now=3.0)
    assert store.ledger().pending == 3


def test_a_child_that_exits_normally_leaves_the_parents_wal(store: Store, path: Path) -> None:
    store.append(MINE, batch("before"), now=1.0)
    child = multiprocessing.get_context("fork").Process(
        target=store.append, args=(MINE, batch("child"), 2.0)
    )
    child.start()
    child.join()
    store.append(MINE, batch("after"), now=3.0)
    wal = path.with_name("spool.db-wal").stat().st_ino
    other = Store(path)
    assert other.ledger().pending == 3
    assert path.with_name("spool.db-wal").stat().st_ino == wal
    other.close()


def test_a_child_goes_on_after_its_parent_was_killed(path: Path) -> None:
    code = f"""
import os, sys, time
from pathlib import Path
from spans import batch
from spool.settings.target import Target
from spool.store.store import Store
target = Target.langfuse("pk-lf-mine", "sk-lf-mine", "https://langfuse.example")
store = Store(Path({str(path)!r}))
store.append(target, batch("parent"), 1.0)
parent = os.getpid()
if os.fork():
    time.sleep(60)
while os.getppid() == parent:
    store.append(target, batch("child"), 2.0)
    print("appended", flush=True)
    time.sleep(0.01)
for _ in range(10):
    store.append(target, batch("orphan"), 3.0)
store.close()
print("done", flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as tree:
        assert tree.stdout is not None
        tree.stdout.readline()
        tree.kill()
        lines = ["appended\n", *tree.stdout]
    assert lines[-1] == "done\n"
    store = Store(path)
    assert store.ledger().pending == 1 + lines.count("appended\n") + 10
    store.close()


@pytest.mark.parametrize("fork", [os.fork, ctypes.PyDLL(None).fork], ids=["python", "c"])
@pytest.mark.parametrize("use", ["reading", "writing"])
def test_a_fork_does_not_wait_for_another_threads_use_nor_does_its_child(
    store: Store, fork: Callable[[], int], use: str
) -> None:
    store.append(MINE, batch("before"), now=1.0)
    is_used, is_over = threading.Event(), threading.Event()

    def use_it() -> None:
        with getattr(store.database, use)() as connection:
            count = "SELECT count(*) FROM batch"
            assert connection.execute(count).fetchone() == (1,)  # from here it is one moment's
            is_used.set()
            assert is_over.wait(60)
            assert connection.execute(count).fetchone() == (1,)

    user = threading.Thread(target=use_it)
    user.start()
    assert is_used.wait(60)
    started = time.monotonic()
    if (pid := fork()) == 0:
        code = 1
        with contextlib.suppress(BaseException):
            assert store.ledger().pending == 1
            store.append(MINE, batch("child"), now=2.0, patience=60)
            code = 0
        os._exit(code)
    seconds = time.monotonic() - started
    is_over.set()
    user.join()
    assert os.waitpid(pid, 0)[1] == 0
    assert seconds < 4, "a fork waits 100 ms for that, at most"
    store.append(MINE, batch("after"), now=3.0)
    assert store.ledger().pending == 3


def test_a_fork_does_not_wait_for_a_stopped_peer_that_has_the_mutex(
    store: Store, path: Path
) -> None:
    store.append(MINE, batch("before"), now=1.0)
    is_over = threading.Event()

    def wait_for_the_mutex() -> None:
        while not is_over.is_set():
            with contextlib.suppress(SpoolBusyError):
                store.append(MINE, batch("a"), 1.0, patience=60)

    with stopped_holder_of_the_mutex(path):
        waiting = threading.Thread(target=wait_for_the_mutex)
        waiting.start()
        started = time.monotonic()
        if (pid := os.fork()) == 0:
            os._exit(0)
        seconds = time.monotonic() - started
        assert os.waitpid(pid, 0)[1] == 0
        assert seconds < 4, "as above"
        is_over.set()
    waiting.join()
