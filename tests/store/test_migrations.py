"""A file is brought up to date, and only where that is due."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
from pathlib import Path

from spans import batch
from spool.settings.target import Target
from spool.store import route_waits
from spool.store.schema import BATCH_IN
from spool.store.store import Store
from spool.store.version import has_sound_schema
from stores import drop_history, route_of
from targets import MINE


def test_a_file_of_the_first_version_is_read_as_it_is_and_brought_up_to_date_by_a_writer(
    store: Store, path: Path
) -> None:
    store.append(MINE, batch("a"), now=1.0)
    store.close()
    with contextlib.closing(sqlite3.connect(path)) as older:
        drop_history(older)
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


def test_a_file_that_kept_no_history_is_read_as_it_is_and_keeps_one_from_its_next_writer_on(
    store: Store, path: Path
) -> None:
    store.append(MINE, batch("a"), now=1.0)
    route_waits.wait(store.database, route_of(store), 60.0, now=5.0, reason="503")
    store.close()
    with contextlib.closing(sqlite3.connect(path)) as older:
        drop_history(older)
        older.commit()
    assert (route_of(store).attempts, route_of(store).failing_since) == (1, None)
    store.append(MINE, batch("b"), now=6.0)
    assert (route_of(store).failing_since, route_of(store).cause) == (5.0, "")
    with store.database.reading() as connection:
        assert has_sound_schema(connection)


def test_what_an_older_writer_leaves_of_a_routes_trouble_does_not_outlive_it(store: Store) -> None:
    store.append(MINE, batch("a"), now=1.0)
    route_waits.wait(store.database, route_of(store), 60.0, now=5.0, reason="503")
    older_success = "UPDATE route SET last_success_at = 6, last_error = '', attempts = 0"
    with store.database.writing() as connection:
        connection.execute(older_success)
    assert route_of(store).failing_since is None
    route_waits.wait(store.database, route_of(store), 60.0, now=7.0, reason="503")
    assert route_of(store).failing_since == 7.0


def test_a_creation_that_was_killed_is_made_up_for(store: Store, path: Path) -> None:
    store.open()
    with store.database.writing() as connection:
        connection.execute("PRAGMA user_version = 0")
    store.close()
    store.append(MINE, batch("a"), now=1.0)
    assert store.ledger().pending == 1


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
