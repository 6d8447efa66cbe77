"""The history: what happened to a spool, and how much came and went by the hour.

Invariants:

- It is written only in transactions that are made anyway: events when something happens, and totals
  once an hour, who delivers once a minute. No other delivery writes any of it.
- It is bounded: the newest 2,000 events, and 33 days of hours. A small spool that is full keeps
  fewer events: spans come first.
- One event tells of one trouble, however many processes meet it: what lasts, or happens again soon,
  extends it. A route's trouble ends with a delivery, or when nothing of it is left to wait.
- No clock is trusted: what is newer has the larger id, and no difference is taken across a jump.
"""

from __future__ import annotations

import enum
import itertools
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from spool.errors import SpoolBusyError, SpoolError, SpoolFileError, SpoolFullError
from spool.store import sql

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Mapping

MOST_EVENTS: Final = 2000
MOST_HOURS: Final = 33 * 24
HOUR: Final = 3600.0
_MOST_WORDS: Final = 300
_MOST_BYTES: Final = 1024
_FEWEST_EVENTS: Final = 100
# A route that fails again so soon after it was well flaps: that is one event.
_FLAPPING_SECONDS: Final = 60.0
# So often a process notes that it delivers.
_MINUTE: Final = 60.0
_DAY: Final = 86400.0

LIMIT_OF_SIZE: Final = "SPOOL_MAX_BYTES was reached"
LIMIT_OF_AGE: Final = "older than SPOOL_MAX_AGE_SECONDS"

BY_DISK: Final = "the disk took nothing"
BY_APPLICATION: Final = "an application"
BY_RUN: Final = "python -m spool run"
BY_HAND: Final = "python -m spool drain"


class Kind(str, enum.Enum):
    """What an event tells of. A newer version may have written others."""

    DOWN = "down"
    HELD = "held"
    EVICTED = "evicted"
    REFUSED = "refused"
    DAMAGED = "damaged"
    DEAD = "dead"
    PURGED = "purged"
    RETRIED = "retried"
    ADOPTED = "adopted"
    DRAINED = "drained"


# The tables' columns, and what they can hold.
EVENT_TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "id": (int,),
    "kind": (str,),
    "route": (str,),
    "begin_at": (float,),
    "end_at": (float, type(None)),
    "times": (int,),
    "spans": (int,),
    "words": (str,),
}
HOUR_TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "id": (int,),
    "at": (float,),
    **dict.fromkeys(("accepted", "delivered", "pending_spans", "pending_bytes"), (int,)),
}

TROUBLES: Final = (Kind.DOWN, Kind.HELD)


@dataclass(frozen=True, slots=True)
class Event:
    """What happened, `times` from `begin_at` to `end_at`, in seconds since 1970.

    `kind` is a value of `Kind`; `end_at` is None while it lasts; `route` is "" where it was none's.
    `spans` is how many it befell: of a route's trouble, those that wait, or waited when it ended.
    `words` say why, or by whom.
    """

    id: int
    kind: str
    route: str
    begin_at: float
    end_at: float | None
    times: int
    spans: int
    words: str


@dataclass(frozen=True, slots=True)
class Hour:
    """What was accepted and delivered between two times, and what waited at the second.

    In spans, bytes before compression, and seconds since 1970. It is about an hour; longer where
    nobody was there.
    """

    begin_at: float
    end_at: float
    accepted: int
    delivered: int
    pending_spans: int
    pending_bytes: int


# Writing, within the transaction of what happens


def fail(  # noqa: PLR0913, PLR0917 - each says something else of one failure
    connection: sqlite3.Connection, route: str, spans: int, now: float, why: str, kind: Kind
) -> None:
    """Note that a route is in trouble, unless that is known."""
    known = connection.execute(sql.LAST_TROUBLE_OF, (route,)).fetchone()
    if known is None:
        _begin(connection, kind, route, now, spans, why)
        return
    event_id, known_kind, begin_at, end_at = known
    if end_at is None and known_kind in (kind, Kind.HELD):
        return
    if end_at is None:
        connection.execute(sql.END_EVENT, (max(begin_at, now), spans, event_id))
    elif known_kind == kind and abs(now - end_at) <= _FLAPPING_SECONDS:
        connection.execute(sql.RESUME_EVENT, (_cut(why), event_id))
        return
    _begin(connection, kind, route, now, spans, why)


