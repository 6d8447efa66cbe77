"""The file at the path is the file that is read and written."""

from __future__ import annotations

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
