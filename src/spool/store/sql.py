"""The store's statements, by name; tables, and triggers that keep the totals, are `schema`'s."""

from __future__ import annotations

from typing import Final

from spool.store.schema import ID_BITS

REGISTER: Final = """
    INSERT INTO route (name, endpoint, public_key, named) VALUES (?, ?, ?, ?)
    ON CONFLICT (name) DO UPDATE SET endpoint = excluded.endpoint, named = excluded.named
    WHERE named <= excluded.named AND (endpoint <> excluded.endpoint OR named < excluded.named)"""

COLUMNS: Final = "created_at, spans, raw_bytes, codec, crc32, payload"

APPEND: Final = f"""
    INSERT INTO batch (id, route, {COLUMNS})
    SELECT (id << {ID_BITS}) + next + 1, id, ?, ?, ?, ?, ?, ? FROM route WHERE name = ?"""

OLDEST: Final = f"SELECT id, {COLUMNS} FROM batch WHERE id BETWEEN ? AND ? ORDER BY id LIMIT ?"

SUMS: Final = """
    SELECT count(*), total(spans), total(raw_bytes) FROM batch WHERE id BETWEEN ? AND ?"""

DELETE: Final = "DELETE FROM batch WHERE id BETWEEN ? AND ?"

LEAVE: Final = """
    UPDATE route SET
        pending_batches = pending_batches - ?,
        pending_spans = pending_spans - ?,
        pending_bytes = pending_bytes - ?
    WHERE id = ?"""

IS_PENDING: Final = "SELECT 1 FROM batch WHERE id BETWEEN ? AND ? LIMIT 1"

SIZES: Final = "SELECT id, length(payload) FROM batch WHERE id BETWEEN ? AND ? LIMIT ?"

COUNT: Final = "UPDATE route SET {0} = {0} + ? WHERE id = ?"

PENDING: Final = "SELECT pending_spans, packed FROM route WHERE id = ?"

NEXT: Final = "SELECT next FROM route WHERE id = ?"

CRC32: Final = "SELECT crc32 FROM batch WHERE id = ?"

# Only of the row that was taken: another may have divided it, or packed it.
CUT: Final = f"""
    UPDATE batch SET ({COLUMNS}) = (created_at, ?, ?, ?, ?, ?) WHERE id = ? AND crc32 = ?"""

REFUSED_ALONE: Final = f"SELECT {COLUMNS} FROM batch WHERE id = ? AND spans = 1"

PIECE: Final = f"INSERT INTO batch (id, route, {COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"

BEHIND: Final = "SELECT min(id) FROM batch WHERE id BETWEEN ? AND ?"

DIVIDED: Final = "UPDATE route SET accepted = accepted - ?, next = next - ? WHERE id = ?"

# A run of rows becomes one, with the first one's id: so it counts for all that waited for any.
PACK: Final = f"UPDATE batch SET ({COLUMNS}) = (created_at, ?, ?, ?, ?, ?) WHERE id = ?"

PACKED: Final = "UPDATE route SET packed = ? WHERE id = ?"

BURY: Final = f"""
    INSERT INTO dead (route, died_at, reason, {COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"""

# A target was accepted: it is not held any more; others that were refused are.
SUCCEED: Final = """
    UPDATE route SET
        last_success_at = ?, last_error = '', attempts = 0, wait_seconds = 0, suspect_to = 0,
        probes = 0, cause = '', failing_since = NULL,
        fingerprints = trim(replace(' ' || fingerprints || ' ', ' ' || ? || ' ', ' '))
    WHERE id = ?"""

CREDIT: Final = """
    UPDATE route SET accepted = accepted + ?, delivered = delivered + ? WHERE name = ?"""

# What an older version has left there counts only while there are attempts.
_FAIL: Final = """
    UPDATE route SET
        failing_since = CASE WHEN attempts THEN coalesce(failing_since, :now) ELSE :now END,
        attempts = attempts + 1, waited_at = :now, wait_seconds = :seconds, last_error = :reason,
        cause = :cause, suspect_to = 0, probes = 0
    WHERE id = :id"""

WAIT: Final = _FAIL

SUSPECT: Final = "UPDATE route SET suspect_to = ?, probes = ? WHERE id = ?"

# Only what nobody has changed meanwhile.
PUT_OFF: Final = f"{_FAIL} AND name = :name AND attempts = :attempts"

# As it was before a try by hand that failed, unless another has tried meanwhile.
RESTORE: Final = """
    UPDATE route SET
        attempts = :attempts, waited_at = :waited_at, wait_seconds = :wait_seconds,
        held_at = :held_at, suspect_to = :suspect_to, probes = :probes
    WHERE id = :id AND name = :name AND attempts = :attempts + 1"""

