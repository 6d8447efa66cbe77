"""One process beside others on one file: the mutex, transactions, checkpoints."""

from __future__ import annotations

import contextlib
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from drains import evict
from spans import batch
from spool.errors import SpoolBusyError, SpoolError, SpoolFileError
from spool.settings.durability import Durability
from spool.store import sql
from spool.store.connections import LARGE_WAL
from spool.store.database import Database
from spool.store.store import Store
from stopped import stopped_holder_of_the_mutex
from targets import MINE


def pragma(database: Database, name: str) -> object:
    with database.writing() as connection:
        return connection.execute(f"PRAGMA {name}").fetchone()[0]


def test_every_commit_is_synced_where_a_power_cut_is_to_be_survived(path: Path) -> None:
    store = Store(path, Durability.POWER_CUT)
    assert pragma(store.database, "synchronous") == 2
    store.close()


def test_every_file_is_its_owners_alone(store: Store, path: Path) -> None:
    store.append(MINE, batch("a"), now=1.0)
    with store.drain_lock.take(60):
        pass
    store.presence.acquire(1)
    store.presence.release()
    files = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert set(files) == {
        "spool.db", "spool.db-wal", "spool.db-shm", "spool.db.lock", "spool.db.turn",
        "spool.db.drainer",
    }  # fmt: skip
    assert set(files.values()) == {0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_reading_what_is_not_there_creates_nothing(store: Store, path: Path) -> None:
    assert not store.exists()
    with pytest.raises(SpoolFileError, match=str(path)):
        store.routes()
    store.close()
    assert not path.parent.exists()


def test_an_empty_file_becomes_a_spool(store: Store, path: Path) -> None:
    path.parent.mkdir()
    path.touch()
    assert not store.exists()
    store.append(MINE, batch("a"), now=1.0)
    assert store.ledger().pending == 1


def test_all_that_is_read_at_once_is_of_one_moment(store: Store, path: Path) -> None:
    store.register(MINE)
    with store.database.reading() as connection:
        before = connection.execute(sql.ROUTES).fetchall()
        Store(path).append(MINE, batch("a"), now=1.0)
        with store.database.reading() as nested:  # as a signal's handler may
            assert nested.execute(sql.ROUTES).fetchall() == before
        assert connection.execute(sql.ROUTES).fetchall() == before
    assert store.ledger().pending == 1


def test_a_transaction_that_was_left_open_is_ended_by_the_next_use(
    store: Store, path: Path
) -> None:
    other = Store(path)
    store.append(MINE, batch("a"), now=1.0)
    with store.database.reading() as reader:
        pass
    reader.execute("BEGIN")
    assert len(reader.execute(sql.ROUTES).fetchall()) == 1
    with store.database.writing() as writer:
        pass
    writer.execute("BEGIN IMMEDIATE")
    store.append(MINE, batch("b"), now=1.0)
    other.append(MINE, batch("c"), now=1.0)
    assert store.ledger().pending == other.ledger().pending == 3


def test_exceptions_out_of_signal_handlers_leave_no_transaction_open(store: Store) -> None:
    class TimeIsUpError(Exception):
        pass

    def end(*_: object) -> None:
        raise TimeIsUpError

    def use() -> None:
        for _ in range(100):  # not for ever: an exception in a finalizer is only printed
            store.ledger()
            with store.database.transaction():
                pass

    store.append(MINE, batch("a"), now=1.0)
    before = signal.signal(signal.SIGALRM, end)
    try:
        for number in range(200):
            with contextlib.suppress(TimeIsUpError):
                signal.setitimer(signal.ITIMER_REAL, 0.00002 * (number % 20 + 1))
                use()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    store.append(MINE, batch("b"), now=1.0)
    assert store.ledger().pending == 2
    own = store.database._connections._own.get()
    for connection in (own.reader, own.writer):
        assert connection is not None
        assert not connection.sqlite.in_transaction


def test_the_mutex_bounds_how_long_an_append_waits(store: Store, path: Path) -> None:
    store.register(MINE)
    other = Store(path)
    with other.database.writing(), pytest.raises(SpoolBusyError):
        store.append(MINE, batch("a"), now=1.0)
    other.close()


def test_a_stopped_peer_that_holds_the_mutex_does_not_hold_us(store: Store, path: Path) -> None:
    store.register(MINE)
    with stopped_holder_of_the_mutex(path), pytest.raises(SpoolBusyError):
        store.append(MINE, batch("a"), now=1.0)
    store.append(MINE, batch("a"), now=1.0)
    assert store.ledger().pending == 1


def test_a_checkpoint_empties_the_wal_but_for_one_commit(store: Store, path: Path) -> None:
    for _ in range(10):
        store.append(MINE, batch("a", size=5000), now=1.0)
    store.database.checkpoint()
    assert 0 < store.database.wal_bytes() < 3 * 4152
    assert store.ledger().pending == 10


def test_no_append_restarts_the_wal_after_a_checkpoint(store: Store, path: Path) -> None:
    store.append(MINE, batch("a"), now=1.0)
    for _ in range(3):
        store.database.checkpoint()
        salt = path.with_name("spool.db-wal").read_bytes()[16:24]
        store.append(MINE, batch("a"), now=1.0)
        assert path.with_name("spool.db-wal").read_bytes()[16:24] == salt


def test_after_whatever_maintenance_does_another_that_closes_leaves_our_wal(
    store: Store, path: Path
) -> None:
    code = (
        "import sys; from pathlib import Path; from spool.store.store import Store\n"
        f"store = Store(Path({str(path)!r})); store.open(); store.close()"
    )
    for _ in range(10):
        store.append(MINE, batch("a", size=5000), now=1.0)
    store.database.sync()
    store.database.checkpoint()
    store.database.vacuum()
    assert store.database.file_bytes()
    assert not store.database.is_cramped()
    store.append(MINE, batch("b"), now=1.0)
    wal = path.with_name("spool.db-wal").stat().st_ino
    subprocess.run([sys.executable, "-c", code], check=True)
    assert path.with_name("spool.db-wal").stat().st_ino == wal


def test_a_large_wal_is_pointed_out(store: Store) -> None:
    store.register(MINE)
    assert not store.database.is_wal_large.is_set()
    store.append(MINE, batch("a", size=LARGE_WAL), now=1.0)
    store.append(MINE, batch("b"), now=1.0)
    assert store.database.is_wal_large.is_set()


def test_space_is_given_back_after_a_drain(store: Store) -> None:
    for _ in range(100):
        store.append(MINE, batch("a", size=100_000), now=1.0)
    store.database.checkpoint()
    full = store.database.file_bytes()
    while evict(store, 1 << 30):
        pass
    while store.database.vacuum():
        pass
    store.database.checkpoint()
    assert full > 9_000_000
    assert store.database.file_bytes() < full / 5


def test_the_last_one_to_close_leaves_one_file(store: Store, path: Path) -> None:
    store.append(MINE, batch("a"), now=1.0)
    assert store.ledger().pending == 1
    store.close()
    assert not path.with_name("spool.db-wal").exists()


def test_threads_append_side_by_side(store: Store) -> None:
    store.register(MINE)
    one = batch("a")
    errors: list[SpoolError] = []

    def append() -> None:
        for _ in range(50):
            try:
                store.append(MINE, one, now=1.0)
            except SpoolError as error:
                errors.append(error)

    threads = [threading.Thread(target=append) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.ledger().pending + len(errors) == 400


def test_processes_append_side_by_side(path: Path) -> None:
    code = f"""
import sys, time
from pathlib import Path
from spans import batch
from spool.errors import SpoolBusyError
from spool.settings.target import Target
from spool.store.store import Store
target = Target.langfuse("pk-lf-mine", "sk-lf-mine", "https://langfuse.example")
store, one, accepted = Store(Path({str(path)!r})), batch("a"), 0
for _ in range(100):
    try:
        store.append(target, one, 1.0)
        accepted += 1
    except SpoolBusyError:
        pass
store.close()
print(accepted)
"""
    command = [sys.executable, "-c", code]
    writers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    accepted = sum(int(writer.communicate()[0]) for writer in writers)
    store = Store(path)
    assert store.ledger().pending == accepted > 0
    store.close()
