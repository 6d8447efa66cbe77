"""The inbox: a process's own file, to which a span is appended by one write as it ends.

So the application's threads wait for nobody: no transaction, no mutex, no other process. The keeper
moves what is here into the store, many spans to a row; where the process is dead, another does.

Invariants:

- What `append` returned from is in the file: the death of the process leaves it there.
- A frame tells all of itself, and its checksum says whether it is whole. One that was cut short was
  never acknowledged; one that is damaged hides no other.
- One process appends to an inbox, and holds its lock as long as it lives: who can take the lock
  knows that the process is dead.
- A name is never used twice, and a file only grows. How much of it was moved is in the store,
  committed with the rows (`Store.take_in`): so nothing is moved twice, whoever moves it.
- A file is unlinked when all of it was moved and that would survive a power cut.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import math
import os
import re
import struct
import weakref
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from spool import place
from spool.errors import SpoolBusyError, SpoolError, SpoolUnsyncedError
from spool.lock import BRIEFLY, PATIENTLY, ThreadLock, can_lock
from spool.otlp import Batch, Codec
from spool.settings import without_secrets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from spool.settings import Target

_SUFFIX: Final = ".inbox-"

# Bytes from which on a file is left for a new one: by the keeper, and by an append that comes
# before it. Only a new one is held against the limits.
LARGE: Final = 1 << 20
_LARGEST: Final = 4 * LARGE

# What is read at once, and becomes one row of a route.
_CHUNK: Final = 256 << 10

# A mark that UTF-8 text never holds, and the checksum of what follows it; then the sizes of payload
# and identity, the batch's codec, spans and raw bytes, and the time in seconds since 1970.
_MARK: Final = b"\xf5\xffSP"
_HEAD: Final = struct.Struct("<4sI")
_NUMBERS: Final = struct.Struct("<IHBIId")
_HEAD_BYTES: Final = _HEAD.size + _NUMBERS.size
_WHOLE_HEAD: Final = struct.Struct(_HEAD.format + _NUMBERS.format[1:]).unpack_from
# Its ids and times alone take more (opentelemetry/proto/trace/v1/trace.proto).
_SMALLEST_SPAN: Final = 40
_TRIES: Final = 3

Identity = tuple[str, str, "str | None"]


@dataclass(frozen=True, slots=True)
class Frame:
    """One `export()` call's spans: whose they are (`identity_of`), and when they came."""

    identity: bytes
    batch: Batch
    created_at: float


@dataclass(frozen=True, slots=True)
class Chunk:
    """Frames that follow each other, between two offsets.

    `lost` spans between them, or before, cannot be read: they were damaged on disk.
    """

    frames: tuple[Frame, ...]
    start: int
    end: int
    lost: int = 0


@dataclass(eq=False, slots=True)
class File:
    """An open inbox: `moved` is how much of it the store has, `room` how much may still come.

    `is_final`: nobody appends to it any more. This process's own is moved even if somebody has
    removed it meanwhile: what was moved of it is known here. Of others only the store knows that,
    and it forgets those that are gone.
    """

    path: Path
    fd: int
    moved: int = 0
    room: int = 0
    is_own: bool = True
    is_final: bool = False

    @property
    def unmoved_bytes(self) -> int:
        """Tell how much waits to be moved. Raises OSError."""
        return max(0, os.fstat(self.fd).st_size - self.moved)

    def is_gone(self) -> bool:
        """Say whether it is elsewhere now, or another process's and was removed. Raises OSError."""
        status = os.fstat(self.fd)
        is_removed = status.st_nlink == 0
        return not self.is_own if is_removed else not _is_at(self.path, status)


@dataclass(slots=True)
class _Files:
    """What this process has open: `current` takes what comes, the `left` ones are to be moved."""

    current: File | None = None
    left: list[File] = field(default_factory=list)

    def all(self) -> list[File]:
        return [*self.left, *([] if self.current is None else [self.current])]