def recover(connection: sqlite3.Connection, route_id: int, spans: int, now: float) -> None:
    """Note that a route is well again, if it was in trouble: before it is told so itself.

    So many `spans` of it were delivered just now.
    """
    if connection.execute(sql.IN_TROUBLE, (route_id,)).fetchone():
        connection.execute(sql.END_TROUBLE, {"id": route_id, "spans": spans, "now": now})


def leave(connection: sqlite3.Connection, route_id: int, spans: int, now: float) -> None:
    """Note that a route's trouble is over, if nothing of it waits any more.

    So many `spans` have left it just now, otherwise than by delivery.
    """
    if connection.execute(sql.HAS_NOTHING_LEFT, (route_id,)).fetchone():
        connection.execute(sql.END_TROUBLE, {"id": route_id, "spans": spans, "now": now})
        connection.execute(sql.FAILS_NO_LONGER, (route_id,))


def note(  # noqa: PLR0913, PLR0917 - each says something else of what happened
    connection: sqlite3.Connection,
    kind: Kind,
    route: str,
    spans: int,
    now: float,
    words: str = "",
    *,
    within: float = HOUR,
) -> None:
    """Note what befell spans; one event with the last such one, if that was `within` seconds."""
    words = _cut(words)
    of = {"route": route, "kind": kind.value, "words": words}
    known = connection.execute(sql.LAST_EVENT_OF, of).fetchone()
    if known is not None and abs(now - known[1]) <= within:
        connection.execute(sql.EXTEND_EVENT, {"id": known[0], "now": now, "spans": spans})
        return
    _begin(connection, kind, route, now, spans, words, end_at=now)


def refuse(connection: sqlite3.Connection, spans: int, now: float, why: str) -> None:
    """Count spans that were not accepted."""
    connection.execute(sql.REFUSED, (spans, now))
    note(connection, Kind.REFUSED, "", spans, now, why)


def why_refused(reason: object) -> str:
    """Say in words that recur why spans are not accepted; `reason` is an error, or words."""
    if isinstance(reason, SpoolFullError):
        return LIMIT_OF_SIZE
    if isinstance(reason, SpoolFileError | SpoolBusyError):
        return BY_DISK
    if isinstance(reason, Exception) and not isinstance(reason, SpoolError):
        return "they cannot be encoded"
    return str(reason)


def _begin(  # noqa: PLR0913, PLR0917 - the columns
    connection: sqlite3.Connection,
    kind: Kind,
    route: str,
    now: float,
    spans: int,
    words: str,
    end_at: float | None = None,
) -> None:
    values = kind.value, route, now, end_at, 1, spans, _cut(words)
    newest = connection.execute(sql.BEGIN_EVENT, values).lastrowid or 0
    connection.execute(sql.FORGET_EVENTS, (newest - MOST_EVENTS,))


