"""The LiteLLM callback as it is set up: made, installed, wrong settings, debug output."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from litellm_scenarios import (
    TEAM,
    ask,
    ask_async,
    drain,
    finish,
    finish_async,
    needs_litellm,
    run,
    say,
    spool,
    spool_handler,
    stock_callback,
    warnings_of_install,
)
from spool import SettingsError
from standin import StandIn

pytestmark = needs_litellm

MISSING_KEYS: Final = (
    "LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY must be set for Langfuse OpenTelemetry "
    "integration."
)


def scenario_import() -> None:
    import litellm
    from litellm.litellm_core_utils import litellm_logging

    threads = threading.active_count()
    import spool.litellm

    made = "handler" in vars(spool.litellm)
    new_threads = threading.active_count() - threads
    say([litellm_logging._in_memory_loggers, litellm.callbacks, made, new_threads])


def test_importing_makes_no_callback_no_file_and_no_thread(path: Path) -> None:
    assert run(scenario_import, path, "", is_fresh=True).said == [[], [], False, 0]
    assert not path.exists()


def scenario_once() -> None:
    import spool.litellm

    found: list[int] = []
    threads = [
        threading.Thread(target=lambda: found.append(id(spool.litellm.handler))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    from spool.litellm import handler

    proxy = "litellm.proxy.proxy_server" in sys.modules
    say([len({*found, id(handler)}), hasattr(spool.litellm, "no_such_thing"), proxy])


def test_a_process_has_one_handler_even_if_threads_ask_at_once(path: Path) -> None:
    handlers, has_more, has_loaded_the_proxy = run(
        scenario_once, path, "http://127.0.0.1:9", is_fresh=True
    ).said
    assert handlers == 1
    assert not has_more
    assert not has_loaded_the_proxy  # which the stock callback does, for seconds


def scenario_fork() -> None:
    spool_handler()
    child = os.fork()
    if child == 0:
        ask("child")
        finish()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    ask("parent")
    say(status)


def test_a_handler_made_before_a_fork_serves_parent_and_child(
    path: Path, langfuse: StandIn
) -> None:
    assert run(scenario_fork, path, langfuse.url, is_fresh=True).said == 0
    assert drain(path, langfuse.url) == 4


WRONG: Final[dict[str, tuple[dict[str, str], str]]] = {
    "no public key": ({"LANGFUSE_PUBLIC_KEY": ""}, MISSING_KEYS),
    "no secret key": ({"LANGFUSE_SECRET_KEY": ""}, MISSING_KEYS),
    "another protocol": (
        {
            "LANGFUSE_SECRET_KEY": "",
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
        },
        "OTEL_EXPORTER_OTLP_PROTOCOL=grpc: must be http/protobuf",
    ),
    "a wrong value": (
        {"SPOOL_DRAIN": "maybe"},
        "SPOOL_DRAIN=maybe: must be on or off",
    ),
}


def scenario_wrong() -> None:
    import spool.litellm

    before = dict(os.environ)
    errors: dict[str, list[str]] = {}
    for what, (variables, _) in WRONG.items():
        os.environ.update(variables)
        for set_up in (lambda: spool.litellm.handler, spool.litellm.install):
            try:
                set_up()
            except SettingsError as error:
                errors.setdefault(what, []).append(str(error))
        os.environ.clear()
        os.environ.update(before)
    say(errors)


def test_what_is_missing_or_wrong_is_said_at_setup_in_litellms_words(path: Path) -> None:
    said = run(scenario_wrong, path, "http://127.0.0.1:9").said
    assert said == {what: [words] * 2 for what, (_, words) in WRONG.items()}
    assert not path.exists()


def scenario_name() -> None:
    import litellm
    from litellm.litellm_core_utils import litellm_logging

    import spool.litellm

    spool.litellm.install()
    spool.litellm.install()
    litellm.callbacks = ["langfuse_otel"]
    ask("hello", success_callback=["langfuse_otel"], **TEAM)  # as a proxy's key does it
    finish()
    say([logger is spool.litellm.handler for logger in litellm_logging._in_memory_loggers])


def test_after_install_the_name_langfuse_otel_means_ours_everywhere(
    path: Path, langfuse: StandIn
) -> None:
    assert run(scenario_name, path, langfuse.url).said == [True]
    assert langfuse.requests == []  # as the stock callback would have sent
    assert spool(path, langfuse.url, "status")[1]["pending"]["spans"] == 2


def scenario_too_late() -> None:
    stock_callback()
    ask()
    say(warnings_of_install())


def test_install_warns_when_the_stock_callback_was_made_before(
    path: Path, langfuse: StandIn
) -> None:
    [warning] = run(scenario_too_late, path, langfuse.url).said
    assert "LiteLLM has already made its own langfuse_otel callback" in warning


def scenario_late_install() -> None:
    stock_callback()
    ask("early")
    asyncio.run(ask_early_async())
    import spool.litellm

    spool.litellm.install()
    make_late_calls()


def scenario_late_handler() -> None:
    stock_callback()
    ask("early")
    asyncio.run(ask_early_async())
    spool_handler()
    make_late_calls()


async def ask_early_async() -> None:
    await ask_async("early")
    await finish_async()


def make_late_calls() -> None:
    ask("late")
    with pytest.raises(Exception, match="boom"):
        ask("late", mock_response=Exception("boom"))
    asyncio.run(ask_async("late"))
    finish()
    say(None)


@pytest.mark.parametrize("scenario", [scenario_late_install, scenario_late_handler])
def test_after_a_late_install_each_call_is_spooled_and_only_that(
    path: Path, langfuse: StandIn, scenario: Callable[[], None]
) -> None:
    run(scenario, path, langfuse.url)
    assert langfuse.accepted == 4  # LiteLLM's own sent the early ones
    assert drain(path, langfuse.url) == 5
    assert len(langfuse.span_ids()) == 9


def scenario_no_version_2() -> None:
    sys.modules["litellm.integrations.otel.plumbing.providers"] = None  # type: ignore[assignment]
    sys.modules.pop("litellm.integrations.otel.logger", None)
    heard = warnings_of_install()
    spool_handler()
    ask()
    finish()
    say(heard)


def test_where_litellms_v2_cannot_start_it_is_said_and_the_handler_is_v1s(
    path: Path, langfuse: StandIn
) -> None:
    ran = run(scenario_no_version_2, path, langfuse.url, LITELLM_OTEL_V2="true")
    [warning] = ran.said
    assert "LITELLM_OTEL_V2 is set, but LiteLLM's v2 cannot be had here" in warning
    assert warning in ran.log  # a proxy's operator reads that
    assert drain(path, langfuse.url) == 2


def scenario_debug() -> None:
    import litellm

    litellm._turn_on_debug()
    spool_handler()
    ask()
    finish()
    say(None)


def test_debug_output_tells_endpoint_and_spans_but_no_secret(path: Path, langfuse: StandIn) -> None:
    log = run(scenario_debug, path, langfuse.url, SPOOL_DRAIN="on").log
    assert f"spans of pk-lf-test go to {langfuse.endpoint}; authorization header: made" in log
    assert "['litellm_request'] of pk-lf-test: spooled" in log
    assert f"to {langfuse.endpoint}: delivered" in log
    assert "sk-lf-test" not in log
    [authorization] = {request.headers["authorization"] for request in langfuse.requests}
    assert authorization.removeprefix("Basic ") not in log
