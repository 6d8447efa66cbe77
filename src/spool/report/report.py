"""The report: a spool at one moment, its facts and what a person should see to.

The shape of `Report.as_json` is public: people script against its keys.
"""

from __future__ import annotations

import contextlib
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from spool.__about__ import __version__
from spool.delivery.route_state import RouteState
from spool.report import concerns
from spool.report.facts import Facts

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from spool.report.concerns import Concern
    from spool.store.drainers import SeenDrainer
    from spool.store.records import Route


@dataclass(frozen=True, slots=True)
class Report(Facts):
    """A spool at one moment, as people and programs are told of it."""

    def concerns(self, max_age: float = concerns.MAX_AGE) -> list[Concern]:
        """Give what a person should see to; `max_age` in seconds. Empty where all is well."""
        return concerns.of_facts(self, max_age)

    def as_json(self, found: Sequence[Concern] | None = None) -> dict[str, Any]:
        """Give the public shape, with these concerns; without any given, those that there are."""
        found = self.concerns() if found is None else found
        oldest = min((r.oldest_at for r in self.routes if r.oldest_at is not None), default=None)
        return {
            "path": str(self.path),
            "file_bytes": self.file_bytes,
            "max_bytes": self.max_bytes,
            "pending": {
                "spans": self.ledger.pending,
                "batches": sum(route.pending_batches for route in self.routes),
                "bytes": sum(route.pending_bytes for route in self.routes),
                "oldest_seconds": _rounded(self.oldest_seconds),
                "oldest_at": _iso(oldest),
            },
            "ledger": asdict(self.ledger),
            "drainer": {"running": self.is_running, "pid": self.pid},
            "routes": [
                self._route_json(route, state)
                for route, state in zip(self.routes, self.states, strict=True)
            ],
            "exists": True,
            "ok": not found,
            "concerns": [one.as_json() for one in found],
            "version": __version__,
            "used_bytes": self.used_bytes,
            "disk": {"free_bytes": self.free_bytes, "state": self.disk},
            "drainers": [_drainer_json(one) for one in self.drainers],
        }

    def _route_json(self, route: Route, state: RouteState) -> dict[str, Any]:
        is_failing = state is not RouteState.OK
        since = route.failing_since if is_failing and route.attempts else None
        left, succeeded_at = self.next_attempt_seconds(route), route.last_success_at
        next_at = self.now + left if is_failing and route.attempts else None
        return {
            "route": route.name,
            "endpoint": route.endpoint,
            "public_key": route.public_key,
            "state": state.value,
            "attempts": route.attempts,
            "next_attempt_seconds": _rounded(left),
            # What failed of spans that were adopted or purged since is nobody's trouble.
            "last_error": (route.last_error or None) if is_failing else None,
            "last_success_seconds": _rounded(self._ago(succeeded_at)),
            "pending_spans": route.pending_spans,
            "pending_bytes": route.pending_bytes,
            "oldest_at": _iso(route.oldest_at),
            "cause": (route.cause or None) if is_failing else None,
            "since": _iso(since),
            "since_seconds": _rounded(self._ago(since)),
            "next_attempt_at": _iso(next_at),
            "last_success_at": _iso(succeeded_at),
        }

    def _ago(self, at: float | None) -> float | None:
        return None if at is None else max(0.0, self.now - at)


def _drainer_json(drainer: SeenDrainer) -> dict[str, Any]:
    return {
        "pid": drainer.pid,
        "kind": drainer.kind,
        "version": drainer.version,
        "since": _iso(drainer.since),
        "acted_at": _iso(drainer.acted_at),
        "stopped": drainer.is_stopped,
        "routes": None if drainer.routes is None else sorted(drainer.routes),
    }


def none_json(path: Path, found: Sequence[Concern], *, exists: bool = False) -> dict[str, Any]:
    """Give the shape of a spool that does not exist, or of which nothing can be read."""
    return {
        "path": str(path),
        "exists": exists,
        "ok": False,
        "concerns": [one.as_json() for one in found],
        "version": __version__,
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


def _iso(at: float | None) -> str | None:
    """Give a time in UTC; None also for one that is in no calendar."""
    with contextlib.suppress(ValueError, OverflowError, OSError):  # it is in no calendar
        if at is not None:
            return datetime.fromtimestamp(at, tz=timezone.utc).isoformat(timespec="seconds")
    return None
