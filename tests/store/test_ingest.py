from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dead_processes import accept, die, leave_many
from ledgers import balances
from spans import batch
from spool.errors import SpoolBusyError, SpoolDamagedError, SpoolFileError
from spool.journal import directory, header, reader
from spool.journal.chunk import Chunk
from spool.journal.file import File
from spool.journal.journal import LARGE
from spool.otlp.batch import ROW_BYTES, Codec, unpack
from spool.store import ingest, journal_chunks, takeover
from spool.store.records import Ledger
from spool.store.store import Store
from spool.system import spool_files
from targets import MINE, OTHERS

pytestmark = pytest.mark.once


@pytest.mark.parametrize("compress", [True, False])
def test_what_came_together_becomes_one_row_of_each_route(store: Store, *, compress: bool) -> None:
    batches = [batch(name) for name in "abcd"]
    for one, target in zip(batches, (MINE, MINE, OTHERS, MINE), strict=True):
        store.accept(target, one, 1.0)
    ingest.ingest(store, compress=compress)
    mine, others = sorted(store.pending(), key=lambda row: -row.batch.spans)
    assert (mine.batch.spans, others.batch.spans) == (3, 1)
    # A single span does not become smaller.
    assert mine.batch.codec == (Codec.DEFLATE if compress else Codec.RAW)
    assert others.batch.codec == Codec.RAW
    assert unpack(mine.batch) == b"".join(batches[number].payload for number in (0, 1, 3))
    assert [route.pending_spans for route in store.routes()] == [3, 1]


def test_a_span_is_in_the_ledger_once_before_and_after_it_is_moved(
    store: Store, other: Store
) -> None:
    accept(store, "a", "b")
    store.open()
    before = store.ledger()
    assert [frame.batch.spans for frame in other.inbound()] == [1, 1]
    ingest.ingest(store, compress=True)
    assert before == store.ledger() == other.ledger() == Ledger(accepted=2, pending=2)
    assert list(other.inbound()) == []
    accept(store, "c")
    ingest.ingest(store, compress=True)
    ingest.ingest(store, compress=True)
    assert store.ledger() == Ledger(accepted=3, pending=3)


