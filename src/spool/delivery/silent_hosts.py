"""Silent hosts: which ones answer nobody, so that one request tells for all of their routes.

Invariants:

- A host is silent when a request got no answer, and nobody else got one since that began: a body
  that is too large for a thin line says nothing about others.
- Any answer, of whatever status, ends it.
"""

from __future__ import annotations

import time
import urllib.parse
from dataclasses import dataclass

from spool.delivery.causes import Cause


@dataclass(frozen=True, slots=True)
class Silence:
    """Since when a host is silent and until when it is left alone, by the monotonic clock; why."""

    since: float
    until: float
    reason: str
    cause: Cause = Cause.UNKNOWN


class SilentHosts:
    """Which hosts are silent, as far as one process knows."""

    def __init__(self) -> None:
        self._silences: dict[str, Silence] = {}
        self._answered_at: dict[str, float] = {}

    def answered(self, endpoint: str) -> None:
        """Note that an endpoint's host has answered a request."""
        host = _host_of(endpoint)
        self._answered_at[host] = time.monotonic()
        self._silences.pop(host, None)

    def mute(
        self,
        endpoint: str,
        began_at: float,
        seconds: float,
        reason: str,
        cause: Cause = Cause.UNKNOWN,
    ) -> None:
        """Note that a request that began then got no answer; the next try is in so many seconds.

        It tells for others at least as long as it was waited for.
        """
        host, now = _host_of(endpoint), time.monotonic()
        if self._answered_at.get(host, began_at) <= began_at:
            until = now + max(seconds, now - began_at)
            self._silences[host] = Silence(now, until, reason, cause)

    def silence(self, endpoint: str, since: float) -> Silence | None:
        """Give what is known of a host that is silent; None where that began before `since`."""
        found = self._silences.get(_host_of(endpoint))
        is_known = found is not None and found.since >= since and time.monotonic() < found.until
        return found if is_known else None


def _host_of(endpoint: str) -> str:
    return urllib.parse.urlsplit(endpoint).netloc
