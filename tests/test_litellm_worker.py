"""Async calls whose loop ends before LiteLLM has logged them: nothing is lost, nothing doubled."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from litellm_scenarios import (
    ask_async,
    drain,
    finish_async,
    needs_litellm,
    run,
    say,
    spool,
    spool_handler,
)
from standin import StandIn

pytestmark = needs_litellm


async def ask_five() -> None:
    await asyncio.gather(*(ask_async(f"question {number}") for number in range(5)))


async def read_five() -> None:
    async def read(number: int) -> None:
        assert [chunk async for chunk in await ask_async(f"question {number}", stream=True)]

    await asyncio.gather(*map(read, range(5)))


def scenario_gather() -> None:
    spool_handler()
    asyncio.run(ask_five())
    say(None)


def scenario_streams() -> None:
    spool_handler()
    asyncio.run(read_five())
    say(None)


def scenario_many_loops() -> None:
    spool_handler()
    for _ in range(4):
        asyncio.run(ask_five())
    say(None)


@pytest.mark.parametrize(
    ("scenario", "spans"),
    [(scenario_gather, 10), (scenario_streams, 10), (scenario_many_loops, 40)],
)
def test_calls_at_once_right_before_asyncio_run_returns_are_all_there_once(
    path: Path, langfuse: StandIn, scenario: Callable[[], None], spans: int
) -> None:
    ran = run(scenario, path, langfuse.url)
    assert "Traceback" not in ran.log
    assert drain(path, langfuse.url) == spans
    assert len(langfuse.span_ids()) == spans


def scenario_next_loop() -> None:
    spool_handler()
    asyncio.run(ask_five())
    asyncio.run(ask_and_wait_for_logging())
    say(None)
    os._exit(0)  # as a kill


async def ask_and_wait_for_logging() -> None:
    await ask_async()
    await finish_async()


def test_what_one_loop_left_the_next_one_makes_and_a_kill_does_not_take_it(
    path: Path, langfuse: StandIn
) -> None:
    run(scenario_next_loop, path, langfuse.url)
    assert drain(path, langfuse.url) == 12


def scenario_other_callback() -> None:
    import atexit

    import litellm
    from litellm.integrations.custom_logger import CustomLogger

    called: Counter[str] = Counter()

    class Other(CustomLogger):
        async def async_log_success_event(self, *_: Any, **given: Any) -> None:
            called[given["kwargs"]["litellm_call_id"]] += 1

    atexit.register(lambda: say(sorted(called.values())))
    spool_handler()
    litellm.callbacks.append(Other())
    asyncio.run(ask_five())


def test_other_callbacks_are_called_once_for_each_call(path: Path, langfuse: StandIn) -> None:
    assert run(scenario_other_callback, path, langfuse.url).said == [1] * 5


def scenario_no_loop() -> None:
    from litellm.litellm_core_utils.logging_worker import GLOBAL_LOGGING_WORKER

    spool_handler()
    asyncio.run(ask_five())
    GLOBAL_LOGGING_WORKER.enqueue(asyncio.sleep(0))
    say(None)


def test_what_a_thread_without_a_loop_has_to_log_raises_nothing(
    path: Path, langfuse: StandIn
) -> None:
    run(scenario_no_loop, path, langfuse.url)
    assert drain(path, langfuse.url) == 10


def scenario_fork() -> None:
    spool_handler()
    asyncio.run(ask_five())
    if os.fork() == 0:
        return  # and ends as any program does
    os.wait()
    say(None)


def test_a_child_makes_no_spans_of_its_parents_calls(path: Path, langfuse: StandIn) -> None:
    run(scenario_fork, path, langfuse.url)
    assert drain(path, langfuse.url) == 10


def scenario_contexts() -> None:
    import contextvars

    import litellm
    from litellm.integrations.custom_logger import CustomLogger

    tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant")
    seen: list[tuple[str, str]] = []

    class Other(CustomLogger):
        async def async_log_success_event(self, *_: Any, **given: Any) -> None:
            seen.append((given["kwargs"]["messages"][0]["content"], tenant.get()))

    async def ask_for(name: str) -> None:
        tenant.set(name)
        await asyncio.gather(*(ask_async(name) for _ in range(5)))

    async def ask_and_wait(name: str) -> None:
        await ask_for(name)
        await finish_async()

    spool_handler()
    litellm.callbacks.append(Other())
    asyncio.run(ask_for("one"))
    asyncio.run(ask_and_wait("two"))
    say(sorted(seen))


def test_what_one_loop_left_is_logged_in_the_context_of_its_own_call(
    path: Path, langfuse: StandIn
) -> None:
    said = run(scenario_contexts, path, langfuse.url).said
    assert [tuple(pair) for pair in said] == [("one", "one")] * 5 + [("two", "two")] * 5


def in_a_child() -> None:
    asyncio.run(ask_five())


def scenario_multiprocessing() -> None:
    import multiprocessing

    spool_handler()
    child = multiprocessing.get_context("fork").Process(target=in_a_child)
    child.start()
    child.join()
    say(child.exitcode)


def test_a_child_of_multiprocessing_makes_the_spans_of_its_calls_as_it_ends(
    path: Path, langfuse: StandIn
) -> None:
    assert run(scenario_multiprocessing, path, langfuse.url).said == 0
    assert drain(path, langfuse.url) == 10


def test_of_two_threads_that_take_what_is_left_each_gets_its_own() -> None:
    from spool.litellm_worker import _take

    left: Any = dict.fromkeys(range(1000))
    taken: list[Any] = _take(left)
    assert [number for number, _ in taken] == list(range(1000))
    assert _take(left) == []


def scenario_hanging_callback() -> None:
    import litellm
    from litellm.integrations.custom_logger import CustomLogger
    from litellm.litellm_core_utils.logging_worker import GLOBAL_LOGGING_WORKER

    # It begins none before its loop ends: how many it does depends on the machine.
    GLOBAL_LOGGING_WORKER.enqueue = lambda coroutine: coroutine.close()  # type: ignore[method-assign]
    import spool.litellm_worker

    class Hanging(CustomLogger):
        async def async_log_success_event(self, *_: Any, **__: Any) -> None:
            await asyncio.sleep(3600)

    spool.litellm_worker._MOST_SECONDS = 0.1  # type: ignore[misc]
    spool_handler()
    litellm.callbacks.append(Hanging())
    asyncio.run(ask_five())
    say(None)


def test_a_callback_of_another_that_hangs_does_not_hold_up_the_end(
    path: Path, langfuse: StandIn
) -> None:
    ran = run(scenario_hanging_callback, path, langfuse.url)
    assert "5 calls were not logged as the program ended" in ran.log
    assert spool(path, langfuse.url, "status")[1]["pending"]["spans"] <= 10
