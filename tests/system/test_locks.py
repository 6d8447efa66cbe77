from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from spool.errors import SpoolBusyError, SpoolFileError
from spool.system.locks import FileLock, is_held, signature
from spool.system.spool_files import create

LOCK = """
import os, subprocess, sys
from pathlib import Path
from spool.system.locks import FileLock
from spool.system.spool_files import create
path = Path(sys.argv[1])
lock = FileLock(path, lambda path: create(path, path))
"""
HOLD = """
assert lock.acquire(10)
print("held", flush=True)
sys.stdin.read()
"""
# Whoever inherits the descriptor says so, and lives until its input ends.
HOLD_AND_FORK = """
assert lock.acquire(10)
if os.fork() == 0:
    print("held", flush=True)
    sys.stdin.read()
    os._exit(0)
os.wait()
"""
HOLD_AND_SPAWN = """
assert lock.acquire(10)
command = [sys.executable, "-c", "import sys; print('held', flush=True); sys.stdin.read()"]
subprocess.run(command, close_fds=False)
"""
COUNT = """
for _ in range(int(sys.argv[2])):
    with lock.hold(30):
        counter = path.with_name("counter")
        counter.write_text(str(int(counter.read_text()) + 1))
"""


class Processes:
    """Starts processes with a lock of their own; those that are left get killed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.started: list[subprocess.Popen[str]] = []

    def start(self, script: str, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", LOCK + script, str(self.path), *arguments]
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        self.started.append(process)
        return process

    def start_holder(self, script: str = HOLD) -> subprocess.Popen[str]:
        process = self.start(script)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        return process

    def end(self) -> None:
        for process in self.started:
            process.kill()
            process.communicate()


@pytest.fixture
def lock_path(tmp_path: Path) -> Path:
    return tmp_path / "spool.db.lock"


@pytest.fixture
def lock(lock_path: Path) -> Iterator[FileLock]:
    lock = make(lock_path)
    yield lock
    lock.close()


@pytest.fixture
def processes(lock_path: Path) -> Iterator[Processes]:
    processes = Processes(lock_path)
    yield processes
    processes.end()


def make(path: Path, *, shared: bool = False) -> FileLock:
    return FileLock(path, lambda path: create(path, path), shared=shared)


def can_hold(lock: FileLock, timeout: float = 0.05) -> bool:
    """Say whether the lock can be had now; it is free again afterwards."""
    held = lock.acquire(timeout)
    if held:
        lock.release()
    return held


def in_a_thread(work: Callable[[], bool]) -> bool:
    results: list[bool] = []
    thread = threading.Thread(target=lambda: results.append(work()))
    thread.start()
    thread.join()
    return results[0]


def in_a_forked_child(work: Callable[[], bool]) -> bool:
    pid = os.fork()
    if pid == 0:
        status = 2
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(30)  # a child that is stuck ends, too
            status = 0 if work() else 1
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, 1)
    return status == 0


# Exclusion


def test_a_lock_that_another_process_holds_is_refused_until_it_lets_go(
    lock: FileLock, processes: Processes
) -> None:
    holder = processes.start_holder()
    assert not can_hold(lock)
    holder.communicate("")
    assert can_hold(lock, 10)


def test_a_lock_that_another_thread_holds_is_refused_until_it_lets_go(lock: FileLock) -> None:
    assert lock.acquire(1)
    assert not in_a_thread(lambda: can_hold(lock))
    lock.release()
    assert in_a_thread(lambda: can_hold(lock))


def test_two_locks_of_one_process_on_one_file_exclude_each_other(
    lock: FileLock, lock_path: Path
) -> None:
    other = make(lock_path)
    with lock.hold(1):
        assert not can_hold(other)
    assert can_hold(other)
    other.close()


def test_processes_and_threads_that_count_under_the_lock_lose_no_step(
    processes: Processes, lock: FileLock, lock_path: Path
) -> None:
    counter = lock_path.with_name("counter")
    counter.write_text("0")

    def count() -> None:
        for _ in range(50):
            with lock.hold(30):
                counter.write_text(str(int(counter.read_text()) + 1))

    others = [processes.start(COUNT, "50") for _ in range(2)]
    threads = [threading.Thread(target=count) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [other.wait(60) for other in others] == [0, 0]
    assert counter.read_text() == "200"


# Bounded waiting


def test_waiting_for_another_process_ends_with_an_error_that_names_the_file(
    lock: FileLock, lock_path: Path, processes: Processes
) -> None:
    processes.start_holder()
    with (
        pytest.raises(SpoolBusyError, match=rf"^{lock_path}: .* more than 0\.05 s"),
        lock.hold(0.05),
    ):
        pytest.fail("the lock was had twice")


def test_waiting_for_another_thread_ends_with_an_error(lock: FileLock) -> None:
    def waits_in_vain() -> bool:
        with pytest.raises(SpoolBusyError), lock.hold(0.05):
            pytest.fail("the lock was had twice")
        return True

    with lock.hold(1):
        assert in_a_thread(waits_in_vain)


def test_a_waiting_process_gets_the_lock_when_it_is_freed(
    lock: FileLock, processes: Processes
) -> None:
    lock.acquire(1)
    waiter = processes.start(HOLD)
    time.sleep(0.2)
    lock.release()
    assert waiter.stdout is not None
    assert waiter.stdout.readline() == "held\n"
    assert not can_hold(lock)


def test_an_error_under_the_lock_frees_it(lock: FileLock, lock_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), lock.hold(1):
        _ = 1 / 0
    assert can_hold(make(lock_path))


def test_after_a_refusal_the_lock_can_still_be_had(lock: FileLock, processes: Processes) -> None:
    holder = processes.start_holder()
    assert not can_hold(lock, 0)
    assert not can_hold(lock, -1)
    holder.communicate("")
    assert can_hold(lock, 0)


def test_a_lock_file_that_cannot_be_opened_is_an_error_each_time(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "lock"
    lock = make(path)
    for _ in range(2):
        with pytest.raises(SpoolFileError, match=f"^{path}: cannot be used as the spool"):
            lock.acquire(1)
    path.parent.mkdir()
    assert can_hold(lock)
    lock.close()


# Death and forks


def test_the_death_of_its_holder_frees_the_lock(lock: FileLock, processes: Processes) -> None:
    holder = processes.start_holder()
    holder.send_signal(signal.SIGKILL)
    assert can_hold(lock, 10)


@pytest.mark.parametrize("script", [HOLD_AND_FORK, HOLD_AND_SPAWN], ids=["fork", "spawn"])
def test_a_child_does_not_keep_the_lock_of_a_killed_parent_alive(
    lock: FileLock, processes: Processes, script: str
) -> None:
    parent = processes.start_holder(script)
    assert not can_hold(lock)
    parent.send_signal(signal.SIGKILL)
    parent.wait(60)
    assert can_hold(lock, 10)


def test_a_forked_child_does_not_have_its_parents_lock(lock: FileLock) -> None:
    with lock.hold(1):
        assert not in_a_forked_child(lambda: can_hold(lock))


def test_a_forked_child_does_not_free_its_parents_lock(lock: FileLock, lock_path: Path) -> None:
    def use_and_close() -> bool:
        held = can_hold(lock)
        lock.close()
        return not held

    with lock.hold(1):
        assert in_a_forked_child(use_and_close)
        assert not can_hold(make(lock_path))


def test_a_forked_child_can_take_the_lock_when_its_parent_let_go(
    lock: FileLock, lock_path: Path
) -> None:
    assert can_hold(lock)
    assert in_a_forked_child(lambda: can_hold(lock))

    def dies_with_the_lock() -> bool:
        return lock.acquire(1)

    assert in_a_forked_child(dies_with_the_lock)
    assert can_hold(make(lock_path), 10)


def test_a_child_that_is_forked_while_another_thread_holds_the_lock_is_not_stuck(
    lock: FileLock,
) -> None:
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with lock.hold(1):
            held.set()
            done.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(30)
    # The thread lets go before the child gives up, but the child's lock is its own.
    threading.Timer(0.2, done.set).start()
    assert in_a_forked_child(lambda: can_hold(lock, 20))
    thread.join()


def test_freezing_keeps_threads_and_other_processes_out_until_the_thaw(
    lock: FileLock, lock_path: Path
) -> None:
    other = make(lock_path)
    assert lock.freeze(time.monotonic() + 1)
    assert not in_a_thread(lambda: can_hold(lock))
    assert not can_hold(other)
    lock.thaw()
    assert can_hold(lock)
    assert can_hold(other)
    other.close()


def test_freezing_goes_on_without_the_other_processes_if_they_do_not_let_go(
    lock: FileLock, processes: Processes
) -> None:
    processes.start_holder()
    assert lock.freeze(time.monotonic() + 0.05)
    lock.thaw()
    assert not can_hold(lock)


def test_freezing_can_leave_the_file_alone(lock: FileLock, lock_path: Path) -> None:
    assert lock.freeze(time.monotonic() + 1, ask_others=False)
    assert not lock_path.exists()
    assert not in_a_thread(lambda: can_hold(lock))
    lock.thaw()
    assert can_hold(lock)


# The file


def test_preparing_a_lock_makes_its_file_and_waits_for_nobody_who_has_it(
    lock: FileLock, lock_path: Path
) -> None:
    lock.prepare()
    assert lock_path.exists()
    held, may_end = threading.Event(), threading.Event()

    def hold() -> None:
        with lock.hold(1):
            held.set()
            may_end.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(30)
    lock.prepare()  # at once: only after it the other one lets go
    may_end.set()
    thread.join()


def test_a_lock_file_that_was_unlinked_is_noticed(lock: FileLock, lock_path: Path) -> None:
    assert can_hold(lock)
    lock_path.unlink()
    other = make(lock_path)
    with other.hold(1):
        assert not can_hold(lock)
    with lock.hold(1):
        assert not can_hold(other)
    other.close()


def test_a_lock_file_that_was_replaced_is_noticed(lock: FileLock, lock_path: Path) -> None:
    assert can_hold(lock)
    lock_path.rename(lock_path.with_name("moved"))
    lock_path.touch(mode=0o600)
    other = make(lock_path)
    with other.hold(1):
        assert not can_hold(lock)
    assert can_hold(lock)
    other.close()


def test_the_lock_file_stays_where_it_is(lock: FileLock, lock_path: Path) -> None:
    assert can_hold(lock)
    before = lock_path.stat().st_ino
    assert can_hold(lock)
    lock.close()
    assert can_hold(lock)
    assert lock_path.stat().st_ino == before


def test_a_closed_lock_keeps_no_descriptor_and_opens_again_when_needed(lock_path: Path) -> None:
    def open_files() -> int:
        return len(os.listdir("/dev/fd"))  # noqa: PTH208 - Path.iterdir is lazy

    lock = make(lock_path)
    before = open_files()
    for _ in range(3):
        assert can_hold(lock)
        assert open_files() == before + 1
        lock.close()
        assert open_files() == before


# Shared locks, and who is there


def test_shared_locks_stand_beside_each_other_but_not_beside_an_exclusive_one(
    lock: FileLock, lock_path: Path
) -> None:
    one, two = make(lock_path, shared=True), make(lock_path, shared=True)
    with one.hold(1), two.hold(1):
        assert not can_hold(lock)
    with lock.hold(1):
        assert not can_hold(one)
    one.close()
    two.close()


def test_a_file_is_held_while_anybody_holds_it(lock: FileLock, lock_path: Path) -> None:
    assert not is_held(lock_path, lock_path)
    assert not lock_path.exists()
    present = make(lock_path, shared=True)
    for holder in (lock, present):
        with holder.hold(1):
            assert is_held(lock_path, lock_path)
        assert not is_held(lock_path, lock_path)
    present.close()


def test_a_file_is_held_while_another_process_holds_it(
    lock_path: Path, processes: Processes
) -> None:
    holder = processes.start_holder()
    assert is_held(lock_path, lock_path)
    holder.communicate("")
    assert not is_held(lock_path, lock_path)


def test_asking_whether_it_is_held_leaves_the_lock_as_it_is(
    lock: FileLock, lock_path: Path
) -> None:
    other = make(lock_path)
    assert can_hold(lock)
    assert not is_held(lock_path, lock_path)
    assert can_hold(other)
    with lock.hold(1):
        assert is_held(lock_path, lock_path)
        assert not can_hold(other)
    other.close()


def test_the_last_holder_that_signed_can_be_named(lock: FileLock, lock_path: Path) -> None:
    assert signature(lock_path, lock_path) is None
    with lock.hold(1):
        assert signature(lock_path, lock_path) is None
        lock.sign()
        assert pid_in(lock_path) == os.getpid()
    assert pid_in(lock_path) == os.getpid()


def pid_in(path: Path) -> int:
    signed = signature(path, path)
    assert signed is not None
    return signed[0]


def test_each_signature_is_new(lock: FileLock, lock_path: Path) -> None:
    seen = set()
    for _ in range(3):
        with lock.hold(1):
            lock.sign()
        seen.add(signature(lock_path, lock_path))
    assert len(seen) == 3


def test_a_shorter_pid_leaves_nothing_of_a_longer_one(
    lock: FileLock, lock_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for pid in (4194304, 7):
        monkeypatch.setattr(os, "getpid", lambda pid=pid: pid)
        with lock.hold(1):
            lock.sign()
        assert pid_in(lock_path) == pid


@pytest.mark.parametrize("text", ["", "   ", "who", "-1", "0x10"])
def test_a_file_without_a_pid_has_no_signature(lock_path: Path, text: str) -> None:
    lock_path.write_text(text)
    assert signature(lock_path, lock_path) is None
