"""The report: a spool at one moment, its facts and what a person should see to.

The shape of `Report.as_json` is public: people script against its keys.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from spool.report import concerns
from spool.report.facts import Facts

if TYPE_CHECKING:
    from spool.delivery.route_state import RouteState
    from spool.report.concerns import Concern
    from spool.store.records import Route


@dataclass(frozen=True, slots=True)
class Report(Facts):
    """A spool at one moment, as people and programs are told of it."""

    def as_json(self) -> dict[str, Any]:
        """Give the public shape."""
        return {
            "path": str(self.path),
            "file_bytes": self.file_bytes,
            "max_bytes": self.max_bytes,
            "pending": {
                "spans": self.ledger.pending,
                "batches": sum(route.pending_batches for route in self.routes),
                "bytes": sum(route.pending_bytes for route in self.routes),
                "oldest_seconds": _rounded(self.oldest_seconds),
            },
            "ledger": asdict(self.ledger),
            "drainer": {"running": self.is_running, "pid": self.pid},
            "routes": [
                _route_json(route, state, self.now)
                for route, state in zip(self.routes, self.states, strict=True)
            ],
        }

    def concerns(self, max_age: float = concerns.MAX_AGE) -> list[Concern]:
        """Give what a person should see to; `max_age` in seconds. Empty where all is well."""
        return concerns.of_facts(self, max_age)


def _next_attempt(route: Route, now: float) -> float:
    return max(0.0, min(route.waited_at + route.wait_seconds - now, route.wait_seconds))


def _route_json(route: Route, state: RouteState, now: float) -> dict[str, Any]:
    succeeded = route.last_success_at
    return {
        "route": route.name,
        "endpoint": route.endpoint,
        "public_key": route.public_key,
        "state": state.value,
        "attempts": route.attempts,
        "next_attempt_seconds": _rounded(_next_attempt(route, now)),
        "last_error": route.last_error or None,
        "last_success_seconds": None if succeeded is None else _rounded(max(0.0, now - succeeded)),
        "pending_spans": route.pending_spans,
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
