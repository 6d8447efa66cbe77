"""The log: a line a minute about the same trouble, never a flood.

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
    """A warning of one kind of trouble, with how often it was held back.

    It is given once in an `interval` of seconds at most.
    """

    def __init__(self, trouble: str, interval: float = _INTERVAL) -> None:
        self._trouble = trouble
        self._interval = interval
        self._warned_at = -interval
        self._held_back = 0

    def warn(self, detail: object) -> None:
        """Warn, unless that was done within the interval; then count it for the next time."""
        now = time.monotonic()
        if now - self._warned_at < self._interval:
            self._held_back += 1
            return
        held_back = self._held_back
        self._warned_at, self._held_back = now, 0  # first: a log handler may end up here again
        more = f" (and {held_back} times more since the last such line)" if held_back else ""
        logger.warning("langfuse-spool: %s: %s%s", self._trouble, detail, more)


class LimitedWarnings:
    """Warnings of several kinds of trouble, told apart by their words."""

    def __init__(self, interval: float = _INTERVAL) -> None:
        self._interval = interval
        self._kinds: dict[str, LimitedWarning] = {}

    def warn(self, trouble: str, detail: object, *, kind: str = "") -> None:
        """Warn of this trouble, as `LimitedWarning.warn` does; of each `kind` of it by itself."""
        self._kinds.setdefault(trouble + kind, LimitedWarning(trouble, self._interval)).warn(detail)
