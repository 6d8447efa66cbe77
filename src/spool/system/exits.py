"""The exit of a process: what is done as the last thing, also where multiprocessing ends it.

Invariant: what is registered while the package is imported comes last. That is before any provider
is made, hence after all of them have ended.
"""

from __future__ import annotations

import atexit
import sys
from typing import TYPE_CHECKING

from spool.system.forks import own_id

if TYPE_CHECKING:
    from collections.abc import Callable

_works: list[Callable[[], None]] = []
_finalized_in = 0


def register(work: Callable[[], None]) -> None:
    """Do this at the exit; see `notice_multiprocessing`."""
    _works.append(work)
    atexit.register(work)


def notice_multiprocessing() -> None:
    """Let a process of multiprocessing, which knows no atexit, do it at its end, too."""
    global _finalized_in  # noqa: PLW0603 - once in a process
    module = sys.modules.get("multiprocessing.process")
    if _finalized_in == own_id() or module is None or module.parent_process() is None:
        return
    _finalized_in = own_id()
    from multiprocessing.util import Finalize  # noqa: PLC0415 - only where it is used anyway

    for work in _works:
        Finalize(None, work, exitpriority=0)