HOLD: Final = "UPDATE route SET fingerprints = ?, held_at = ? WHERE id = ?"

# The rows of a route that moves get ids behind those of the route that adopts them.
ADOPT: Final = f"""
    INSERT INTO batch (id, route, {COLUMNS})
    SELECT (r.id << {ID_BITS}) + r.next + 1 - b.spans + sum(b.spans) OVER (ORDER BY b.id), r.id,
           b.created_at, b.spans, b.raw_bytes, b.codec, b.crc32, b.payload
    FROM batch b, route r WHERE b.id BETWEEN ? AND ? AND r.name = ?"""

RETRY: Final = f"""
    INSERT INTO batch (id, route, {COLUMNS})
    SELECT (r.id << {ID_BITS}) + r.next + 1, r.id,
           d.created_at, d.spans, d.raw_bytes, d.codec, d.crc32, d.payload
    FROM dead d JOIN route r ON r.id = d.route WHERE d.id = ?"""

# A row that only moves was accepted before; the trigger counted it once more.
NOT_ACCEPTED_AGAIN: Final = "UPDATE route SET accepted = accepted - ? WHERE {} = ?"

ROUTES: Final = f"""
    SELECT route.*,
           (SELECT created_at FROM batch
            WHERE batch.id > route.id << {ID_BITS} AND batch.id < route.id + 1 << {ID_BITS}
            ORDER BY batch.id LIMIT 1) AS oldest_at
    FROM route ORDER BY id"""

# How old its oldest span is takes a look at its rows each.
ROUTE: Final = "SELECT route.*, NULL AS oldest_at FROM route WHERE id = ?"

WAITING: Final = """
    SELECT route.*, NULL AS oldest_at FROM route WHERE pending_spans <> 0 ORDER BY id"""

LEDGER: Final = """
    SELECT total(accepted), total(imported), total(delivered), total(dead), total(evicted),
           total(purged), total(exported), total(damaged), total(pending_spans),
           (SELECT refused FROM meta) FROM route"""

DEAD: Final = f"""
    SELECT dead.id, name, died_at, reason, {COLUMNS}
    FROM dead JOIN route ON route.id = dead.route WHERE dead.id >= ? ORDER BY dead.id LIMIT ?"""

# How far the journals were moved.

MOVED: Final = "SELECT moved FROM inbox WHERE name = ?"

MOVE: Final = """
    INSERT INTO inbox (name, moved) VALUES (?, ?)
    ON CONFLICT (name) DO UPDATE SET moved = excluded.moved"""

JOURNALS: Final = "SELECT name, moved FROM inbox"

FORGET: Final = "DELETE FROM inbox WHERE name = ?"

LOSE: Final = """
    UPDATE route SET accepted = accepted + ?, damaged = damaged + ? WHERE name = ?"""

ANY_ROUTE: Final = "SELECT name FROM route LIMIT 1"

DAMAGED: Final = "UPDATE meta SET damaged_at = ?"

ROUTE_ID: Final = "SELECT id FROM route WHERE name = ?"

LAST_ID: Final = f"SELECT (id << {ID_BITS}) + next FROM route WHERE name = ?"

SALT: Final = "SELECT salt FROM meta"

LETTER: Final = "SELECT spans, route FROM dead WHERE id = ?"

DELETE_LETTER: Final = "DELETE FROM dead WHERE id = ?"

RESTART_WAIT: Final = """
    UPDATE route SET
        waited_at = min(waited_at, :now), held_at = min(held_at, :now),
        failing_since = min(failing_since, :now)
    WHERE id = :id"""

# When what a person should look at happened last.

REFUSED: Final = "UPDATE meta SET refused = refused + ?, refused_at = ?"

EVICTED: Final = "UPDATE meta SET evicted_at = ?"

LAST_TROUBLE: Final = "SELECT evicted_at, refused_at, damaged_at FROM meta"

# The age limit. `watched` is the time that somebody watched the spool, by monotonic clocks; a mark
# says how it stood when no batch after an id had come yet. Dead letters are marked as route 0.

WATCH: Final = """
    UPDATE meta SET watched = watched + max(0, min(:seconds, :at - watched_at)), watched_at = :at"""

MARK: Final = f"""
    INSERT OR IGNORE INTO mark (id, watched)
    SELECT (id << {ID_BITS}) + next, (SELECT watched FROM meta) FROM route WHERE pending_batches
    UNION ALL
    SELECT max(id), (SELECT watched FROM meta) FROM dead HAVING count(*)"""

