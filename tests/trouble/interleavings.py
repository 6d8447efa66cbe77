"""Runs the real code of several "processes" in one interpreter, and switches at every system call.

A process here is what a process has of its own: a store, its locks, its descriptors, its SQLite
connections. Its threads are tasks, of which one at a time runs. A shim over `os`, `fcntl`,
`sqlite3` and `time` hands over to the `Machine` before each call; from one seed it draws who goes
on, and when a process is killed or stopped. Locks between threads are waited for in its time, as is
every sleep: a schedule takes as long as its system calls.

A killed process does not run a line more that could be seen: every further call of it raises, its
descriptors are closed (so its locks are free), its transactions rolled back.

What this cannot show: a kill within a system call or a commit (see `test_crash_states`), and forks,
which need processes of their own (see `test_mutex` and `test_lock`).
"""

from __future__ import annotations

import builtins
import contextlib
import fcntl
import os
import random
import sqlite3
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from typing import Any
from unittest import mock

from spool.errors import SpoolError
from spool.store import migrations, sqlite

_CALLS = {
    os: (
        "close", "fchmod", "fchown", "fdatasync", "fstat", "fsync", "ftruncate", "link", "lstat",
        "mkdir", "pread", "pwrite", "read", "rename", "replace", "scandir", "stat", "statvfs",
        "unlink", "utime", "write", "writev",
    ),
    fcntl: ("fcntl", "flock"),
}  # fmt: skip

_MARKS = ("application_id", "user_version")
_TICK = 1e-5  # what a call takes, in seconds
_SHORTEST_SLEEP = 5e-3  # who polls does it as on a busy machine, so it is done sooner
_MOST_CALLS = 100_000
_FOR_EVER = 1e6
_PATIENCE = 120  # seconds, for one schedule

_here = threading.local()


class Killed(BaseException):
    """The process is dead, or the machine has stopped."""


class Process:
    """A process: what the kernel would take back at its death. `stopped_until` is machine time."""

    def __init__(self, machine: Machine, pid: int) -> None:
        self.pid = pid
        self.is_dead = False
        self.stopped_until = 0.0
        # With what they are: one that a file object has from an opener is closed unseen, and its
        # number used again.
        self.fds: dict[int, tuple[int, int]] = {}
        self.connections: set[Connection] = set()
        self.calls = 0
        self._machine = machine

    def start(self, name: str, *steps: Callable[[], object]) -> None:
        """Let a thread of this process take steps; what the spool refuses it leaves at that."""
        self._machine.tasks.append(Task(self._machine, self, name, steps))

    def die(self) -> None:
        """Take back what the process had."""
        self.is_dead = True
        self.close()
        for connection in self.connections:
            connection.abandon()

    def close(self) -> None:
        """Close its descriptors."""
        for fd, identity in self.fds.items():
            with contextlib.suppress(OSError):
                if _identity(fd) == identity:
                    Machine.real["close"](fd)
        self.fds.clear()


def _identity(fd: int) -> tuple[int, int]:
    status = Machine.real["fstat"](fd)
    return status.st_dev, status.st_ino


class Task:
    """One thread of a process."""

    def __init__(
        self,
        machine: Machine,
        process: Process,
        name: str,
        steps: tuple[Callable[[], object], ...],
    ) -> None:
        self.process = process
        self.name = f"{process.pid} {name}"
        self.wakes_at = 0.0
        self.gate = _closed()
        self._machine = machine
        self._steps = steps
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        self.gate.acquire()
        _here.task = self
        try:
            for step in self._steps:
                with contextlib.suppress(SpoolError):
                    self.call()
                    step()
        except Killed:
            pass
        except BaseException as error:  # noqa: BLE001 - for the test to see
            self._machine.fail(error)
        finally:
            self._machine.end(self)

    @property
    def runs_at(self) -> float:
        """Tell when it can go on, in machine time."""
        return max(self.wakes_at, self.process.stopped_until)

    def call(self) -> None:
        """Be about to make a system call: others may come first, or the process's end."""
        self._machine.call(self)

    def sleep(self, seconds: float) -> None:
        """Let others go on for so long."""
        self.wakes_at = self._machine.now + max(seconds, _SHORTEST_SLEEP)
        self._machine.call(self)


