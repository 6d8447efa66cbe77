"""The steps that bring a spool file's schema up to date, the newest last: here one is added.

Each is one transaction. Imported only while one is due, as sqlite-utils is; what a new one needs
beside its step stands in `schema`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlite_utils import Database, Migrations

from spool.store import schema

if TYPE_CHECKING:
    import sqlite3

migrations = Migrations("langfuse-spool")


def migrate(sqlite: sqlite3.Connection) -> None:
    """Make a file one of the current version. Raises sqlite3.Error."""
    # First whose file it is, in one transaction: after a crash the rest can then be made up for.
    sqlite.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
    migrations.apply(Database(sqlite, recursive_triggers=False))
    sqlite.execute(f"PRAGMA user_version = {schema.VERSION}")


@migrations()
def create_tables(db: Database) -> None:
    """Make the first version's tables and triggers."""
    for statement in schema.STATEMENTS:
        db.execute(statement)
    db.execute("INSERT INTO meta (salt) VALUES (randomblob(16))")


@migrations()
def tell_who_named_endpoints(db: Database) -> None:
    """Remember who named a route's endpoint (`settings.Named`): before, whoever came last."""
    db.execute("ALTER TABLE route ADD COLUMN named INTEGER NOT NULL DEFAULT 2")


@migrations()
def number_spans(db: Database) -> None:
    """Give each span a number, so that rows can be divided; remember what is under suspicion."""
    db.execute("ALTER TABLE route ADD COLUMN held_at REAL NOT NULL DEFAULT 0")
    db.execute("ALTER TABLE route ADD COLUMN suspect_to INTEGER NOT NULL DEFAULT 0")
    db.execute("ALTER TABLE route ADD COLUMN probes INTEGER NOT NULL DEFAULT 0")
    db.execute("UPDATE route SET held_at = waited_at WHERE fingerprints <> ''")
    db.execute("DROP TRIGGER batch_in")
    db.execute(schema.BATCH_IN.replace("next + 1", "next + NEW.spans"))


@migrations()
def keep_history(db: Database) -> None:
    """Keep what happened, and remember since when a route fails, and why."""
    db.execute("ALTER TABLE route ADD COLUMN cause TEXT NOT NULL DEFAULT ''")
    db.execute("ALTER TABLE route ADD COLUMN failing_since REAL")
    db.execute("UPDATE route SET failing_since = waited_at WHERE attempts > 0")
    for statement in schema.HISTORY:
        db.execute(statement)
