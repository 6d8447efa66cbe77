"""Complaints: one log line a minute about the same trouble, never a flood.

What is logged of keys, names and servers' words is escaped: the log may be a terminal.
"""

from __future__ import annotations

import logging
import time
from typing import Final

from spool.system.redaction import printable

logger: Final = logging.getLogger("spool")

_INTERVAL: Final = 60.0


def _make_printable(record: logging.LogRecord) -> bool:
    if isinstance(record.args, tuple):
        record.args = tuple(
            one if isinstance(one, int | float) else printable(str(one)) for one in record.args
        )
    return True


logger.addFilter(_make_printable)


class LimitedWarning:
    """One kind of trouble, said at most once a minute, with what it happened to in that time."""

    def __init__(self, trouble: str) -> None:
        self._trouble = trouble
        self._said_at = -_INTERVAL
        self._unsaid = 0

    def warn(self, detail: object) -> None:
        """Warn, unless that was done within the last minute; then count it for the next time."""
        now = time.monotonic()
        if now - self._said_at < _INTERVAL:
            self._unsaid += 1
            return
        more = f" (and {self._unsaid} times more since the last such line)" if self._unsaid else ""
        self._said_at, self._unsaid = now, 0  # first: a log handler may end up here again
        logger.warning("langfuse-spool: %s: %s%s", self._trouble, detail, more)


class LimitedWarnings:
    """Several kinds of trouble, told apart by what is said of them."""

    def __init__(self) -> None:
        self._kinds: dict[str, LimitedWarning] = {}

    def warn(self, trouble: str, detail: object) -> None:
        """Warn of this kind of trouble, as `LimitedWarning.warn` does."""
        self._kinds.setdefault(trouble, LimitedWarning(trouble)).warn(detail)
