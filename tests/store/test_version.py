from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from spans import batch
from spool.errors import SpoolFileError
from spool.settings.target import Target
from spool.store.migrations import migrate
from spool.store.schema import BATCH_IN
from spool.store.store import Store
from spool.store.version import _check_mark, has_sound_schema

MINE = Target.langfuse("pk-lf-mine", "sk-lf-mine", "https://langfuse.example")


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


def test_a_file_of_the_first_version_is_read_as_it_is_and_brought_up_to_date_by_a_writer(
    store: Store, path: Path
) -> None:
    store.append(MINE, batch("a"), now=1.0)
    store.close()
    with contextlib.closing(sqlite3.connect(path)) as older:
        for column in ("probes", "suspect_to", "held_at", "named"):
            older.execute(f"ALTER TABLE route DROP COLUMN {column}")
        older.execute("DROP TRIGGER batch_in")
        older.execute(BATCH_IN)
        older.execute("DELETE FROM _sqlite_migrations WHERE name <> 'create_tables'")
        older.execute("PRAGMA user_version = 100")
        older.commit()
    assert [route.endpoint for route in store.routes()] == [MINE.endpoint]
    assert store.ledger().pending == 1
    store.append(Target.langfuse("pk-lf-mine", "sk-lf-mine"), batch("b"), now=2.0)
    store.register(Target.langfuse("pk-lf-mine", "sk-lf-mine"))
    # What it remembered counts as named.
    assert [route.endpoint for route in store.routes()] == [MINE.endpoint]
    assert store.ledger().pending == 2
    with store.database.reading() as connection:
        assert has_sound_schema(connection)
    # Its rows have no room for their parts: these go behind what waits.
    store.append(MINE, batch("c", "d"), now=3.0)
    first = store.take(1, max_bytes=1 << 20, max_spans=1)
    assert first is not None
    assert store.settle(first, now=4.0) == 1
    assert store.ledger().pending == 3


def test_a_creation_that_was_killed_is_made_up_for(store: Store, path: Path) -> None:
    store.open()
    with store.database.writing() as connection:
        connection.execute("PRAGMA user_version = 0")
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


def test_sqlite_utils_is_not_imported_for_a_file_that_is_current(path: Path) -> None:
    store = Store(path)
    store.open()
    store.close()
    code = (
        "import sys; from pathlib import Path; from spool.store.store import Store;"
        f"store = Store(Path({str(path)!r})); store.open(); store.close();"
        "sys.exit('sqlite_utils' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_checksum_of_the_schema_is_that_of_what_the_migrations_make() -> None:
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as sqlite:
        assert not has_sound_schema(sqlite)
        migrate(sqlite)
        assert has_sound_schema(sqlite)
        sqlite.execute("DROP TRIGGER batch_in")
        assert not has_sound_schema(sqlite)