class Inbox:
    """The inbox of one process: safe between threads, signal handlers and forks.

    `create` opens a file of the spool, and creates it where it is absent. With `sync_each_append`
    what `append` returned from survives a power cut. A new file is begun only while no more than
    `limit` bytes wait to be moved. All methods raise SpoolFileError and SpoolBusyError, `append`
    SpoolFullError too.

    `moving` is held by the thread that uses the files in any other way than to append. It is taken
    before the lock of those that append.
    """

    def __init__(
        self, spool: Path, create: Callable[[Path], int], *, sync_each_append: bool = False
    ) -> None:
        self._spool = spool
        self._create = create
        self._sync_each_append = sync_each_append
        self.limit = math.inf
        self._identities: dict[tuple[str, str], bytes] = {}
        self._start_over()
        _all_inboxes.add(self)

    def _start_over(self) -> None:
        self._pid = os.getpid()
        self._files = _Files()
        self._lock = ThreadLock()
        self.moving = ThreadLock()
        self._are_names_synced = True

    def append(self, target: Target, batch: Batch, now: float) -> None:
        """Append a batch: one write. Refused in the middle of this thread's own append."""
        said = self._identities.get((target.route, target.endpoint)) or self._said(target)
        frame = _frame(said, batch, now)
        if self._pid != os.getpid():  # a fork that ran no handlers (in C, say)
            self._start_over_in_child()
        lock = self._lock
        if lock.is_ours():
            raise self._busy()
        try:  # as in ThreadLock.hold, but quicker
            if not lock.acquire(BRIEFLY):
                raise self._busy()
            self._append(frame)
        finally:
            try:
                lock.release()
            finally:
                lock.release()

    def _append(self, frame: bytes) -> None:
        try:
            file = self._files.current
            if file is None or file.room <= 0:
                file = self._next_file()
            file.room -= len(frame)
            if os.write(file.fd, frame) != len(frame):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._spool)  # noqa: TRY301 - as write itself would
            if self._sync_each_append:
                self._sync_append(file)
        except OSError as error:
            self._leave()  # its end may be half a frame
            raise place.unusable(self._spool, error) from error

    def _busy(self) -> SpoolBusyError:
        return SpoolBusyError(f"{self._spool}: another thread forks, or waits for the disk")

    def _sync_append(self, file: File) -> None:
        try:
            place.sync(file.fd)
        except OSError as error:
            raise SpoolUnsyncedError(f"{file.path}: cannot be synced: {error.strerror}") from error

    def _said(self, target: Target) -> bytes:
        said = json.dumps(identity(target)).encode()
        self._identities[target.route, target.endpoint] = said
        return said

    def _next_file(self) -> File:
        file = self._make()
        self._leave()
        self._files.current = file
        return file

    def _leave(self) -> None:
        if self._files.current is not None:
            self._files.current.is_final = True
            self._files.left.append(self._files.current)
            self._files.current = None

    def _make(self) -> File:
        if self._unmoved_bytes() > self.limit:
            raise place.full(self._spool)
        for _ in range(_TRIES):
            name = f"{_SUFFIX}{os.getpid()}-{os.urandom(6).hex()}"
            path = place.beside(self._spool, name)
            fd = self._create(path)
            try:
                # Another process may have found it before it was locked, and taken it for a dead
                # one's.
                if can_lock(fd) and os.fstat(fd).st_nlink:
                    return self._begin(path, fd)
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN), path)

    def _begin(self, path: Path, fd: int) -> File:
        room = place.room(fd)
        if room <= 0:
            path.unlink()
            raise place.cramped(self._spool)
        fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND)
        if self._sync_each_append:
            place.sync_directory(self._spool.parent)
        else:
            self._are_names_synced = False
        return File(path, fd, room=min(room, _LARGEST))

    # For who moves it

    def leave(self) -> None:
        """Append no more to what is there: the next append makes a new file."""
        with self._lock.hold(PATIENTLY):
            self._leave()

    @property
    def unmoved_bytes(self) -> int:
        """Tell how much waits to be moved."""
        with self._lock.hold(PATIENTLY), self._file_errors():
            return self._unmoved_bytes()

    def _unmoved_bytes(self) -> int:
        return sum(file.unmoved_bytes for file in self._files.all())

    def files(self) -> list[File]:
        """Give this process's files, those that came first, first."""
        return self._files.all()

    def turn_over(self) -> None:
        """Go on with a new file where the current one is large, or no longer at its path.

        What was moved to another place belongs to the spool that is there now. Only while `moving`.
        """
        with self._lock.hold(PATIENTLY), self._file_errors():
            current = self._files.current
            for file in self._files.all():
                status = os.fstat(file.fd)
                if file is current and (status.st_size >= LARGE or not _is_at(file.path, status)):
                    self._leave()
                if file.is_gone():
                    self._files.left.remove(file)
                    os.close(file.fd)
            if current is not None and self._files.current is None:
                with contextlib.suppress(OSError, SpoolError):  # the next append tries again
                    self._files.current = self._make()

    def sync(self) -> None:
        """Make what was appended survive a power cut."""
        with self._file_errors():
            with self._lock.hold(PATIENTLY):
                unmoved = [file for file in self._files.all() if file.unmoved_bytes]
            for file in unmoved:
                with contextlib.suppress(FileNotFoundError):  # somebody has removed it
                    place.sync_file(file.path)
            if unmoved and not self._are_names_synced:
                self._are_names_synced = True  # first: a new file may come meanwhile
                try:
                    place.sync_directory(self._spool.parent)
                except OSError:
                    self._are_names_synced = False
                    raise

    def emptied(self) -> list[File]:
        """Give the files that get no more, and were moved."""
        with self._lock.hold(PATIENTLY), self._file_errors():
            return [file for file in self._files.left if not file.unmoved_bytes]

    def unlink(self, files: Iterable[File]) -> None:
        """Remove files of this process that are in the store for good; later, where one is in use.

        Raises SpoolFileError.
        """
        with contextlib.suppress(SpoolBusyError), self._unused(), self._file_errors():
            for file in files:
                if file in self._files.left:  # else another thread was faster
                    file.path.unlink(missing_ok=True)
                    self._files.left.remove(file)
                    os.close(file.fd)

    def close(self) -> None:
        """Let go of all files, unless one is in use: what was not moved is left to others."""
        with contextlib.suppress(SpoolBusyError), self._unused():
            files, self._files = self._files.all(), _Files()
            for file in files:
                os.close(file.fd)

    @contextlib.contextmanager
    def _unused(self) -> Iterator[None]:
        """Hold both locks: this thread may itself be in the middle of a use (a signal handler)."""
        with self.moving.hold(BRIEFLY), self._lock.hold(BRIEFLY):
            yield

    @contextlib.contextmanager
    def _file_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise place.unusable(self._spool, error) from error

    # Forks

    def _freeze(self) -> None:
        self._lock.freeze()

    def _thaw(self) -> None:
        self._lock.thaw()

    def _start_over_in_child(self) -> None:
        """Let go of the parent's files without unlocking them."""
        for file in self._files.all():
            os.close(file.fd)
        self._start_over()


