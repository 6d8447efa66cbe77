"""Drainers: which processes send from this spool, with whose secrets, and whether they move.

Invariants:

- Each has a file of its own beside the spool, and the lock of it as long as it lives. So a death
  shows at once, in other containers too, where a pid says nothing.
- No secret is in it: routes are named as rows name them.
- One that gets no file, as the disk refuses it, drains all the same, and tries again.
- A dead one's file is removed only by who holds its lock.

What is in the file `.drainer-<pid>-<12 hex digits>`:

    offset  bytes
    0       20     when it moved last, in seconds of the machine's monotonic clock; then blanks
    20             JSON: what `SeenDrainer` says; then blanks
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from spool.__about__ import __version__
from spool.errors import SpoolError, SpoolStrangerError
from spool.journal import at_fork
from spool.system import spool_files
from spool.system.forks import PerProcess
from spool.system.locks import BRIEFLY, can_lock, is_held, is_locked

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from spool.store.store import Store

Kind = Literal["application", "run", "drain"]

MOVES_SECONDS: Final = 10.0  # so often a drainer shows that it moves
# One that has not done so for so long, beside two requests, does not move.
_STILL_SECONDS: Final = 300.0
_STAMP_BYTES: Final = 20
_SUFFIX: Final = ".drainer-"
_RANDOM_BYTES: Final = 6
_TRIES: Final = 3
_SOON: Final = 0.001
_STOPPED: Final = frozenset("Tt")  # stopped, or traced: proc(5), `stat`


@dataclass(frozen=True, slots=True)
class SeenDrainer:
    """A process that is alive and drains, as others see it; times in seconds since 1970.

    `pid` is as in its own container; `is_here` says that this is it, as far as is known. `routes`
    are those that it can send, None where that is not known: it is of an older version, or the disk
    did not take it. `is_stopped`: it does not move (SIGSTOP, a frozen container, a defect).
    """

    pid: int | None
    kind: Kind | None = None
    version: str | None = None
    since: float | None = None
    acted_at: float | None = None
    routes: frozenset[str] | None = None
    is_stopped: bool = False
    is_here: bool = True

    def can_send(self, route: str) -> bool:
        """Say whether it sends a route, as far as is known."""
        return not self.is_stopped and (self.routes is None or route in self.routes)


# To be seen


class Presence:
    """Lets others see that this process drains; `sending` is how long a request can last."""

    def __init__(self, store: Store, sending: float) -> None:
        self.kind: Kind = "application"
        self._store = store
        self._sending = sending
        self._own = PerProcess(_OwnFile, _OwnFile.close)

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Be seen meanwhile, if the disk lets us."""
        is_had = False
        with contextlib.suppress(SpoolError):  # older versions look at this one
            is_had = self._store.presence.acquire(timeout=BRIEFLY)
        own = self._own.get()
        own.is_shown, own.since, own.due_at = True, time.time(), 0.0
        try:
            yield
        finally:
            self.end()
            if is_had:
                self._store.presence.release()

    def tell(self, routes: Collection[str]) -> None:
        """Show which routes can be sent from here; and that this process moves."""
        own = self._own.get()
        if own.is_shown and own.routes != routes:
            own.routes, own.is_told, own.due_at = frozenset(routes), False, 0.0
        self.move()

    def move(self) -> None:
        """Show that this process moves, if it has not done that just now."""
        own, now = self._own.get(), time.monotonic()
        own.acted_at = now
        if not own.is_shown or now < own.due_at:
            return
        own.moved_at, own.due_at = now, now + MOVES_SECONDS
        with contextlib.suppress(SpoolError, OSError):
            if own.is_gone():
                own.close()
            if own.fd is None:
                own.make(self._store)
            if own.is_told:
                own.stamp()
            else:
                own.write(self._said(own))

    @property
    def since(self) -> float | None:
        """Since when this process is seen, in seconds since 1970; None where it is not."""
        own = self._own.get()
        return own.since if own.is_shown else None

    def is_moving(self) -> bool:
        """Say whether this process's drainer moves, as far as can be told yet."""
        still = time.monotonic() - self._own.get().acted_at
        return still < _STILL_SECONDS + 2 * self._sending

    def end(self) -> None:
        """Be seen no longer."""
        self._own.get().remove()

    def _said(self, own: _OwnFile) -> str:
        return json.dumps(
            {
                "pid": os.getpid(),
                "born": _state(os.getpid())[0],
                "kind": self.kind,
                "version": __version__,
                "since": own.since,
                "still_seconds": _STILL_SECONDS + 2 * self._sending,
                "routes": sorted(own.routes or ()),
            }
        )