OLD_MARK: Final = """
    SELECT id FROM mark WHERE watched <= (SELECT watched FROM meta) - ? ORDER BY id LIMIT 1"""

DELETE_MARK: Final = "DELETE FROM mark WHERE id = ?"

NEWEST: Final = "SELECT max(id) FROM batch WHERE id BETWEEN ? AND ?"

OLD_LETTER: Final = "SELECT id FROM dead WHERE id <= ? LIMIT 1"

# The history. An event of none is that of a route whose name is ''.

LAST_TROUBLE_OF: Final = """
    SELECT id, kind, begin_at, end_at FROM event
    WHERE route = ? AND kind IN ('down', 'held') ORDER BY id DESC LIMIT 1"""

# Of dead letters the receiver's words may differ each time.
LAST_EVENT_OF: Final = """
    SELECT id, end_at FROM event
    WHERE route = :route AND kind = :kind AND (words = :words OR kind = 'dead')
    ORDER BY id DESC LIMIT 1"""

BEGIN_EVENT: Final = """
    INSERT INTO event (kind, route, begin_at, end_at, times, spans, words)
    VALUES (?, ?, ?, ?, ?, ?, ?)"""

END_EVENT: Final = "UPDATE event SET end_at = ?, spans = max(spans, ?) WHERE id = ?"

RESUME_EVENT: Final = """
    UPDATE event SET end_at = NULL, times = times + 1, words = ? WHERE id = ?"""

EXTEND_EVENT: Final = """
    UPDATE event SET end_at = max(end_at, :now), times = times + 1, spans = spans + :spans
    WHERE id = :id"""

IN_TROUBLE: Final = "SELECT 1 FROM route WHERE id = ? AND attempts > 0"

HAS_NOTHING_LEFT: Final = """
    SELECT 1 FROM route WHERE id = ? AND attempts > 0 AND pending_spans <= 0"""

FAILS_NO_LONGER: Final = "UPDATE route SET failing_since = NULL WHERE id = ?"

END_TROUBLE: Final = """
    UPDATE event SET
        end_at = max(begin_at, :now),
        spans = max(spans, :spans + (SELECT pending_spans FROM route WHERE id = :id))
    WHERE route = (SELECT name FROM route WHERE id = :id)
      AND kind IN ('down', 'held') AND end_at IS NULL"""

FORGET_EVENTS: Final = "DELETE FROM event WHERE id <= ?"

NEWEST_EVENT: Final = "SELECT max(id) FROM event"

RESTORE_EVENT: Final = """
    INSERT OR IGNORE INTO event (id, kind, route, begin_at, end_at, times, spans, words)
    VALUES (:id, :kind, :route, :begin_at, coalesce(:end_at, :begin_at), :times, :spans, :words)"""

# What lasts of a route that is well was ended by an older version. Times before 2020 are of a
# clock that was wrong: such an event stands where it was written.
EVENTS: Final = """
    WITH told AS (
        SELECT event.id, kind, event.route, begin_at, times, spans, words, name, pending_spans,
               CASE WHEN end_at IS NULL AND name IS NULL THEN begin_at ELSE end_at END AS end_at
        FROM event LEFT JOIN route ON name = event.route AND attempts > 0
    )
    SELECT id, kind, route, begin_at, end_at, times,
           CASE WHEN end_at IS NULL THEN pending_spans ELSE spans END, words
    FROM told
    WHERE end_at IS NULL OR end_at >= :since
       OR (begin_at < 1577836800 AND id > (SELECT min(id) FROM event WHERE end_at >= :since))
    ORDER BY id"""

TOTALS: Final = """
    SELECT total(accepted) + total(imported), total(delivered), total(pending_spans),
           total(pending_bytes) FROM route"""

LAST_HOUR: Final = "SELECT at FROM hour ORDER BY id DESC LIMIT 1"

ADD_HOUR: Final = """
    INSERT INTO hour (at, accepted, delivered, pending_spans, pending_bytes)
    VALUES (?, ?, ?, ?, ?)"""

FORGET_HOURS: Final = "DELETE FROM hour WHERE id <= ?"

RESTORE_HOUR: Final = """
    INSERT OR IGNORE INTO hour (id, at, accepted, delivered, pending_spans, pending_bytes)
    VALUES (:id, :at, :accepted, :delivered, :pending_spans, :pending_bytes)"""

HOURS: Final = """
    SELECT at, accepted, delivered, pending_spans, pending_bytes FROM hour ORDER BY id"""

HAS_HISTORY: Final = "SELECT 1 FROM sqlite_master WHERE name = 'hour'"

ROUTE_NAME: Final = "SELECT name FROM route WHERE id = ?"
