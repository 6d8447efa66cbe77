"""Whose a file is, and of which version."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest

from spans import batch
from spool.errors import SpoolFileError
from spool.store.store import Store
from spool.store.version import _check_mark
from targets import MINE


def test_another_applications_database_is_refused_and_untouched(store: Store, path: Path) -> None:
    path.parent.mkdir()
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE theirs (x)")
    other.commit()
    other.close()
    before = path.read_bytes()
    with pytest.raises(SpoolFileError, match="not a spool and was left untouched"):
        store.open()
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["spool.db"]


def test_what_is_moved_away_while_it_is_looked_at_is_nothing(tmp_path: Path) -> None:
    _check_mark(tmp_path / "gone.db")
    with pytest.raises(SpoolFileError, match="SQLite says"):
        _check_mark(tmp_path)


def test_a_file_that_is_no_database_is_refused_and_untouched(store: Store, path: Path) -> None:
    path.parent.mkdir()
    path.write_text("a shopping list\n" * 1000)
    with pytest.raises(SpoolFileError, match="not a spool and was left untouched"):
        store.open()
    assert path.read_text() == "a shopping list\n" * 1000
    assert [file.name for file in path.parent.iterdir()] == ["spool.db"]


def test_a_foreign_database_in_our_files_place_is_refused_too(store: Store, path: Path) -> None:
    store.open()
    store.close()
    path.unlink()
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE theirs (x)")
    other.commit()
    other.close()
    before = path.read_bytes()
    with pytest.raises(SpoolFileError, match="another application's database"):
        store.open()
    assert path.read_bytes() == before


def test_a_newer_versions_spool_is_refused_and_untouched(store: Store, path: Path) -> None:
    store.open()
    with store.database.writing() as connection:
        connection.execute("PRAGMA user_version = 200")
    store.close()
    before = path.read_bytes()
    with pytest.raises(SpoolFileError, match="upgrade langfuse-spool"):
        store.open()
    with pytest.raises(SpoolFileError, match="upgrade langfuse-spool"):
        store.routes()
    assert path.read_bytes() == before


def test_an_older_writer_goes_on_in_a_newer_minor_versions_spool(store: Store) -> None:
    store.open()
    with store.database.writing() as connection:
        connection.execute("ALTER TABLE meta ADD COLUMN of_the_future INTEGER")
        connection.execute("PRAGMA user_version = 199")
    store.close()
    store.append(MINE, batch("a"), now=1.0)
    assert store.ledger().pending == 1


def test_a_file_in_the_making_is_refused_to_readers_until_it_is_made(path: Path) -> None:
    path.parent.mkdir()
    path.with_name("spool.db.lock").touch()
    reader = Store(path)
    with contextlib.closing(sqlite3.connect(path)) as maker:
        maker.execute("PRAGMA journal_mode = WAL")
        with pytest.raises(SpoolFileError, match="its first writer has not set it up yet"):
            reader.routes()
    Store(path).append(MINE, batch("a"), now=1.0)
    assert reader.ledger().pending == 1