class Machine:
    """Runs tasks to their end, as one seed says. Use it within `shims`.

    `kills` and `stops` are planned: process → at which of its calls (and for how many seconds).
    """

    real: dict[str, Any]

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.now = 0.0
        self.started_at = time.time()
        self.tasks: list[Task] = []
        self.processes: list[Process] = []
        self.kills: dict[Process, int] = {}
        self.stops: dict[Process, tuple[int, float]] = {}
        self.trouble: list[BaseException] = []
        self.is_told = False  # every call, for who looks into a failure
        self.killed = 0
        self.stopped = 0
        self._restlessness = chance.choice([0.02, 0.1, 0.3, 0.7])
        self._calls = 0
        self._is_over = _closed()

    def process(self) -> Process:
        """Make a process."""
        made = Process(self, 100 + len(self.processes))
        self.processes.append(made)
        return made

    def run(self) -> None:
        """Run all tasks to their end; raise what went wrong in one."""
        for task in self.tasks:
            task.thread.start()
        threads = [task.thread for task in self.tasks]
        if self.tasks:
            self._next().gate.release()
            is_over = self._is_over.acquire(timeout=_PATIENCE)
            assert is_over, "a lock that the shims do not know is waited for"
        for thread in threads:
            thread.join()
        if self.trouble:
            raise self.trouble[0]

    def call(self, task: Task) -> None:
        """Take note of a call that a task is about to make; see `Task.call`."""
        process = task.process
        self._calls += 1
        process.calls += 1
        self.now += _TICK
        if self.is_told:
            print(f"{self.now:.5f} {task.name}: {_where()}")
        if self._calls > _MOST_CALLS or self.now > _FOR_EVER:
            _here.task = None
            where = "".join(traceback.format_stack(limit=25))
            self.fail(AssertionError(f"somebody waits for ever, as here:\n{where}"))
        if process.calls == self.stops.get(process, (0, 0.0))[0]:
            process.stopped_until = self.now + self.stops[process][1]
            self.stopped += 1
        if task.runs_at > self.now or self.chance.random() < self._restlessness:
            self._hand_over(task)
        if process.calls >= self.kills.get(process, _MOST_CALLS) and self.may_kill():
            self.kills.pop(process)
            self.killed += 1
            process.die()
        if process.is_dead or self.trouble:
            raise Killed

    def may_kill(self) -> bool:
        """Say whether this is a moment to die in; a test may know better."""
        return True

    def fail(self, error: BaseException) -> None:
        """Stop: something is wrong."""
        self.trouble.append(error)

    def end(self, task: Task) -> None:
        """Go on with another task than one that is over."""
        self.tasks.remove(task)
        if self.tasks:
            self._next().gate.release()
        else:
            self._is_over.release()

    def _hand_over(self, task: Task) -> None:
        chosen = self._next()
        if chosen is not task:
            chosen.gate.release()
            task.gate.acquire()

    def _next(self) -> Task:
        ready = [task for task in self.tasks if task.runs_at <= self.now or self.trouble]
        if ready:
            return self.chance.choice(ready)
        first = min(self.tasks, key=lambda task: task.runs_at)
        self.now = first.runs_at
        return first

    def close(self) -> None:
        """Close what is open still."""
        for process in self.processes:
            process.close()
            for connection in process.connections:
                connection.real.close()


def _closed() -> threading.Lock:
    """Make a gate that is opened for one (a lock is much faster than a semaphore)."""
    gate = threading.Lock()
    gate.acquire()
    return gate


# The shims


class RLock:
    """A `threading.RLock` that is waited for in the machine's time."""

    def __init__(self) -> None:
        self._owner: object = None
        self._count = 0

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        task = _task()
        me = task or threading.get_ident()
        if task is not None:
            task.call()
            end = task._machine.now + (timeout if timeout >= 0 else _FOR_EVER)
            while self._owner not in (None, me):
                if not blocking or task._machine.now >= end:
                    return False
                task.sleep(_SHORTEST_SLEEP)
        assert self._owner in (None, me)
        self._owner = me
        self._count += 1
        return True

    def release(self) -> None:
        if not self._is_owned():
            raise RuntimeError("cannot release un-acquired lock")
        self._count -= 1
        if not self._count:
            self._owner = None

    def _is_owned(self) -> bool:
        return self._owner == (_task() or threading.get_ident())

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class Connection:
    """An SQLite connection of one process."""

    def __init__(self, real: sqlite3.Connection, process: Process) -> None:
        self.__dict__.update(real=real, process=process)
        process.connections.add(self)

    def execute(self, *how: Any) -> sqlite3.Cursor:
        _call()
        found: sqlite3.Cursor = self.real.execute(*how)
        return found

    def executemany(self, *how: Any) -> sqlite3.Cursor:
        _call()
        found: sqlite3.Cursor = self.real.executemany(*how)
        return found

    def executescript(self, script: str) -> sqlite3.Cursor:
        _call()
        found: sqlite3.Cursor = self.real.executescript(script)
        return found

    def close(self) -> None:
        _call()
        self.process.connections.discard(self)
        self.real.close()

    def abandon(self) -> None:
        """End what a dead process had begun; its close would do more than the kernel does."""
        if self.real.in_transaction:
            self.real.execute("ROLLBACK")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.real, name, value)


