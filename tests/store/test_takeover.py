from __future__ import annotations

import contextlib
import errno
import os
import resource
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dead_processes import accept, die, leave_many
from spool.errors import SpoolFileError
from spool.journal import at_fork, directory, reader
from spool.journal.chunk import Chunk
from spool.settings.settings import Settings
from spool.store import ingest, journal_chunks, takeover
from spool.store.drainers import Presence
from spool.store.records import Ledger
from spool.store.store import Store
from spool.store.takeover import Takeover

pytestmark = pytest.mark.once


def test_what_a_dead_process_left_is_moved_and_its_journal_goes(path: Path, store: Store) -> None:
    die(path, "a", "b")
    assert store.ledger() == Ledger(accepted=2, pending=2)
    takeover.take_over(store, compress=True, sending=10.0)
    assert store.ledger() == Ledger(accepted=2, pending=2)
    assert [row.batch.spans for row in store.pending()] == [2]
    assert directory.paths(path) == []
    takeover.take_over(store, compress=True, sending=10.0)
    assert journal_chunks.offsets(store.database) == {}


def test_a_dead_processs_journal_stays_until_what_was_moved_is_synced(
    path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    die(path, "a")

    def broken() -> None:
        raise SpoolFileError("the disk does not answer")

    with monkeypatch.context() as patched:
        patched.setattr(store.database, "sync", broken)
        with pytest.raises(SpoolFileError):
            takeover.take_over(store, compress=True, sending=10.0)
    assert len(directory.paths(path)) == 1
    takeover.take_over(store, compress=True, sending=10.0)
    assert (directory.paths(path), store.ledger()) == ([], Ledger(accepted=1, pending=1))


def test_what_a_living_process_has_is_left_to_it(store: Store, other: Store, path: Path) -> None:
    store.open()
    accept(store, "a")
    takeover.take_over(other, compress=True, sending=10.0)
    assert other.pending() == []


def test_what_stands_still_is_moved_though_its_process_lives(
    store: Store, other: Store, path: Path
) -> None:
    store.open()
    accept(store, "a")
    (file,) = directory.paths(path)
    an_hour_ago = time.time() - 3600
    os.utime(file, (an_hour_ago, an_hour_ago))
    takeover.take_over(other, compress=True, sending=10.0)
    assert len(other.pending()) == 1
    accept(store, "b")
    ingest.ingest(store, compress=True)  # it goes on
    assert file.exists()
    assert store.ledger() == Ledger(accepted=2, pending=2)


def test_asked_for_everything_it_moves_what_living_processes_have_too(
    store: Store, other: Store
) -> None:
    store.open()
    accept(store, "a")
    takeover.take_over(other, compress=True, sending=10.0, everything=True)
    assert len(other.pending()) == 1


def test_however_many_move_it_each_span_is_moved_once(path: Path) -> None:
    stores = [Store(path) for _ in range(4)]
    stores[0].open()
    is_over = threading.Event()
    trouble: list[BaseException] = []

    def move(store: Store) -> None:
        try:
            while not is_over.is_set():
                ingest.ingest(store, compress=True)
                takeover.take_over(store, compress=True, sending=10.0, everything=True)
        except BaseException as error:  # noqa: BLE001 - for the test to see
            trouble.append(error)

    movers = [threading.Thread(target=move, args=(store,)) for store in stores]
    for mover in movers:
        mover.start()
    for number in range(2000):
        accept(stores[number % 4], str(number))
    is_over.set()
    for mover in movers:
        mover.join()
    assert trouble == []
    for store in stores:
        ingest.ingest(store, compress=True)
    assert stores[0].ledger() == Ledger(accepted=2000, pending=2000)
    rows, after = 0, 0
    while page := stores[0].pending(after):
        rows, after = rows + sum(row.batch.spans for row in page), page[-1].id
    assert rows == 2000
    for store in stores:
        store.close()


def test_what_another_has_moved_removed_and_forgotten_is_not_moved_again(
    path: Path, store: Store, other: Store
) -> None:
    die(path, "a")
    (left,) = directory.paths(path)
    with directory.opened(left, path) as file:
        chunk = reader.read(file.fd, file.begins_at(b""))
        assert chunk is not None
        takeover.take_over(other, compress=True, sending=10.0)
        takeover.take_over(other, compress=True, sending=10.0)
        assert journal_chunks.offsets(other.database) == {}
        assert not journal_chunks.ingest(store.database, file, chunk, chunk.frames, 5.0)
    assert store.ledger() == Ledger(accepted=1, pending=1)


@contextlib.contextmanager
def few_files(limit: int) -> Iterator[None]:
    """Let this process open only so many files, as `ulimit -n` does."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_more_dead_processes_than_files_can_be_open_are_all_moved(path: Path, store: Store) -> None:
    leave_many(path, 300)
    # Tests before this one may have left many open.
    last = max(int(entry.name) for entry in Path("/dev/fd").iterdir())
    with few_files(last + 100):
        assert len(list(store.inbound())) == 300
        assert store.ledger() == Ledger(accepted=300, pending=300)
        takeover.take_over(store, compress=True, sending=10.0)
        assert store.ledger() == Ledger(accepted=300, pending=300)
    assert (directory.paths(path), len(store.pending())) == ([], 64)


def test_of_others_journals_one_is_open_at_a_time(
    path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_many(path, 5)
    store.open()
    most, read = [0], reader.read

    def read_and_count(*how: int, **more: bool) -> Chunk | None:
        most.append(len(at_fork.borrowed))
        return read(*how, **more)

    monkeypatch.setattr(reader, "read", read_and_count)
    store.ledger()
    list(store.inbound())
    takeover.take_over(store, compress=True, sending=10.0)
    assert max(most) == 1


def test_one_journal_that_cannot_be_read_keeps_no_other_back(
    path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_many(path, 3)
    bad = directory.paths(path)[0]
    identity, read = bad.stat().st_ino, reader.read

    def read_but_not_the_bad_one(fd: int, *how: int, **more: bool) -> Chunk | None:
        if os.fstat(fd).st_ino == identity:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(fd, *how, **more)

    monkeypatch.setattr(reader, "read", read_but_not_the_bad_one)
    assert store.ledger() == Ledger(accepted=2, pending=2)
    assert len(list(store.inbound())) == 2
    assert set(store.unreadable) == {bad}
    takeover.take_over(store, compress=True, sending=10.0)
    assert set(store.unreadable) == {bad}
    assert store.ledger() == Ledger(accepted=2, pending=2)
    assert directory.paths(path) == [bad]
    monkeypatch.undo()
    takeover.take_over(store, compress=True, sending=10.0)
    assert store.ledger() == Ledger(accepted=3, pending=3)
    assert store.unreadable == {}


def test_without_a_free_descriptor_the_journals_are_moved_later(path: Path, store: Store) -> None:
    leave_many(path, 3)
    store.open()
    journal_chunks.offsets(store.database)
    open_files = [os.open(os.devnull, os.O_RDONLY)]
    with few_files(open_files[0] + 8):
        with contextlib.suppress(OSError):
            while True:
                open_files.append(os.open(os.devnull, os.O_RDONLY))
        with pytest.raises(SpoolFileError, match="Too many open files"):
            takeover.take_over(store, compress=True, sending=10.0)
        for fd in open_files:
            os.close(fd)
    assert store.unreadable == {}
    takeover.take_over(store, compress=True, sending=10.0)
    assert store.ledger() == Ledger(accepted=3, pending=3)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[Store]:
    """Note who looks."""
    looks: list[Store] = []
    take_over = takeover.take_over

    def noted(store: Store, **how: object) -> bool:
        looks.append(store)
        return take_over(store, **how)  # type: ignore[arg-type]  # as it is asked

    monkeypatch.setattr(takeover, "take_over", noted)
    return looks


def test_while_one_has_looked_no_other_does(
    store: Store, other: Store, settings: Settings, looks: list[Store]
) -> None:
    for process in (store, other):
        process.open()
    with Presence(store, 1).shown(), Presence(other, 1).shown():
        both = [Takeover(store, settings), Takeover(other, settings)]
        for one in both:
            one.look()  # each begins with it
        for _ in range(20):
            for one in both:
                one.look()
        assert looks == [store, other]
        an_hour_ago = time.time() - 3600
        os.utime(store.presence.path, (an_hour_ago, an_hour_ago))
        for one in both:
            one.look()
        assert looks == [store, other, store]
