"""The file at the path is the file that is read and written."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from pathlib import Path

import pytest

from spans import batch
from spool.errors import SpoolFileError
from spool.store.connections import Connections
from spool.store.database import Database
from spool.store.store import Store
from targets import MINE


def pragma(database: Database, name: str) -> object:
    with database.writing() as connection:
        return connection.execute(f"PRAGMA {name}").fetchone()[0]


def test_the_file_is_set_up_as_the_invariants_say(store: Store) -> None:
    store.open()
    assert pragma(store.database, "journal_mode") == "wal"
    assert pragma(store.database, "auto_vacuum") == 2
    assert pragma(store.database, "wal_autocheckpoint") == 0
    assert pragma(store.database, "secure_delete") == 0
    assert pragma(store.database, "synchronous") == 1


def test_an_instrumentation_that_wraps_sqlite3_sees_no_statement_of_ours(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def instrumented(*_: object, **__: object) -> sqlite3.Connection:
        raise AssertionError("its statements would be spans, to be spooled by further ones")

    monkeypatch.setattr(sqlite3, "connect", instrumented)
    monkeypatch.setattr(sqlite3.dbapi2, "connect", instrumented)
    store.append(MINE, batch("a"), now=1.0)
    assert store.ledger().pending == 1


def test_a_file_that_was_removed_is_made_again(store: Store, path: Path) -> None:
    store.append(MINE, batch("a"), now=1.0)
    path.unlink()
    store.append(MINE, batch("b"), now=2.0)
    assert store.ledger().accepted == 1
    assert path.exists()


def test_a_directory_that_was_removed_is_made_again(store: Store, path: Path) -> None:
    store.append(MINE, batch("a"), now=1.0)
    for file in path.parent.iterdir():
        file.unlink()
    path.parent.rmdir()
    store.append(MINE, batch("b"), now=2.0)
    assert store.ledger().accepted == 1


def test_a_file_that_was_moved_away_is_left_complete(store: Store, path: Path) -> None:
    store.append(MINE, batch("a"), now=1.0)
    moved = path.with_name("moved.db")
    path.rename(moved)
    store.append(MINE, batch("b"), now=2.0)
    assert store.ledger().accepted == 1
    connection = sqlite3.connect(moved)
    assert connection.execute("SELECT sum(spans) FROM batch").fetchone() == (1,)
    connection.close()


def test_a_wal_that_was_removed_is_noticed(store: Store, path: Path) -> None:
    store.append(MINE, batch("a"), now=1.0)
    path.with_name("spool.db-wal").unlink()
    store.append(MINE, batch("b"), now=2.0)
    other = Store(path)
    assert other.ledger().accepted == 2
    other.close()


def test_a_reader_follows_the_file_that_replaced_the_old_one(store: Store, path: Path) -> None:
    store.append(MINE, batch("a"), now=1.0)
    assert store.ledger().pending == 1
    other = Store(path.with_name("other.db"))
    other.append(MINE, batch("b", "c"), now=1.0)
    other.close()
    store.close()
    path.with_name("other.db").rename(path)
    assert store.ledger().pending == 2


def test_a_file_that_is_replaced_while_it_is_opened_is_not_taken_for_the_new_one(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_up = Connections.set_up

    def set_up_and_replace(connections: Connections, sqlite: sqlite3.Connection) -> None:
        set_up(connections, sqlite)
        monkeypatch.undo()
        path.parent.rename(path.parent.with_name("aside"))
        other.open()

    monkeypatch.setattr(Connections, "set_up", set_up_and_replace)
    store, other = Store(path), Store(path)
    with pytest.raises(SpoolFileError, match="was replaced while it was opened"):
        store.open()
    store.append(MINE, batch("a"), now=1.0)
    assert other.ledger().accepted == 1
    store.close()
    other.close()


def test_a_copy_of_a_file_whose_first_checkpoint_met_a_reader_is_known_for_a_spool(
    store: Store, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spool.store.connections.checkpoint", lambda _sqlite: None)
    store.append(MINE, batch("a"), now=1.0)
    copy = path.parent.parent / "copy" / path.name  # without the lock file, which would say so
    copy.parent.mkdir(mode=0o700)
    for suffix in ("", "-wal"):
        shutil.copy(f"{path}{suffix}", f"{copy}{suffix}")
    with contextlib.closing(Store(copy)) as copied:
        assert copied.ledger().accepted == 1


def test_a_file_that_is_replaced_just_now_is_not_read_past_its_locks(
    store: Store, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.append(MINE, batch("a"), now=1.0)
    aside = path.with_name("aside.db")
    path.rename(aside)
    opened: list[bool] = []

    def connect_alone(path: Path, *, has_wal: bool) -> sqlite3.Connection:
        aside.rename(path)  # as a salvage would, in that moment
        opened.append(has_wal)
        return sqlite3.connect(path)

    monkeypatch.setattr("spool.store.connections.connect_alone", connect_alone)
    with pytest.raises(SpoolFileError, match="unable to open"):
        store.ledger()
    assert opened == []