def make_room(connection: sqlite3.Connection, limit: int) -> None:
    """Leave of a spool that is full an eighth to the history at most: it may have so many bytes."""
    most = max(_FEWEST_EVENTS, limit // 8 // _MOST_BYTES)
    (newest,) = connection.execute(sql.NEWEST_EVENT).fetchone()
    connection.execute(sql.FORGET_EVENTS, ((newest or 0) - most,))


def _cut(words: str) -> str:
    return words if len(words) <= _MOST_WORDS else f"{words[: _MOST_WORDS - 1]}…"


def note_totals(connection: sqlite3.Connection, now: float) -> float:
    """Note how much has come and gone, if it is time; give in how many seconds it is again.

    Before anything else of the transaction: what came since the last time had come an hour after it
    at the latest, since whoever does anything later notes it first.
    """
    last = connection.execute(sql.LAST_HOUR).fetchone()
    since = HOUR if last is None else now - last[0]
    if 0 <= since < HOUR:
        return HOUR - since
    totals = connection.execute(sql.TOTALS).fetchone()
    if since > 2 * HOUR and last is not None:
        connection.execute(sql.ADD_HOUR, (last[0] + HOUR, *totals))
    newest = connection.execute(sql.ADD_HOUR, (now, *totals)).lastrowid or 0
    connection.execute(sql.FORGET_HOURS, (newest - MOST_HOURS,))
    return HOUR


class Pace:
    """When one process notes what it does all the time: totals once an hour, its part each minute.

    `by` says who it is, as a person should read it.
    """

    def __init__(self) -> None:
        self.by = BY_APPLICATION
        self._every = _MINUTE
        self._totals_due = self._delivered_due = time.monotonic()
        self._delivered = 0

    def tell_all(self, by: str) -> None:
        """Note each delivery: it is a person's."""
        self.by, self._every = by, 0.0

    def begin(self, connection: sqlite3.Connection) -> None:
        """Note the totals at a transaction's begin, if it is time."""
        if time.monotonic() >= self._totals_due:
            self._totals_due = time.monotonic() + HOUR  # also where the disk refuses it
            self._totals_due = time.monotonic() + note_totals(connection, time.time())

    def deliver(self, connection: sqlite3.Connection, spans: int, now: float) -> None:
        """Note that this process delivers, if it is time."""
        self._delivered += spans
        if time.monotonic() >= self._delivered_due:
            spans, self._delivered = self._delivered, 0
            self._delivered_due = time.monotonic() + self._every
            note(connection, Kind.DRAINED, "", spans, now, self.by, within=_DAY)


def restore(
    connection: sqlite3.Connection,
    events: Iterator[dict[str, Any]],
    hours: Iterator[dict[str, Any]],
) -> None:
    """Take over what a salvage reads of a damaged file's history; what lasted has ended for now."""
    for event in itertools.islice(events, MOST_EVENTS):
        if _is_sound(event, EVENT_TYPES):
            connection.execute(sql.RESTORE_EVENT, event)
    for hour in itertools.islice(hours, MOST_HOURS):
        if _is_sound(hour, HOUR_TYPES):
            connection.execute(sql.RESTORE_HOUR, hour)


def _is_sound(row: Mapping[str, Any], types: Mapping[str, tuple[type, ...]]) -> bool:
    return all(type(row[name]) in allowed for name, allowed in types.items())


# Reading


def is_kept(connection: sqlite3.Connection) -> bool:
    """Say whether the file has a history: a version before 103 kept none."""
    return bool(connection.execute(sql.HAS_HISTORY).fetchone())


def events(connection: sqlite3.Connection, since: float = 0.0) -> tuple[Event, ...]:
    """Give what happened, or lasted, since a time (seconds since 1970): what began first is first.

    A file of an older version has none.
    """
    if not is_kept(connection):
        return ()
    found = connection.execute(sql.EVENTS, {"since": since}).fetchall()
    return tuple(Event(*values) for values in found)


def hours(
    connection: sqlite3.Connection, since: float = 0.0, now: float | None = None
) -> tuple[Hour, ...]:
    """Give what came and went since a time, by the hour, the newest last: until `now`.

    A file of an older version has none.
    """
    if not is_kept(connection):
        return ()
    now = time.time() if now is None else now
    marks = connection.execute(sql.HOURS).fetchall()
    if marks and now > marks[-1][0]:
        totals = connection.execute(sql.TOTALS).fetchone()
        marks.append((min(now, marks[-1][0] + HOUR), *totals))
    found = [_hour(*pair) for pair in itertools.pairwise(marks)]
    return tuple(hour for hour in found if since < hour.end_at <= now)


def _hour(before: tuple[Any, ...], after: tuple[Any, ...]) -> Hour:
    (begin, accepted, delivered, *_), (end, all_accepted, all_delivered, spans, size) = (
        before,
        after,
    )
    if begin > end:  # the clock went back
        begin = end - HOUR
    # Totals that a salvage could not read have begun anew.
    came, went = max(0, all_accepted - accepted), max(0, all_delivered - delivered)
    return Hour(begin, end, int(came), int(went), int(spans), int(size))
