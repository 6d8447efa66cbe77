"""Which routes wait, until when, and why: kept in the file, over restarts.

What is drawn, and when a route is tried again, `delivery` decides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from spool.store import history, sql
from spool.store.history import Kind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from spool.store.database import Database
    from spool.store.records import Route

_KNOWN_FINGERPRINTS: Final = 15
# The history tells of so many of the routes of a host that is silent.
_TOLD: Final = 50


def wait(  # noqa: PLR0913 - each says something else of one failure
    database: Database, route: Route, seconds: float, now: float, reason: str, *, cause: str = ""
) -> None:
    """Keep a route's spans for a later attempt, `seconds` from now.

    The `reason` is what was said of this failure, the `cause` a value of `delivery.causes.Cause`.
    """
    with database.transaction() as connection:
        connection.execute(sql.WAIT, _failure(route, seconds, now, reason, cause))
        history.fail(connection, route.name, route.pending_spans, now, reason, Kind.DOWN)


def hold(  # noqa: PLR0913, PLR0917 - each says something else of one refusal
    database: Database,
    route: Route,
    fingerprint: str,
    seconds: float,
    now: float,
    reason: str,
    *,
    cause: str = "",
) -> None:
    """Keep them, because the target with this fingerprint was refused: no backoff helps."""
    others = [known for known in route.fingerprints if known != fingerprint]
    known = " ".join([*others[-_KNOWN_FINGERPRINTS:], fingerprint])
    with database.transaction() as connection:
        connection.execute(sql.WAIT, _failure(route, seconds, now, reason, cause))
        connection.execute(sql.HOLD, (known, now, route.id))
        history.fail(connection, route.name, route.pending_spans, now, reason, Kind.HELD)


def suspect(database: Database, route: Route, last_id: int, probes: int = 0) -> None:
    """Note that what waits up to an id may itself be to blame: what comes is not.

    So many `probes` of what came since were refused as well.
    """
    with database.writing() as connection:
        connection.execute(sql.SUSPECT, (last_id, probes, route.id))


def put_off(
    database: Database,
    waits: Sequence[tuple[Route, float]],
    now: float,
    reason: str,
    *,
    cause: str = "",
) -> None:
    """Let routes wait, each for so many seconds, which were not tried themselves.

    Only for who has their lock. Not one that another has tried since it was read.
    """
    values = [
        {
            **_failure(route, seconds, now, reason, cause),
            "name": route.name,
            "attempts": route.attempts,
        }
        for route, seconds in waits
    ]
    with database.transaction() as connection:
        connection.executemany(sql.PUT_OFF, values)
        for route, _ in waits[:_TOLD]:
            history.fail(connection, route.name, route.pending_spans, now, reason, Kind.DOWN)


def restore(database: Database, before: Route) -> None:
    """Let a route wait as it did before a try by hand, which failed; what was said of it stays."""
    names = (
        "id", "name", "attempts", "waited_at", "wait_seconds", "held_at", "suspect_to", "probes",
    )  # fmt: skip
    with database.writing() as connection:
        connection.execute(sql.RESTORE, {name: getattr(before, name) for name in names})


def restart_wait(database: Database, route: Route, now: float) -> None:
    """Let a wait begin now: the clock went back behind its beginning."""
    with database.writing() as connection:
        connection.execute(sql.RESTART_WAIT, {"now": now, "id": route.id})


def _failure(
    route: Route, seconds: float, now: float, reason: str, cause: str
) -> dict[str, object]:
    return {"id": route.id, "seconds": seconds, "now": now, "reason": reason, "cause": cause}
