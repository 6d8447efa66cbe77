"""Scenarios with real LiteLLM calls, whose answers are mocks, each in a process of its own.

LiteLLM keeps its state in module globals, and takes seconds to import. So most scenarios are forked
from one process that has imported it. Those that are about how a program imports LiteLLM, forks or
ends are run afresh. Both run this file as a script, with file and function.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from forked import run_forked
from waits import PATIENCE

KEYS: Final = {"LANGFUSE_PUBLIC_KEY": "pk-lf-test", "LANGFUSE_SECRET_KEY": "sk-lf-test"}
TEAM: Final = {"langfuse_public_key": "pk-lf-team", "langfuse_secret_key": "sk-lf-team"}
SAID: Final = "The scenario says: "


def litellm_version() -> tuple[int, ...]:
    return tuple(int(part) for part in importlib.metadata.version("litellm").split(".")[:2])


def needs(major: int, minor: int, what: str) -> None:
    if litellm_version() < (major, minor):
        pytest.skip(f"litellm below {major}.{minor} {what}")


needs_litellm: Final = pytest.mark.skipif(
    importlib.util.find_spec("litellm") is None,
    reason="litellm is not installed; pip install 'langfuse-spool[litellm]'",
)


@dataclass(frozen=True)
class Ran:
    """What a scenario said at its end, and all else that it printed."""

    said: Any
    log: str


def run(
    scenario: Callable[[], None], path: Path, host: str, *, is_fresh: bool = False, **more: str
) -> Ran:
    """Run a scenario, a function of a test's file, in a process that only spools."""
    here = {"SPOOL_PATH": str(path), "SPOOL_DRAIN": "off", "LANGFUSE_HOST": host}
    environment = {**os.environ, **KEYS, **here, **more}
    command = [__file__, *place_of(scenario)]
    if is_fresh:
        code, log = run_afresh(command, environment)
    else:
        code, log = run_forked("litellm", command, environment)
    assert code == 0, log
    # LiteLLM logs there too, even during exit, and another thread's warning may come right behind.
    said, _ = json.JSONDecoder().raw_decode(log.rpartition(SAID)[2].lstrip())
    return Ran(said, log)


def place_of(scenario: Callable[[], None]) -> tuple[str, str]:
    return scenario.__code__.co_filename, scenario.__name__


def run_afresh(command: list[str], environment: dict[str, str]) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, *command],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=100,
        check=False,
    )
    return done.returncode, done.stdout


def act(file: str, name: str) -> None:
    """Do a scenario, in this process."""
    sys.path.insert(0, str(Path(file).parent))
    getattr(importlib.import_module(Path(file).stem), name)()


def spool(path: Path, host: str, command: str, **more: str) -> tuple[int, Any]:
    """Run a command as a user would, when all is well again."""
    done = subprocess.run(
        [sys.executable, "-m", "spool", "--path", str(path), command, "--json"],
        env={**os.environ, **KEYS, "LANGFUSE_HOST": host, **more},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def drain(path: Path, host: str, **more: str) -> int:
    """Send all that is left, and say how much it was."""
    code, result = spool(path, host, "drain", **more)
    assert code == 0, result
    delivered = result["delivered"]
    assert isinstance(delivered, int)
    return delivered


def needs_v2() -> None:
    """Skip where LiteLLM's v2 cannot start, or takes no exporters."""
    if reason := v2_trouble():
        pytest.skip(f"v2 of this litellm does not start here: {reason}")


@functools.cache
def v2_trouble() -> str:
    with tempfile.TemporaryDirectory() as directory:
        return str(run(scenario_v2, Path(directory) / "spool.db", "", LITELLM_OTEL_V2="true").said)


def scenario_v2() -> None:
    try:
        importlib.import_module("litellm.integrations.otel.logger")
        plumbing = importlib.import_module("litellm.integrations.otel.plumbing.providers")
        assert hasattr(plumbing, "register_exporter_factory"), "it takes no exporters"
    except Exception as error:  # noqa: BLE001 - it may be any
        say(f"{type(error).__name__}: {error}")
    else:
        say("")


def say(value: object) -> None:
    print(SAID + json.dumps(value), flush=True)


def warnings_of_install() -> list[str]:
    """Install twice, and give what is warned of."""
    import spool.litellm

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        spool.litellm.install()
        spool.litellm.install()
    return [str(one.message) for one in caught if issubclass(one.category, RuntimeWarning)]


def stock_callback() -> None:
    import litellm

    # As where only litellm itself is installed: it imports the proxy otherwise, for seconds.
    sys.modules["litellm.proxy.proxy_server"] = None  # type: ignore[assignment]
    litellm.callbacks = ["langfuse_otel"]


def spool_handler() -> Any:
    import litellm

    import spool.litellm

    litellm.callbacks = [spool.litellm.handler]
    return spool.litellm.handler


def question(text: str, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    return {"model": "gpt-4o", "messages": messages, "mock_response": f"re: {text}", **more}


def ask(text: str = "hello", **more: Any) -> Any:
    import litellm

    return litellm.completion(**question(text, **more))


async def ask_async(text: str = "hello", **more: Any) -> Any:
    import litellm

    return await litellm.acompletion(**question(text, **more))


def finish() -> None:
    """Wait until LiteLLM has logged all synchronous calls."""
    from litellm.litellm_core_utils.thread_pool_executor import executor

    executor.shutdown(wait=True)


async def finish_async() -> None:
    """Wait until LiteLLM has logged all calls of this loop."""
    from litellm.litellm_core_utils.logging_worker import GLOBAL_LOGGING_WORKER

    # It logs in tasks of its own, of which its worker's alone goes on.
    going_on = {asyncio.current_task(), GLOBAL_LOGGING_WORKER._worker_task}
    if others := asyncio.all_tasks() - going_on:
        await asyncio.wait(others, timeout=PATIENCE)
    await GLOBAL_LOGGING_WORKER.flush()


if __name__ == "__main__":
    act(*sys.argv[1:])
