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
    """A warning of one kind of trouble, once a minute at most, with how often it was held back."""

    def __init__(self, trouble: str) -> None:
        self._trouble = trouble
        self._warned_at = -_INTERVAL
        self._held_back = 0

    def warn(self, detail: object) -> None:
        """Warn, unless that was done within the last minute; then count it for the next time."""
        now = time.monotonic()
        if now - self._warned_at < _INTERVAL:
            self._held_back += 1
            return
        held_back = self._held_back
        self._warned_at, self._held_back = now, 0  # first: a log handler may end up here again
        more = f" (and {held_back} times more since the last such line)" if held_back else ""
        logger.warning("langfuse-spool: %s: %s%s", self._trouble, detail, more)


class LimitedWarnings:
    """Warnings of several kinds of trouble, told apart by their words."""

    def __init__(self) -> None:
        self._kinds: dict[str, LimitedWarning] = {}

    def warn(self, trouble: str, detail: object) -> None:
        """Warn of this kind of trouble, as `LimitedWarning.warn` does."""
        self._kinds.setdefault(trouble, LimitedWarning(trouble)).warn(detail)
