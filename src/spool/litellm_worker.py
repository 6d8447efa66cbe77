"""LiteLLM's logging worker: what it never began, as its event loop ended, is run after all.

LiteLLM makes an async call's spans in a coroutine, which its worker takes from a queue and runs as
a task. `asyncio.run` cancels all tasks as it returns. LiteLLM runs what is in the queue by then as
the program exits; what the worker had taken, and not begun, was lost: most of some calls at once.

Invariants:

- Python runs a coroutine once, and what has begun is not run again: no span is made twice, and no
  other callback of the same call is called twice.
- What was not begun as its loop closed is begun with the next call on another loop, or at exit, in
  the context of its own call.
- Exit waits for callbacks that hang no longer than LiteLLM does, for all of them together, and says
  how much it drops then. It runs all that do not hang, however many.
- Threads that have loops of their own take nothing twice, and wait for no lock.

What is said here was read in LiteLLM's litellm_core_utils/logging_worker.py and utils.py, versions
1.82.0, 1.94.0, 1.108.7 and 1.110.2.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
from typing import TYPE_CHECKING, Any, Final, cast

from litellm.litellm_core_utils.logging_worker import GLOBAL_LOGGING_WORKER

from spool.system import exits
from spool.system.log import logger

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    _Logging = Coroutine[Any, Any, Any]

_MOST_SECONDS: Final = 5.0  # as LiteLLM's MAX_TIME_TO_CLEAR_QUEUE

# What each loop has not begun, with the context that it was given in. Only that of a closed loop is
# taken away: another thread may be about to put something there.
_waiting: Final[dict[asyncio.AbstractEventLoop, dict[_Logging, contextvars.Context]]] = {}


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
        exits.notice_multiprocessing()
        for other in [one for one in list(_waiting) if one.is_closed()]:
            for left, context in _take(_waiting.pop(other, {})):
                context.run(lambda: enqueue(_begin(left, loop)))  # noqa: B023 - runs at once
        enqueue(_begin(coroutine, loop))

    GLOBAL_LOGGING_WORKER.enqueue = hold  # type: ignore[method-assign]


def _begin(coroutine: _Logging, loop: asyncio.AbstractEventLoop) -> _Logging:
    """Hold a coroutine for its loop, and give one that begins it, if nobody else has."""
    _waiting.setdefault(loop, {})[coroutine] = contextvars.copy_context()

    async def begin() -> None:
        if _waiting.get(loop, {}).pop(coroutine, None) is not None:
            await coroutine

    begun: Any = begin()
    begun.__qualname__ = getattr(coroutine, "__qualname__", "")  # said where one takes too long
    return cast("_Logging", begun)


def _take(
    here: dict[_Logging, contextvars.Context],
) -> list[tuple[_Logging, contextvars.Context]]:
    """Take all out, in the order it came; what another thread takes meanwhile is not in it."""
    taken = []
    with contextlib.suppress(KeyError):
        while True:
            taken.append(here.popitem())
    return taken[::-1]


def run_what_has_not_begun() -> None:
    """Run at exit what LiteLLM has not, on a loop of its own. Never raises."""
    with contextlib.suppress(Exception):
        GLOBAL_LOGGING_WORKER._flush_on_exit()  # type: ignore[no-untyped-call]  # noqa: SLF001
    left = [one for here in list(_waiting.values()) for one in _take(here)]
    if not left:
        return
    loop = asyncio.new_event_loop()
    patience, dropped = _MOST_SECONDS, 0
    for coroutine, context in left:
        begun_at = loop.time()
        try:
            context.run(loop.run_until_complete, asyncio.wait_for(coroutine, patience))
        except asyncio.TimeoutError:
            patience = max(0.0, patience - (loop.time() - begun_at))
            dropped += 1
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - of any callback
            logger.debug("langfuse-spool: LiteLLM's logging of a call: %s", error)
    loop.close()
    if dropped:
        logger.warning(
            "langfuse-spool: %d calls were not logged as the program ended, because callbacks hung "
            "for %g s: LiteLLM has made no spans of them",
            dropped,
            _MOST_SECONDS,
        )


def _forget() -> None:
    """Leave to a parent what is the parent's to run."""
    for here in _waiting.values():
        for coroutine in here:
            coroutine.close()
    _waiting.clear()


os.register_at_fork(after_in_child=_forget)
exits.register(run_what_has_not_begun)
