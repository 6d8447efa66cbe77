"""The bar of a drain: how far it is, within a request too, and what it waits for.

A thread of its own draws it, for who drains is busy, or sleeps. It reads numbers only.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import time
from typing import TYPE_CHECKING, Final

import click

from spool.system.log import logger
from spool.system.redaction import printable
from spool.system.words import duration_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from click._termui_impl import ProgressBar

    from spool.delivery.client import Client
    from spool.delivery.drainer import Drainer
    from spool.store.store import Store

_EVERY: Final = 0.2
# The bar counts parts of spans: one may take long on a thin line.
_PARTS: Final = 1000
# A request that takes so long is told of.
_SLOW: Final = 1.0


class DrainBar:
    """What a drain is told of, and what is shown of it."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._waiting: tuple[str, float] | None = None
        self._is_over = threading.Event()

    @classmethod
    @contextlib.contextmanager
    def of(cls, store: Store, drainer: Drainer, *, is_shown: bool) -> Iterator[DrainBar]:
        """Show a drain's bar, if it is to be shown, until it is over. Raises SpoolError."""
        bar = cls(drainer.client)
        if not is_shown:
            yield bar
            return
        total = store.ledger().pending * _PARTS
        with (
            _log_above(),
            click.progressbar(
                length=total, label="draining", item_show_func=_shown, file=sys.stderr
            ) as drawn,
        ):
            artist = threading.Thread(target=bar._draw, args=(drawn,), daemon=True)
            artist.start()
            try:
                yield bar
            finally:
                bar._is_over.set()
                artist.join()

    def go_on(self) -> None:
        """Note that nothing is waited for any more."""
        self._waiting = None

    def wait(self, route: str, until: float) -> None:
        """Note that a route is waited for until then, by the monotonic clock."""
        self._waiting = route, until

    def _draw(self, drawn: ProgressBar[str]) -> None:
        is_over = False
        while not is_over:
            is_over = self._is_over.wait(_EVERY)
            tally = self._client.tally
            done = tally.delivered + tally.dead + self._client.spans_under_way()
            drawn.current_item = self._said()
            # Not `update`: it goes back as well, when a request has failed.
            drawn.make_step(min(round(done * _PARTS), drawn.length or 0) - drawn.pos)
            drawn.render_progress()

    def _said(self) -> str:
        now = time.monotonic()
        if self._waiting is not None and (left := self._waiting[1] - now) > 0:
            return f"{self._waiting[0]} failed; next try in {duration_of(left)}"
        asked_at = self._client.asked_at
        if asked_at is not None and now - asked_at > _SLOW:
            return f"a request is under way for {duration_of(now - asked_at)}"
        return ""


class _Above(logging.Handler):
    """Prints log lines above the bar, which is drawn again below."""

    def emit(self, record: logging.LogRecord) -> None:
        click.echo(f"\r\x1b[K{printable(record.getMessage())}", err=True)


@contextlib.contextmanager
def _log_above() -> Iterator[None]:
    above = _Above(logging.WARNING)
    logger.addHandler(above)
    try:
        yield
    finally:
        logger.removeHandler(above)


def _shown(said: str | None) -> str:
    return printable(said or "")