@dataclass(slots=True)
class _OwnFile:
    """This process's file; without `fd` there is none (yet).

    `is_told`: all is written. When something is next is `due_at`, as `moved_at` in monotonic time.
    """

    is_shown: bool = False
    is_told: bool = False
    since: float = 0.0
    acted_at: float = field(default_factory=time.monotonic)
    moved_at: float = 0.0
    due_at: float = 0.0
    routes: frozenset[str] | None = None
    path: Path = Path()
    fd: int | None = None
    size: int = 0

    def make(self, store: Store) -> None:
        """Make it, and lock it. Raises SpoolError, OSError."""
        for _ in range(_TRIES):
            name = f"{_SUFFIX}{os.getpid()}-{os.urandom(_RANDOM_BYTES).hex()}"
            path = spool_files.beside(store.database.path, name)
            fd = store.database.create_beside(path)
            with _borrowed(fd):  # until it is here: a child would keep the lock
                # Another process may have found it before it was locked, and taken it for a dead
                # one's.
                if can_lock(fd) and os.fstat(fd).st_nlink:
                    self.path, self.fd, self.size, self.is_told = path, fd, 0, False
                    return
            os.close(fd)
            path.unlink(missing_ok=True)

    def is_gone(self) -> bool:
        """Say whether somebody has removed it."""
        return self.fd is not None and os.fstat(self.fd).st_nlink == 0

    def write(self, said: str) -> None:
        """Say all anew, in one write: whoever reads meanwhile reads again. Raises OSError."""
        if self.fd is not None:
            text = f"{self.moved_at:<{_STAMP_BYTES}.6f}{said}".encode()
            self.size = max(self.size, len(text))
            self.is_told = os.pwrite(self.fd, text.ljust(self.size), 0) == self.size

    def stamp(self) -> None:
        """Say only that it moves. Raises OSError."""
        if self.fd is not None:
            os.pwrite(self.fd, f"{self.moved_at:<{_STAMP_BYTES}.6f}".encode(), 0)

    def remove(self) -> None:
        """Remove it."""
        self.is_shown = False
        if self.fd is not None:
            with contextlib.suppress(OSError):  # read-only by now: others remove it
                self.path.unlink(missing_ok=True)
            self.close()

    def close(self) -> None:
        """Let go of it, and of its lock where no child has it, too."""
        fd, self.fd, self.is_told = self.fd, None, False
        if fd is not None:
            os.close(fd)


# To see


def is_any(store: Store) -> bool:
    """Say whether any process drains this spool, though it may be stopped."""
    with store.database.file_errors():
        return is_held(store.presence.path, store.database.path)


def seen(store: Store) -> tuple[SeenDrainer, ...]:
    """Give the processes that drain this spool and are alive, the first one first.

    Raises SpoolFileError.
    """
    spool = store.database.path
    with store.database.file_errors():
        found = [one for path in _paths(spool) if (one := _look_at(path, spool)) is not None]
    if not found and is_any(store):  # of an older version, or the disk refuses its file
        return (SeenDrainer(pid=store.drain_lock.pid()),)
    return tuple(sorted(found, key=lambda one: one.since or 0.0))


def remove_dead(spool: Path) -> None:
    """Remove the files of those that are dead. Raises OSError."""
    for path in _paths(spool):
        with _passing_over(), _opened(path, spool) as fd:
            if can_lock(fd):
                path.unlink(missing_ok=True)


def _paths(spool: Path) -> list[Path]:
    name = re.compile(re.escape(spool.name + _SUFFIX) + r"\d+-[0-9a-f]{12}")
    try:
        return [one for one in spool.parent.iterdir() if name.fullmatch(one.name)]
    except FileNotFoundError:
        return []


def _passing_over() -> contextlib.suppress:
    """Pass over what was removed just now, is none of the spool's, or not for us to remove."""
    return contextlib.suppress(FileNotFoundError, SpoolStrangerError, PermissionError)


@contextlib.contextmanager
def _opened(path: Path, spool: Path) -> Iterator[int]:
    fd = spool_files.open_file(path, spool)
    try:
        with _borrowed(fd):
            yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def _borrowed(fd: int) -> Iterator[None]:
    """Let a child that is forked meanwhile close it: a lock on it would live on."""
    at_fork.borrowed.add(fd)
    try:
        yield
    finally:
        at_fork.borrowed.discard(fd)


def _look_at(path: Path, spool: Path) -> SeenDrainer | None:
    """Give the drainer whose file this is; None where it is dead. Raises OSError."""
    with _passing_over(), _opened(path, spool) as fd:
        if is_locked(fd):
            if (said := _read(fd)) is not None:
                return said.drainer(is_readonly=bool(os.fstatvfs(fd).f_flag & os.ST_RDONLY))
            return SeenDrainer(pid=int(path.name.rpartition(_SUFFIX)[2].partition("-")[0]))
    return None


@dataclass(frozen=True, slots=True)
class _Said:
    """What a file says."""

    moved_at: float
    pid: int
    born: str
    kind: Kind
    version: str
    since: float
    still_seconds: float
    routes: frozenset[str] = field(default_factory=frozenset)

    @classmethod
    def of(cls, text: str) -> _Said:
        """Read it. Raises ValueError, KeyError, TypeError."""
        stamp, said = float(text[:_STAMP_BYTES]), json.loads(text[_STAMP_BYTES:])
        found: dict[str, Any] = {name: said[name] for name in cls.__slots__ if name in said}
        return cls(**{**found, "moved_at": stamp, "routes": frozenset(said["routes"])})

    def drainer(self, *, is_readonly: bool) -> SeenDrainer:
        """Give the drainer that it says; on a read-only disk it cannot show that it moves."""
        still = max(0.0, time.monotonic() - self.moved_at)
        born, state = _state(self.pid)
        is_here = born == self.born  # both unknown where there is no /proc
        is_stopped = is_here and state in _STOPPED
        return SeenDrainer(
            pid=self.pid,
            kind=self.kind,
            version=self.version,
            since=self.since,
            acted_at=time.time() - still,
            routes=self.routes,
            is_stopped=is_stopped or (still > self.still_seconds and not is_readonly),
            is_here=is_here,
        )


def _read(fd: int) -> _Said | None:
    """Read what a file says; None where it says nothing, as on a full disk."""
    for _ in range(_TRIES):  # it may be written just now
        with contextlib.suppress(ValueError, KeyError, TypeError):
            return _Said.of(os.pread(fd, os.fstat(fd).st_size, 0).decode())
        time.sleep(_SOON)
    return None


def _state(pid: int) -> tuple[str, str]:
    """Tell when a process began, and its state; nothing of one that this container has not.

    The beginning tells it from another one that had the same pid, here or in another container.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return "", ""
    return fields[19], fields[0]