# Any process's files


def paths(spool: Path) -> list[Path]:
    """Give the inboxes beside a spool, any process's. Raises OSError."""
    name = re.compile(re.escape(spool.name + _SUFFIX) + r"\d+-[0-9a-f]{12}")
    try:
        with os.scandir(spool.parent) as entries:
            found = [one.name for one in entries if name.fullmatch(one.name) and _is_file(one)]
    except FileNotFoundError:
        return []
    return [spool.parent / one for one in found]


def _is_file(entry: os.DirEntry[str]) -> bool:
    return entry.is_file(follow_symlinks=False)


@contextlib.contextmanager
def opened(spool: Path) -> Iterator[list[File]]:
    """Open the inboxes beside a spool, any process's, for reading. Raises OSError."""
    with contextlib.ExitStack() as closing:
        files = []
        for path in paths(spool):
            with contextlib.suppress(FileNotFoundError):  # it was moved meanwhile
                fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
                _borrowed.add(fd)
                closing.callback(os.close, fd)
                closing.callback(_borrowed.discard, fd)
                files.append(File(path, fd, is_own=False))
        yield files


def frames(file: File) -> Iterator[Frame]:
    """Give what a file holds that was not moved. Raises OSError."""
    offset = file.moved
    while (chunk := read(file.fd, offset)) is not None:
        yield from chunk.frames
        offset = chunk.end


def identity(target: Target) -> Identity:
    """Give what `route` knows of a target, without a secret."""
    return target.route, without_secrets(target.endpoint), target.public_key


def identity_of(frame: Frame) -> Identity:
    """Give what `route` knows of a frame's target: route, endpoint and public key."""
    route, endpoint, public_key = json.loads(frame.identity)
    return route, endpoint, public_key


def read(fd: int, offset: int, *, is_final: bool = False) -> Chunk | None:
    """Read the next frames from an offset on; None where there is no whole one (yet).

    `is_final`: nobody appends any more, so what cannot be read now never can. Raises OSError.
    """
    size = _CHUNK
    while True:
        data = os.pread(fd, size, offset)
        is_end = len(data) < size
        frames, length, lost = _parse(data, is_end=is_end, is_final=is_final)
        if frames or lost:
            return Chunk(frames, offset, offset + length, lost)
        if is_end:
            return None
        # A large frame, or much that is damaged; and a damaged length may claim gigabytes.
        size = min(max(2 * size, _size_at(data, 0)), os.fstat(fd).st_size - offset + 1)