def test_rows_are_as_large_as_they_may_be_cut_and_no_larger(store: Store) -> None:
    accept(store, *map(str, range(40)), size=ROW_BYTES // 10)
    ingest.ingest(store, compress=True)
    sizes = [row.batch.raw_bytes for row in store.pending()]
    assert max(sizes) <= ROW_BYTES
    assert store.ledger().pending == 40


def test_a_large_journal_is_removed_when_what_was_moved_is_synced(
    store: Store, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept(store, "a", size=LARGE)
    (first,) = (file.path for file in store.journal.files())
    ingest.ingest(store, compress=True)
    accept(store, "b")
    ingest.ingest(store, compress=True)

    def broken() -> None:
        raise SpoolFileError("the disk does not answer")

    with monkeypatch.context() as patched:
        patched.setattr(store.database, "sync", broken)
        with pytest.raises(SpoolFileError):
            ingest.sync(store)
    assert first.exists()
    ingest.sync(store)
    assert not first.exists()
    assert store.ledger() == Ledger(accepted=2, pending=2)


def test_what_cannot_be_moved_for_now_stays(store: Store, other: Store) -> None:
    accept(store, "a")
    with other.database.writing(), pytest.raises(SpoolBusyError):
        ingest.ingest(store, compress=True, timeout=0.0)
    assert other.ledger() == Ledger(accepted=1, pending=1)
    ingest.ingest(store, compress=True)
    assert store.ledger() == Ledger(accepted=1, pending=1)


def test_an_append_that_ends_while_its_file_is_read_is_not_taken_for_half_a_frame(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept(store, "a")
    (file,) = store.journal.files()
    whole = file.path.read_bytes()
    os.truncate(file.path, len(whole) // 2)
    read = reader.read

    def read_before_it_ends(fd: int, offset: int, size: int, *, is_final: bool) -> Chunk | None:
        chunk = read(fd, offset, size, is_final=is_final)
        file.path.write_bytes(whole)
        store.journal.leave()
        return chunk

    with monkeypatch.context() as patch:
        patch.setattr(reader, "read", read_before_it_ends)
        ingest.ingest(store, compress=True)
    ingest.ingest(store, compress=True)
    assert store.ledger() == Ledger(accepted=1, pending=1)
    assert len(store.pending()) == 1


def test_a_journal_that_was_removed_under_its_process_is_moved_all_the_same(
    store: Store, path: Path
) -> None:
    accept(store, "a")
    shutil.rmtree(path.parent)
    accept(store, "b")
    ingest.ingest(store, compress=True)
    accept(store, "c")
    ingest.ingest(store, compress=True)
    assert store.ledger() == Ledger(accepted=3, pending=3)


def test_what_was_moved_away_is_in_one_place(store: Store, path: Path) -> None:
    accept(store, "a")
    ingest.ingest(store, compress=True)
    accept(store, "b")
    aside = path.parent.rename(path.parent.with_name("aside"))
    accept(store, "c")
    ingest.ingest(store, compress=True)
    accept(store, "d")
    ingest.ingest(store, compress=True)
    assert store.ledger() == Ledger(accepted=1, pending=1)
    moved = Store(aside / path.name)
    takeover.take_over(moved, compress=True, sending=10.0)
    assert moved.ledger() == Ledger(accepted=3, pending=3)
    moved.close()


def test_what_is_moved_away_while_it_is_read_is_in_one_place(
    store: Store, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.open()
    accept(store, "a")
    read = reader.read

    def read_and_rename(*how: int, **more: bool) -> Chunk | None:
        chunk = read(*how, **more)
        path.parent.rename(path.parent.with_name("aside"))
        return chunk

    with monkeypatch.context() as patched:
        patched.setattr(reader, "read", read_and_rename)
        ingest.ingest(store, compress=True)
    assert store.ledger() == Ledger()
    moved = Store(path.parent.with_name("aside") / path.name)
    assert moved.ledger() == Ledger(accepted=1, pending=1)
    moved.close()


def test_a_file_that_is_replaced_gets_only_what_comes_then(store: Store, path: Path) -> None:
    accept(store, "a")
    ingest.ingest(store, compress=True)
    path.rename(path.with_name("aside.db"))
    accept(store, "b")
    ingest.ingest(store, compress=True)
    assert store.ledger() == Ledger(accepted=1, pending=1)


def move_away(path: Path) -> Store:
    """Rename the main file and its WAL, as a person does; open it where it is then."""
    aside = Path(tempfile.mkdtemp(dir=path.parent.parent)) / path.name
    for suffix in ("", "-wal", "-shm"):
        spool_files.beside(path, suffix).rename(spool_files.beside(aside, suffix))
    return Store(aside)


def test_what_a_file_has_that_was_moved_away_is_not_in_the_next_one_too(
    store: Store, other: Store, path: Path
) -> None:
    accept(store, "a")
    ingest.ingest(store, compress=True)
    accept(store, "b")
    with contextlib.closing(move_away(path)) as moved:
        other.open()
        assert other.ledger() == Ledger(accepted=1, pending=1)
        store.journal.close()  # its process is dead: nobody else knows how far it was moved
        takeover.take_over(other, compress=True, sending=10.0)
        assert other.ledger() == moved.ledger() == Ledger(accepted=1, pending=1)


def test_what_was_delivered_beside_a_file_that_was_moved_away_is_not_sent_beside_the_next(
    store: Store, other: Store, path: Path
) -> None:
    store.open()
    accept(store, "a")
    claim = ingest.claim(store, reader.CHUNK)
    assert claim is not None
    assert journal_chunks.deliver(store.database, claim.file, claim.chunk, 1.0)
    ingest.release(store, claim, claim.chunk.end)
    with contextlib.closing(move_away(path)):
        other.open()
        store.journal.close()
        takeover.take_over(other, compress=True, sending=10.0)
        assert (other.ledger(), other.pending()) == (Ledger(), [])


def test_files_that_come_to_the_path_in_turn_have_each_span_once(
    store: Store, other: Store, path: Path
) -> None:
    files = []
    for name in "abc":
        accept(store, name)
        ingest.ingest(store, compress=True)
        files.append(move_away(path))
    first = files[0]
    first.close()
    for suffix in ("", "-wal"):  # a person brings it back
        if (back := spool_files.beside(first.database.path, suffix)).exists():
            back.rename(spool_files.beside(path, suffix))
    accept(store, "d")
    store.journal.close()
    assert other.ledger() == Ledger(accepted=2, pending=2)
    takeover.take_over(other, compress=True, sending=10.0)
    assert [one.ledger().accepted for one in (other, *files[1:])] == [2, 1, 1]
    for one in files:
        one.close()


def test_a_note_that_cannot_be_read_keeps_no_span(store: Store, path: Path) -> None:
    die(path, "a")
    (file,) = directory.paths(path)
    content = file.read_bytes()
    head = header.make(b"", 1 << 40, 1 << 40)[:-1] + b"?"
    file.write_bytes(head + content[len(head) :])
    takeover.take_over(store, compress=True, sending=10.0)
    assert store.ledger() == Ledger(accepted=1, pending=1)


def test_a_journal_without_a_note_is_moved(store: Store, path: Path) -> None:
    die(path, "a", "b")
    (file,) = directory.paths(path)
    file.write_bytes(file.read_bytes()[header.SIZE :])
    assert store.ledger() == Ledger(accepted=2, pending=2)
    takeover.take_over(store, compress=True, sending=10.0)
    assert store.ledger() == Ledger(accepted=2, pending=2)


def test_half_a_frame_of_a_refused_append_does_not_keep_its_file(store: Store, path: Path) -> None:
    accept(store, "a")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    (file,) = directory.paths(path)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file.stat().st_size + 50, hard))
    try:
        with pytest.raises(SpoolFileError):
            accept(store, "b")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    accept(store, "c")
    ingest.ingest(store, compress=True)
    ingest.sync(store)
    assert not file.exists()
    assert store.ledger() == Ledger(accepted=2, pending=2)


def test_nobody_waits_longer_than_was_asked_for_while_another_thread_moves(store: Store) -> None:
    accept(store, "a")
    is_moving, is_over = threading.Event(), threading.Event()

    def move() -> None:
        with store.journal.moving.hold(1):
            is_moving.set()
            is_over.wait(30)

    mover = threading.Thread(target=move)
    mover.start()
    is_moving.wait(30)
    with pytest.raises(SpoolBusyError):
        ingest.ingest(store, compress=True, timeout=0.0)
    is_over.set()
    mover.join()


@pytest.mark.timeout(600)
def test_a_signal_handler_that_flushes_in_the_middle_of_an_append_does_not_hang(
    store: Store,
) -> None:
    is_over = threading.Event()

    def keep() -> None:
        while not is_over.is_set():
            with contextlib.suppress(SpoolBusyError):
                ingest.ingest(store, compress=True)

    flushes = 0

    def flush(*_: object) -> None:
        nonlocal flushes
        flushes += 1
        with contextlib.suppress(SpoolBusyError):
            ingest.ingest(store, compress=True, timeout=0.01)
        signal.setitimer(signal.ITIMER_REAL, 0.001)

    maintenance = threading.Thread(target=keep)
    maintenance.start()
    before = signal.signal(signal.SIGALRM, flush)
    signal.setitimer(signal.ITIMER_REAL, 0.001)
    one, appended = batch("a"), 0
    try:
        while flushes < 200:
            store.accept(MINE, one, 1.0)
            appended += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        is_over.set()
        maintenance.join()
    ingest.ingest(store, compress=True)
    assert store.ledger().accepted == appended


def test_what_is_moved_while_the_totals_are_read_is_in_them_once(
    path: Path, store: Store, other: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_many(path, 3)
    store.open()
    read = File.unmoved

    def read_and_lose(file: File) -> Iterator[Chunk]:
        yield from read(file)
        takeover.take_over(other, compress=True, sending=10.0)

    monkeypatch.setattr(File, "unmoved", read_and_lose)
    assert store.ledger() == Ledger(accepted=3, pending=3)


def test_damage_of_how_far_a_journal_was_moved_is_damage_of_the_file(
    path: Path, store: Store
) -> None:
    accept(store, "a")
    ingest.ingest(store, compress=True)
    with store.database.writing() as connection:
        connection.execute("UPDATE inbox SET moved = 'garbage'")
    for read in (store.ledger, lambda: journal_chunks.offsets(store.database)):
        with pytest.raises(SpoolDamagedError):
            read()
    store.database.repair()
    assert store.ledger().accepted >= 1
    assert balances(store.ledger())


@pytest.mark.parametrize("is_first_damaged", [True, False])
def test_what_is_damaged_in_a_journal_is_counted_and_the_ledger_balances(
    path: Path, store: Store, caplog: pytest.LogCaptureFixture, *, is_first_damaged: bool
) -> None:
    die(path, "a", "b")
    (file,) = directory.paths(path)
    content = bytearray(file.read_bytes())
    content[header.SIZE + 30 if is_first_damaged else -1] ^= 0xFF
    file.write_bytes(content)
    takeover.take_over(store, compress=True, sending=10.0)
    ledger = store.ledger()
    assert (ledger.accepted, ledger.pending, ledger.damaged) == (2, 1, 1)
    assert balances(ledger)
    assert store.last_trouble().damaged_at is not None
    assert "1 spans were damaged" in caplog.text
