"""The spool file's tables and their migrations. Imported only while a migration is due.

Within a major version migrations only add, so that an older writer goes on.

- meta: one row. `salt` is for fingerprints; `checkpoints` is the row that is changed after each;
  `watched` is for the age limit; `evicted_at` and its kin tell when that happened last.
- route: one row an identity, with its share of the ledger and its backoff. `named` tells who named
  its endpoint: a lower number never replaces what a higher one named. `next` counts the
  spans it ever took in; the rows up to the id `packed` need no packing any more. `held_at` is when
  the targets with these `fingerprints` were refused last; `suspect_to` is the last id that waited
  when single spans were refused or failed, 0 where it is the receiver that is in trouble; `probes`
  counts those that came behind it and were refused as well.
- batch: spans of one route that came together, as one request (its codec: `otlp.Codec`). Its id is
  `route.id << 40 | number`, the number of its first span: so the rows of a route stand together in
  order, without an index, an id is never used twice, and a row can be divided in its place.
- dead: the dead letters, with the receiver's words.
- inbox: how far each journal was moved into `batch`, in bytes, by the name of its file.
- mark: for the age limit, how `watched` stood when no batch after an id had come yet.

Triggers keep the totals, so that an append is one statement and nothing is ever counted by a scan.
Only rows that leave are counted by the store, many at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlite_utils import Database, Migrations

if TYPE_CHECKING:
    import sqlite3

migrations = Migrations("langfuse-spool")


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the schema up to date; each migration is one transaction. Raises sqlite3.Error."""
    migrations.apply(Database(connection, recursive_triggers=False))


@migrations()
def create_tables(db: Database) -> None:
    """Make the first version's tables and triggers."""
    for statement in (_META, _ROUTE, _BATCH, _DEAD, _JOURNAL, _MARK, *_TRIGGERS):
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
    db.execute(_BATCH_IN.replace("next + 1", "next + NEW.spans"))


_META = """
    CREATE TABLE meta (
        salt BLOB NOT NULL,
        checkpoints INTEGER NOT NULL DEFAULT 0,
        refused INTEGER NOT NULL DEFAULT 0,
        refused_at REAL,
        evicted_at REAL,
        damaged_at REAL,
        watched REAL NOT NULL DEFAULT 0,
        watched_at REAL NOT NULL DEFAULT 0
    )"""

_ROUTE = """
    CREATE TABLE route (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        endpoint TEXT NOT NULL,
        public_key TEXT,
        next INTEGER NOT NULL DEFAULT 0,
        accepted INTEGER NOT NULL DEFAULT 0,
        imported INTEGER NOT NULL DEFAULT 0,
        delivered INTEGER NOT NULL DEFAULT 0,
        dead INTEGER NOT NULL DEFAULT 0,
        evicted INTEGER NOT NULL DEFAULT 0,
        purged INTEGER NOT NULL DEFAULT 0,
        exported INTEGER NOT NULL DEFAULT 0,
        damaged INTEGER NOT NULL DEFAULT 0,
        pending_spans INTEGER NOT NULL DEFAULT 0,
        pending_batches INTEGER NOT NULL DEFAULT 0,
        pending_bytes INTEGER NOT NULL DEFAULT 0,
        packed INTEGER NOT NULL DEFAULT 0,
        attempts INTEGER NOT NULL DEFAULT 0,
        waited_at REAL NOT NULL DEFAULT 0,
        wait_seconds REAL NOT NULL DEFAULT 0,
        fingerprints TEXT NOT NULL DEFAULT '',
        last_error TEXT NOT NULL DEFAULT '',
        last_success_at REAL
    )"""

_PAYLOAD = """
    created_at REAL NOT NULL,
    spans INTEGER NOT NULL,
    raw_bytes INTEGER NOT NULL,
    codec INTEGER NOT NULL,
    crc32 INTEGER NOT NULL,
    payload BLOB NOT NULL"""

_BATCH = f"CREATE TABLE batch (id INTEGER PRIMARY KEY, route INTEGER NOT NULL, {_PAYLOAD})"

_DEAD = f"""
    CREATE TABLE dead (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        route INTEGER NOT NULL,
        died_at REAL NOT NULL,
        reason TEXT NOT NULL,
        {_PAYLOAD}
    )"""

_JOURNAL = "CREATE TABLE inbox (name TEXT PRIMARY KEY, moved INTEGER NOT NULL) WITHOUT ROWID"

_MARK = "CREATE TABLE mark (id INTEGER PRIMARY KEY, watched REAL NOT NULL)"

_BATCH_IN = """
    CREATE TRIGGER batch_in AFTER INSERT ON batch BEGIN
        UPDATE route SET
            next = next + 1,
            accepted = accepted + NEW.spans,
            pending_spans = pending_spans + NEW.spans,
            pending_batches = pending_batches + 1,
            pending_bytes = pending_bytes + NEW.raw_bytes
        WHERE id = NEW.route;
    END"""

_TRIGGERS = (
    _BATCH_IN,
    """
    CREATE TRIGGER batch_cut AFTER UPDATE OF spans, raw_bytes ON batch BEGIN
        UPDATE route SET
            pending_spans = pending_spans - OLD.spans + NEW.spans,
            pending_bytes = pending_bytes - OLD.raw_bytes + NEW.raw_bytes
        WHERE id = NEW.route;
    END""",
    """
    CREATE TRIGGER dead_in AFTER INSERT ON dead BEGIN
        UPDATE route SET dead = dead + NEW.spans WHERE id = NEW.route;
    END""",
    """
    CREATE TRIGGER dead_out AFTER DELETE ON dead BEGIN
        UPDATE route SET dead = dead - OLD.spans WHERE id = OLD.route;
    END""",
)