def _frame(identity: bytes, batch: Batch, now: float) -> bytes:
    payload, spans, raw_bytes = batch.payload, batch.spans, batch.raw_bytes
    said = _NUMBERS.pack(len(payload), len(identity), batch.codec, spans, raw_bytes, now) + identity
    checksum = zlib.crc32(payload, zlib.crc32(said))
    return b"".join((_HEAD.pack(_MARK, checksum), said, payload))


def _parse(data: bytes, *, is_end: bool, is_final: bool) -> tuple[tuple[Frame, ...], int, int]:
    """Give the frames in the data, the length up to the last one's end, and how many are lost."""
    frames: list[Frame] = []
    position = lost = 0
    while position < len(data):
        frame = _frame_at(data, position)
        if frame is not None:
            frames.append(frame)
            position += _HEAD_BYTES + len(frame.identity) + len(frame.batch.payload)
            continue
        if not is_end and (frames or _may_go_on(data, position)):
            break  # its rest is behind what was read
        behind = _next_frame(data, position)
        if behind is None:
            if is_final and is_end and _is_whole(data, position):
                lost, position = lost + _claimed_spans(data, position), len(data)
            break
        lost, position = lost + _claimed_spans(data, position), behind
    return tuple(frames), position, lost


def _frame_at(data: bytes, position: int) -> Frame | None:
    """Give the frame that begins there, if it is whole and sound."""
    if not data.startswith(_MARK, position) or position + _HEAD_BYTES > len(data):
        return None
    _, checksum, payload_bytes, identity_bytes, codec, spans, raw_bytes, now = _WHOLE_HEAD(
        data, position
    )
    middle = position + _HEAD_BYTES + identity_bytes
    end = middle + payload_bytes
    if end > len(data) or zlib.crc32(data[position + _HEAD.size : end]) != checksum:
        return None
    batch = Batch(data[middle:end], spans, raw_bytes, Codec.GZIP if codec else Codec.RAW)
    return Frame(data[position + _HEAD_BYTES : middle], batch, now)


def _size_at(data: bytes, position: int) -> int:
    """Give the size that a frame that begins there claims; 0 where none begins."""
    if not data.startswith(_MARK, position) or position + _HEAD_BYTES > len(data):
        return 0
    payload_bytes, identity_bytes, *_ = _NUMBERS.unpack_from(data, position + _HEAD.size)
    return _HEAD_BYTES + int(payload_bytes) + int(identity_bytes)


def _may_go_on(data: bytes, position: int) -> bool:
    """Say whether a frame that begins there could end behind the data."""
    is_begun = data.startswith(_MARK[: len(data) - position], position)
    return is_begun and not _is_whole(data, position)


def _is_whole(data: bytes, position: int) -> bool:
    """Say whether a frame begins there, and has as many bytes as it claims."""
    return 0 < _size_at(data, position) <= len(data) - position


def _next_frame(data: bytes, position: int) -> int | None:
    """Find the next sound frame behind a damaged one."""
    while (position := data.find(_MARK, position + 1)) >= 0:
        if _frame_at(data, position) is not None:
            return position
    return None


def _claimed_spans(data: bytes, position: int) -> int:
    """Count the spans of a damaged frame, by what it says; one at the least."""
    if not _is_whole(data, position):
        return 1
    *_, spans, raw_bytes, _ = _NUMBERS.unpack_from(data, position + _HEAD.size)
    return max(1, min(int(spans), int(raw_bytes) // _SMALLEST_SPAN))


def _is_at(path: Path, status: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.stat(path), status)
    except (FileNotFoundError, NotADirectoryError):
        return False


_all_inboxes: weakref.WeakSet[Inbox] = weakref.WeakSet()

# Others' files, open in this process: in a child they would keep the locks that were taken.
_borrowed: set[int] = set()

# Those that this fork has frozen: another thread may make one meanwhile.
_frozen: list[Inbox] = []


def _before_fork() -> None:
    for inbox in sorted(_all_inboxes, key=id):
        inbox._freeze()  # noqa: SLF001 - this module's own class
        _frozen.append(inbox)


def _after_in_parent() -> None:
    while _frozen:
        _frozen.pop()._thaw()  # noqa: SLF001 - as above


def _after_in_child() -> None:
    _frozen.clear()
    while _borrowed:
        os.close(_borrowed.pop())
    for inbox in list(_all_inboxes):
        inbox._start_over_in_child()  # noqa: SLF001 - as above


os.register_at_fork(
    before=_before_fork, after_in_parent=_after_in_parent, after_in_child=_after_in_child
)
