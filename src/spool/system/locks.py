"""Bounded, fork-safe locks between processes: of files, by `flock`; and between threads.

Invariants:

- At most one thread of one process holds a lock. `flock` belongs to the open file, so two threads
  that share a descriptor would both hold it: a `threading.Lock` is always taken first.
- Waiting is bounded: `flock` is polled without blocking, with short sleeps. Who waits for another
  process keeps no thread of its own from a fork meanwhile.
- A forked child never holds, keeps alive or frees its parent's lock: it closes the inherited
  descriptor without unlocking. (LOCK_UN on it would free the parent's lock.) Nor does it wait for
  a thread that only the parent has.
- The lock file is never renamed or unlinked by us. When somebody else did, the next holder notices
  by device and inode, and opens the file that is there now.

What a holder's signature is, which it leaves at the beginning of its file:

    offset  bytes
    0       10     its pid, in decimal, filled with blanks
    10      16     eight random bytes in hexadecimal, new each time
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

try:
    import fcntl
except ImportError as error:  # pragma: no cover - Windows
    raise ImportError(
        "langfuse-spool needs Linux or macOS: its lock between processes is flock(2)"
    ) from error

from spool.errors import SpoolBusyError, SpoolError, SpoolStrangerError
from spool.system import disk, spool_files
from spool.system.forks import PerProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

# Seconds to wait for a lock: on the application's threads, and on others.
BRIEFLY: Final = 0.1
PATIENTLY: Final = 5.0

_SHORTEST_SLEEP = 0.0001
# Who sleeps longer loses to those who come later, and the lock lies idle meanwhile.
_LONGEST_SLEEP = 0.0005
_PID_WIDTH = 10
_TOKEN_BYTES = 8
_SIGNATURE_BYTES = 64
_PROBES = 3


class FileLock:
    """A lock on one file, between the threads of this process and all other processes.

    `create` opens the lock file for reading and writing, and creates it where it is absent.
    A `shared` lock only excludes exclusive ones: it says "I am here", see `is_held`.
    """

    def __init__(self, path: Path, create: Callable[[Path], int], *, shared: bool = False) -> None:
        self.path = path
        self._create = create
        self._operation = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        self._own = PerProcess(_Use, _Use.close)

    def prepare(self) -> None:
        """Create the file now: later the disk may take nothing more. Raises SpoolFileError."""
        use = self._own.get()
        # Where another thread has it, the file is there: it may have it for a whole request.
        if use.fd is None and use.threads.acquire(0):
            try:
                with self._file_errors():
                    self._open(use)
            finally:
                use.threads.release()

    @contextlib.contextmanager
    def hold(self, timeout: float) -> Iterator[None]:
        """Hold the lock; raise SpoolBusyError when it cannot be had within `timeout` seconds."""
        with _held(self, timeout, f"{self.path}: it was held elsewhere"):
            yield

    def is_ours(self) -> bool:
        """Say whether this thread has it."""
        return self._own.get().threads.is_ours()

    def acquire(self, timeout: float) -> bool:
        """Take the lock within `timeout` seconds; say whether it was had. Raises SpoolFileError."""
        use, deadline, sleep = self._own.get(), time.monotonic() + timeout, _SHORTEST_SLEEP
        if use.threads.is_ours():  # a signal handler, in the middle of its thread's own use
            return False
        while True:
            if not use.threads.acquire(max(0.0, deadline - time.monotonic())):
                return False
            if self._flock_or_release(use):
                return True
            if (left := deadline - time.monotonic()) <= 0:
                return False
            time.sleep(min(sleep, left))
            sleep = min(2 * sleep, _LONGEST_SLEEP)

    def _flock_or_release(self, use: _Use) -> bool:
        is_had = False
        try:
            with self._file_errors():
                is_had = self._try_flock(use)
        finally:
            if not is_had:
                use.threads.release()
        return is_had

    def release(self) -> None:
        """Free the lock for the next one, if this thread holds it."""
        use = self._own.get()
        if not use.threads.is_ours():
            return
        try:
            if use.fd is not None:
                fcntl.flock(use.fd, fcntl.LOCK_UN)
        finally:
            use.threads.release()

    def sign(self) -> None:
        """Leave a new signature of this process in the file. Only for the holder."""
        use = self._own.get()
        if use.fd is not None:
            signed = f"{os.getpid():<{_PID_WIDTH}}{os.urandom(_TOKEN_BYTES).hex()}"
            with contextlib.suppress(OSError):  # a full disk: then it is seen a little later
                os.pwrite(use.fd, signed.encode(), 0)

    def freeze(self, deadline: float, *, ask_others: bool = True) -> bool:
        """Keep all threads of this process out while it forks or closes the file; then `thaw`.

        Other processes too, if `ask_others`, and the time suffices for that. Says whether this
        process's threads were to be kept out by the monotonic time `deadline`.
        """
        use = self._own.get()
        is_nested = use.threads.is_ours()  # in a signal handler, in the middle of its own use
        if not use.threads.acquire(max(0.0, deadline - time.monotonic())):
            return False
        use.is_nested = is_nested
        if ask_others and not is_nested:
            # Without the file there is nobody to keep out.
            with contextlib.suppress(OSError, SpoolError):
                while not self._try_flock(use) and time.monotonic() < deadline:
                    time.sleep(_LONGEST_SLEEP)
        return True

    def thaw(self) -> None:
        """End a `freeze`, in the parent."""
        use = self._own.get()
        if use.is_nested:
            use.is_nested = False
            use.threads.release()
        else:
            self.release()

    def _try_flock(self, use: _Use) -> bool:
        fd = self._open(use)
        try:
            fcntl.flock(fd, self._operation | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN):
                return False
            raise
        if self._is_at_path(use):
            return True
        use.close()
        return False

    def _open(self, use: _Use) -> int:
        if use.fd is None:
            fd = self._create(self.path)
            status = os.fstat(fd)
            use.fd, use.identity = fd, (status.st_dev, status.st_ino)
        return use.fd

    def _is_at_path(self, use: _Use) -> bool:
        try:
            status = os.stat(self.path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return (status.st_dev, status.st_ino) == use.identity

    def close(self) -> None:
        """Give the descriptor back, unless it is in use; the next `acquire` opens it again."""
        use = self._own.get()
        if use.threads.acquire(0):
            try:
                use.close()
            finally:
                use.threads.release()

    @contextlib.contextmanager
    def _file_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise disk.unusable(self.path, error) from error


class ThreadLock:
    """A lock between the threads of this process, that a signal handler cannot be caught by.

    It is refused in the middle of this thread's own use, and `release` frees only what this thread
    has (`is_ours`): so an exception at any moment leaves no doubt. Use it as `hold` does.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self.is_ours = ownership(self._lock)

    def acquire(self, timeout: float) -> bool:
        """Take it within `timeout` seconds; say whether it was had. Only where it is not ours."""
        return self._lock.acquire(timeout=timeout)

    def release(self) -> None:
        """Free it, if this thread has it."""
        if self.is_ours():
            self._lock.release()

    @contextlib.contextmanager
    def hold(self, timeout: float) -> Iterator[None]:
        """Hold it; raise SpoolBusyError when it cannot be had within `timeout` seconds."""
        with _held(self, timeout, "another thread of this process had the lock"):
            yield


