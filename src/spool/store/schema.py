"""The spool file's tables as its first version made them, and the marks in its header.

No text of these is ever changed: files that have it exist, and whether a schema is sound is told
by a checksum of every word. To change the schema add a step to `migrations`, raise `VERSION`, put
in `CRC32` (a test says what it is), and draw it in the package's docstring. Within a major version
migrations only add, so that an older writer goes on.

Triggers keep the totals, so that an append is one statement and nothing is ever counted by a scan.
Only rows that leave are counted by the store, many at a time.
"""

from __future__ import annotations

from typing import Final

# In the file's header: `application_id`, "SPOL", and `user_version`.
APPLICATION_ID: Final = 0x53504F4C
VERSION: Final = 103  # the hundreds are the major version
# Of the words of all tables and triggers, after all migrations.
CRC32: Final = 0x1D5310D8

# An id of a batch is its route's, shifted by so many bits, and a number.
ID_BITS: Final = 40

META: Final = """
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

ROUTE: Final = """
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

_PAYLOAD: Final = """
    created_at REAL NOT NULL,
    spans INTEGER NOT NULL,
    raw_bytes INTEGER NOT NULL,
    codec INTEGER NOT NULL,
    crc32 INTEGER NOT NULL,
    payload BLOB NOT NULL"""

BATCH: Final = f"CREATE TABLE batch (id INTEGER PRIMARY KEY, route INTEGER NOT NULL, {_PAYLOAD})"

DEAD: Final = f"""
    CREATE TABLE dead (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        route INTEGER NOT NULL,
        died_at REAL NOT NULL,
        reason TEXT NOT NULL,
        {_PAYLOAD}
    )"""

JOURNAL: Final = "CREATE TABLE inbox (name TEXT PRIMARY KEY, moved INTEGER NOT NULL) WITHOUT ROWID"

MARK: Final = "CREATE TABLE mark (id INTEGER PRIMARY KEY, watched REAL NOT NULL)"

BATCH_IN: Final = """
    CREATE TRIGGER batch_in AFTER INSERT ON batch BEGIN
        UPDATE route SET
            next = next + 1,
            accepted = accepted + NEW.spans,
            pending_spans = pending_spans + NEW.spans,
            pending_batches = pending_batches + 1,
            pending_bytes = pending_bytes + NEW.raw_bytes
        WHERE id = NEW.route;
    END"""

TRIGGERS: Final = (
    BATCH_IN,
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

# Of `keep_history`.
HISTORY: Final = (
    """
    CREATE TABLE event (
        id INTEGER PRIMARY KEY,
        kind TEXT NOT NULL,
        route TEXT NOT NULL,
        begin_at REAL NOT NULL,
        end_at REAL,
        times INTEGER NOT NULL,
        spans INTEGER NOT NULL,
        words TEXT NOT NULL
    )""",
    "CREATE INDEX event_of ON event (route, kind)",
    """
    CREATE TABLE hour (
        id INTEGER PRIMARY KEY,
        at REAL NOT NULL,
        accepted INTEGER NOT NULL,
        delivered INTEGER NOT NULL,
        pending_spans INTEGER NOT NULL,
        pending_bytes INTEGER NOT NULL
    )""",
)

STATEMENTS: Final = (META, ROUTE, BATCH, DEAD, JOURNAL, MARK, *TRIGGERS)
