"""LiteLLM's logging worker: what it never began, as its event loop ended, is run after all.

LiteLLM makes an async call's spans in a coroutine, which its worker takes from a queue and runs as
a task. `asyncio.run` cancels all tasks as it returns. LiteLLM runs what is in the queue by then as
the program exits; what the worker had taken, and not begun, was lost: most of some calls at once.

Invariants:

- Python runs a coroutine once, and what has begun is not run again: no span is made twice, and no
  other callback of the same call is called twice.
- What was not begun as its loop closed is begun with the next call on another loop, or at exit.
- Exit waits no longer for it than for LiteLLM's own queue.

What is said here was read in LiteLLM's litellm_core_utils/logging_worker.py and utils.py, versions
1.82.0, 1.94.0, 1.108.7 and 1.110.2.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
from typing import TYPE_CHECKING, Any, Final

from litellm.litellm_core_utils.logging_worker import GLOBAL_LOGGING_WORKER

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    _Logging = Coroutine[Any, Any, Any]

_MOST_SECONDS: Final = 5.0  # as LiteLLM's MAX_TIME_TO_CLEAR_QUEUE

# What each loop has not begun, with the context that it was given in. No loop is held for nothing.
_waiting: Final[dict[asyncio.AbstractEventLoop, dict[_Logging, contextvars.Context]]] = {}
os.register_at_fork(after_in_child=_waiting.clear)  # it is the parent's to run


def hold_until_begun() -> None:
    """Hold each coroutine that LiteLLM's worker is given. Calling it again changes nothing."""
    enqueue: Callable[[_Logging], None] = GLOBAL_LOGGING_WORKER.enqueue
    if getattr(enqueue, "__module__", "") == __name__:
        return

    def hold(coroutine: _Logging) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # a thread that has none; LiteLLM takes it while its worker runs
            enqueue(coroutine)
            return
        for other in list(_waiting):
            if other.is_closed():
                for left in _waiting.pop(other):
                    enqueue(_begin(left, loop))
        enqueue(_begin(coroutine, loop))

    GLOBAL_LOGGING_WORKER.enqueue = hold  # type: ignore[method-assign]


def _begin(coroutine: _Logging, loop: asyncio.AbstractEventLoop) -> _Logging:
    """Hold a coroutine for its loop, and give one that begins it, if nobody else has."""
    _waiting.setdefault(loop, {})[coroutine] = contextvars.copy_context()

    async def begin() -> None:
        here = _waiting.get(loop, {})
        if here.pop(coroutine, None) is None:
            return
        if not here:
            _waiting.pop(loop, None)
        await coroutine

    return begin()


def run_what_has_not_begun() -> None:
    """Run at exit what LiteLLM has not, on a loop of its own. Never raises."""
    with contextlib.suppress(Exception):
        GLOBAL_LOGGING_WORKER._flush_on_exit()  # type: ignore[no-untyped-call]  # noqa: SLF001
    left = [each for here in _waiting.values() for each in here.items()]
    _waiting.clear()
    if not left:
        return
    loop = asyncio.new_event_loop()
    deadline = loop.time() + _MOST_SECONDS
    for coroutine, context in left:
        with contextlib.suppress(Exception, asyncio.CancelledError):
            bounded = asyncio.wait_for(coroutine, deadline - loop.time())
            context.run(loop.run_until_complete, bounded)
    loop.close()