@dataclass(slots=True)
class _Use:
    """What one process has of a lock: the one between its threads, and the open file."""

    threads: ThreadLock = field(default_factory=ThreadLock)
    fd: int | None = None
    identity: tuple[int, int] = (0, 0)
    is_nested: bool = False

    def close(self) -> None:
        """Close without unlocking: a descriptor that a fork left elsewhere keeps its lock."""
        if self.fd is not None:
            fd, self.fd = self.fd, None
            os.close(fd)


def ownership(lock: threading.RLock) -> Callable[[], bool]:
    """Give what says whether the thread that asks has a lock."""
    # What Condition relies on, too.
    is_ours: Callable[[], bool] = lock._is_owned  # type: ignore[attr-defined]  # noqa: SLF001 - as above
    return is_ours


@contextlib.contextmanager
def _held(lock: FileLock | ThreadLock, timeout: float, trouble: str) -> Iterator[None]:
    busy = SpoolBusyError(f"{trouble} for more than {timeout:g} s; try again")
    if lock.is_ours():
        raise busy
    try:
        if not lock.acquire(timeout):
            raise busy
        yield
    finally:
        try:
            lock.release()
        finally:  # again, if an exception out of a signal handler kept it from that
            lock.release()


def is_held(path: Path, spool: Path) -> bool:
    """Say whether any process holds the lock on this file of a spool.

    Nobody holds one that is absent, or somebody else's. Raises OSError.
    """
    try:
        fd = spool_files.open_file(path, spool)
    except (FileNotFoundError, SpoolStrangerError):
        return False
    try:
        return is_locked(fd)
    finally:
        os.close(fd)


def is_locked(fd: int) -> bool:
    """Say whether anybody has locked an open file; else it is locked here now. Raises OSError."""
    return not any(_can_lock_soon(fd) for _ in range(_PROBES))


def can_lock(fd: int) -> bool:
    """Lock an open file, if nobody else has; say whether it was had. Raises OSError."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _can_lock_soon(fd: int) -> bool:
    is_had = can_lock(fd)
    if not is_had:
        time.sleep(_LONGEST_SLEEP)  # it may only be another one's probe
    return is_had


def signature(path: Path, spool: Path) -> tuple[int, str] | None:
    """Give the last signature: the pid, and what is new each time; None where nobody signed."""
    try:
        with open(spool_files.open_file(path, spool)) as file:  # noqa: PTH123 - it is open already
            pid, _, token = file.read(_SIGNATURE_BYTES).partition(" ")
    except (OSError, SpoolStrangerError, UnicodeDecodeError):
        return None
    return (int(pid), token.strip()) if pid.isdecimal() else None