def _task() -> Task | None:
    return getattr(_here, "task", None)


def _where() -> str:
    """Name the functions of the package that are being called, the outermost first."""
    calls = []
    for frame, line in traceback.walk_stack(None):
        if f"{os.sep}spool{os.sep}" in frame.f_code.co_filename:
            calls.append(f"{frame.f_code.co_name}:{line}")
    return " > ".join(reversed(calls))


def _call() -> None:
    task = _task()
    if task is not None:
        task.call()


def _shim(real: Callable[..., Any]) -> Callable[..., Any]:
    def call(*how: Any, **more: Any) -> Any:
        _call()
        return real(*how, **more)

    return call


@contextlib.contextmanager
def shims() -> Iterator[None]:
    """Put the shims in place; threads that are no tasks do not notice them."""
    with contextlib.ExitStack() as patches:

        def replace(module: object, name: str, shim: Callable[..., Any]) -> Callable[..., Any]:
            real: Callable[..., Any] = getattr(module, name)
            patches.enter_context(mock.patch.object(module, name, shim))
            return real

        Machine.real = {"close": os.close, "fstat": os.fstat, "rename": os.rename}
        for module, names in _CALLS.items():
            for name in names:
                replace(module, name, _shim(getattr(module, name)))
        for cell in _factories(threading.RLock):
            patches.callback(setattr, cell, "cell_contents", cell.cell_contents)
            cell.cell_contents = RLock
        _shim_descriptors(replace)
        _shim_the_rest(replace)
        yield


def _factories(made: object) -> Iterator[Any]:
    """Find where the package's dataclasses keep what makes a field."""
    modules = [module for name, module in sys.modules.items() if name.startswith("spool.")]
    for one in {id(one): one for module in modules for one in vars(module).values()}.values():
        if isinstance(one, type) and is_dataclass(one):
            for cell in getattr(one.__init__, "__closure__", None) or ():
                if cell.cell_contents is made:
                    yield cell


_Replace = Callable[[object, str, Callable[..., Any]], Callable[..., Any]]


def _shim_descriptors(replace: _Replace) -> None:
    def opened(*how: Any, **more: Any) -> int:
        _call()
        fd: int = real_open(*how, **more)
        if (task := _task()) is not None:
            task.process.fds[fd] = _identity(fd)
        return fd

    def close(fd: int) -> None:
        if (task := _task()) is not None:
            task.call()
            task.process.fds.pop(fd, None)
        Machine.real["close"](fd)

    def given(real: Callable[..., Any]) -> Callable[..., Any]:
        def open_file(file: Any, *how: Any, **more: Any) -> Any:
            if (task := _task()) is not None:
                task.call()
                task.process.fds.pop(file, None)  # it is the file object's now
            return real(file, *how, **more)

        return open_file

    def connect(*how: Any, **more: Any) -> Any:
        task = _task()
        _call()
        real = real_connect(*how, **{**more, "check_same_thread": False})
        return real if task is None else Connection(real, task.process)

    made = sqlite3.connect(":memory:", isolation_level=None)
    migrations.migrate(made)
    marks = [f"PRAGMA {name} = {sqlite.pragma(made, name)};" for name in _MARKS]
    *script, commit = made.iterdump()
    made.close()
    statements = "\n".join([*script, *marks, "UPDATE meta SET salt = randomblob(16);", commit])

    def migrate(sqlite: sqlite3.Connection) -> None:
        """Do what the real one does, in a tenth of the time, and at once."""
        sqlite.executescript(statements)

    real_open = replace(os, "open", opened)
    replace(os, "close", close)
    replace(builtins, "open", given(builtins.open))
    replace(os, "fdopen", given(os.fdopen))
    real_connect = replace(sqlite3, "Connection", connect)
    replace(migrations, "migrate", migrate)


def _shim_the_rest(replace: _Replace) -> None:
    def getpid() -> int:
        task = _task()
        return int(real_getpid()) if task is None else task.process.pid

    def urandom(count: int) -> bytes:
        task = _task()
        return real_urandom(count) if task is None else task._machine.chance.randbytes(count)

    def monotonic() -> float:
        task = _task()
        return float(real_monotonic()) if task is None else task._machine.now

    def now() -> float:
        task = _task()
        if task is None:
            return float(real_time())
        return task._machine.started_at + task._machine.now

    def sleep(seconds: float) -> None:
        task = _task()
        if task is None:
            real_sleep(seconds)
        else:
            task.sleep(seconds)

    real_getpid = replace(os, "getpid", getpid)
    real_urandom = replace(os, "urandom", urandom)
    real_monotonic = replace(time, "monotonic", monotonic)
    real_time = replace(time, "time", now)
    real_sleep = replace(time, "sleep", sleep)
    replace(threading, "RLock", RLock)
