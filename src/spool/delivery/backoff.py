"""The backoff: how many seconds a route waits before it is tried again.

- After a failure: exponential, with full jitter, from `first` up to `largest` seconds, for ever.
- Where a configuration is wrong (a hold): as rarely as `HOLD_SECONDS` says.
- Between probes of what has come since single spans were suspected: exponential, and faster.
"""

from __future__ import annotations

from typing import Final

from spool.system.importing import importing

# Langfuse caches an unknown key for 300 s, and every request with it renews that.
HOLD_SECONDS: Final = 330.0
# Larger powers are no number of seconds any more.
_MOST_DOUBLINGS: Final = 30


def draw(attempt: int, first: float, largest: float) -> float:
    """Draw the seconds to wait after a failed attempt, which are counted from 1.

    The largest, as long as the process has no free descriptor to import the policy with.
    """
    try:
        with importing():
            from tenacity import (  # noqa: PLC0415 - slow
                RetryCallState,
                Retrying,
                wait_random_exponential,
            )
    except (OSError, ImportError):
        return largest
    state = RetryCallState(Retrying(), None, (), {})
    state.attempt_number = attempt
    return float(wait_random_exponential(multiplier=first, max=largest)(state))


def longest(attempt: int, first: float, largest: float) -> float:
    """Tell what at most is drawn after a failed attempt."""
    return min(largest, first * 2.0 ** min(attempt - 1, _MOST_DOUBLINGS))


def between_probes(probes: int, first: float, largest: float) -> float:
    """Tell the seconds to wait after so many probes that were refused: none before the first."""
    return min(largest, first * 4.0 ** min(probes - 1, _MOST_DOUBLINGS)) if probes else 0.0
