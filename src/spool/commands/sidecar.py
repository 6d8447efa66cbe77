"""The sidecar: what `run` says while it drains, in its log and to the service manager.

Invariants:

- A change is said once, what lasts once an hour. What becomes of a route says who sends it.
- What many routes have in common is one line. While nothing changes no route is looked at.
- systemd hears of us only as long as the drainer moves.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from datetime import datetime
from typing import TYPE_CHECKING, Final

from spool.delivery.file_watch import FileWatch
from spool.errors import SpoolError
from spool.report import sentences, situations
from spool.store import drainers
from spool.system import service_manager
from spool.system.background_thread import BackgroundThread
from spool.system.log import logger
from spool.system.words import count_of, duration_of, few_of, size_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from spool.commands.open_spool import OpenSpool
    from spool.store.drainers import SeenDrainer

_LOOK_SECONDS: Final = 2.0
_AN_HOUR: Final = 3600.0
# A watchdog is told of us so often within its time.
_OFTEN: Final = 3


class Sidecar(BackgroundThread):
    """Watches what a drainer does in one spool, and says it."""

    def __init__(self, spool: OpenSpool) -> None:
        super().__init__("spool-sidecar", "cannot look at the spool file")
        self._spool = spool
        self._watchdog = service_manager.watchdog_seconds()
        self._standing_by_for: str | None = None
        self._missing: dict[str, str] = {}
        self._sending: list[frozenset[str] | None] = []
        self._watch = FileWatch(spool.store, spool.drainer.routes)
        self._told_at = time.monotonic()

    def wake(self) -> None:
        """Nothing wakes it but the end."""

    def run(self) -> None:
        """Look again and again, until it is stopping."""
        pause = min(_LOOK_SECONDS, (self._watchdog or _AN_HOUR) / _OFTEN)
        while not self.stopping.wait(pause):
            if self._watchdog is not None and self._spool.drainer.presence.is_moving():
                service_manager.notify(WATCHDOG=1)
            self.safely(self._look, otherwise=None)

    def begin_to_drain(self) -> None:
        """Say that it drains, or stands by."""
        self._standing_by_for = self._who_drains(self._others())
        self._say_role(self._standing_by_for)
        service_manager.notify(READY=1)

    def reload(self) -> None:
        """Read the credentials again, and say what has changed."""
        service_manager.notify(RELOADING=1, MONOTONIC_USEC=time.monotonic_ns() // 1000)
        try:
            logger.info("langfuse-spool: %s", self._spool.drainer.routes.reload_credentials())
        except SpoolError as error:
            logger.warning("langfuse-spool: %s; the secrets read before stay", error)
        self._spool.drainer.wake()
        service_manager.notify(READY=1)

    def _look(self) -> None:
        others = self._others()
        who = self._who_drains(others)
        if who != self._standing_by_for:
            if self._standing_by_for is not None:
                logger.info("langfuse-spool: %s drains no longer", self._standing_by_for)
            self._standing_by_for = who
            self._say_role(who)
        sending = [one.routes for one in others]
        if sending != self._sending or self._watch.is_over():
            self._watch.begin()
            self._say_missing(others)
            self._spool.drainer.routes.say_recovered()
            self._sending = sending
            self._watch.rest(_AN_HOUR)
        if time.monotonic() - self._told_at >= _AN_HOUR:
            self._told_at = time.monotonic()
            self._say_what_waits()

    def _who_drains(self, others: Iterable[SeenDrainer]) -> str | None:
        """Name another `run` that began before us; None where there is none."""
        earlier = [one for one in others if one.kind == "run" and self._is_earlier(one)]
        return next((sentences.pid(one) for one in earlier), None)

    def _is_earlier(self, other: SeenDrainer) -> bool:
        since = self._spool.drainer.presence.since
        return other.since is not None and (since is None or other.since < since)

    def _others(self) -> list[SeenDrainer]:
        own = os.getpid(), self._spool.drainer.presence.since  # other containers have the pid, too
        return [
            one
            for one in drainers.seen(self._spool.store)
            if (one.pid, one.since) != own and not one.is_stopped
        ]

    def _say_role(self, who: str | None) -> None:
        path = self._spool.settings.path
        role = f"draining {path}" if who is None else f"standing by: {who} drains {path}"
        logger.info("langfuse-spool: %s", role)
        service_manager.notify(STATUS=role)

    def _say_missing(self, others: Sequence[SeenDrainer]) -> None:
        """Say which routes wait for a secret that nobody has who drains, when that changes."""
        routes = self._spool.drainer.routes
        missing = {
            route.name: said
            for route in self._spool.store.waiting()
            if not any(one.can_send(route.name) for one in others)
            and (said := routes.missing(route))
        }
        alike: dict[str, list[str]] = {}
        for name, said in missing.items():
            if self._missing.get(name) != said:
                alike.setdefault(said.partition("; ")[0], []).append(name)
        for first, *more in alike.values():
            said = missing[first]
            if more:
                said = f"{few_of([first, *more])}; of {first}: {said}"
            whose = f"{_routes(first, *more)}: {'their' if more else 'its'} spans wait"
            logger.warning("langfuse-spool: %s: %s", whose, said)
        if gone := [name for name in self._missing if name not in missing]:
            which = "it" if len(gone) == 1 else f"them ({few_of(gone)})"
            logger.info(
                "langfuse-spool: %s: nothing of %s lacks a secret any more", _routes(*gone), which
            )
        self._missing = missing

    def _say_what_waits(self) -> None:
        waiting = [route for route in self._spool.store.routes() if route.pending_spans]
        is_many = len(waiting) > situations.FEW
        for routes in [waiting] if is_many else [[route] for route in waiting]:
            times = [route.oldest_at for route in routes if route.oldest_at is not None]
            age = time.time() - min(times) if times else 0.0
            logger.info(
                "langfuse-spool: %s: %s (%s) waiting, the oldest for %s",
                _routes(*(route.name for route in routes)),
                count_of(sum(route.pending_spans for route in routes), "span"),
                size_of(sum(route.pending_bytes for route in routes)),
                duration_of(max(0.0, age)),
            )


def _routes(*names: str) -> str:
    """Name the one, or count them."""
    return f"route {names[0]}" if len(names) == 1 else count_of(len(names), "route")


class _Lines(logging.Formatter):
    """A line as a log of many services needs it: when, how bad, what."""

    def format(self, record: logging.LogRecord) -> str:
        """Give it local time, as ISO 8601 has it, and leave out whose log it is."""
        at = datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="seconds")
        return f"{at} {super().format(record).replace('langfuse-spool: ', '', 1)}"


def log_to_stderr(level: int) -> None:
    """Write what is logged to standard error, from this level on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines("%(levelname)s %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False
