"""A deadline: all steps of a request end by one moment."""

from __future__ import annotations

import time
from enum import Enum, auto


class Step(Enum):
    """What of a request is under way."""

    PREPARE = auto()
    RESOLVE = auto()
    CONNECT = auto()
    TUNNEL = auto()
    SECURE = auto()
    SEND = auto()
    ANSWER = auto()


class Deadline:
    """A moment by which all must be over; `step` is which one is under way."""

    def __init__(self, seconds: float) -> None:
        self.step = Step.PREPARE
        self._at = time.monotonic() + seconds

    def left(self) -> float:
        """Give the seconds that are left, more than 0. Raises TimeoutError."""
        left = self._at - time.monotonic()
        if left <= 0:
            raise TimeoutError("the deadline passed")
        return left
