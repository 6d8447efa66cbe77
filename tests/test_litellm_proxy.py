"""The LiteLLM callback in a real proxy with two workers, ended right after ten requests."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from litellm_scenarios import (
    KEYS,
    OWN_KEY,
    PROJECTS,
    TEAM_KEY,
    credentials_file,
    drain,
    litellm_version,
)
from pages import block
from ports import HOST, free_port
from standin import StandIn, parse, spans_of, unavailable

COMMAND: Final = Path(sys.executable).with_name("litellm")

# What the command `litellm` does. But uvicorn kills a worker that does not answer for 5 s, as one
# that imports on a busy machine: there none would ever start.
PATIENT_PROXY: Final = """
import sys, uvicorn
uvicorn.run.__kwdefaults__["timeout_worker_healthcheck"] = 240
from litellm import run_server
sys.exit(run_server())
"""

pytestmark = pytest.mark.skipif(
    not COMMAND.exists()
    or not all(importlib.util.find_spec(name) for name in ("fastapi", "uvicorn", "apscheduler")),
    reason="litellm[proxy] is not installed; pip install 'litellm[proxy]'",
)

CONFIG: Final = """
model_list:
  - model_name: mock
    litellm_params: {model: openai/gpt-4o, api_key: none, mock_response: hello}
general_settings:
  custom_auth: our_auth.check
"""
README_SETTINGS: Final = block("The roads in", "yaml")
README_CALLBACK: Final = "spool.litellm.handler"
SHIM: Final = "from spool.litellm import handler\n"
# What a proxy with a database does for a virtual key that has `logging` settings.
AUTH: Final = """
from litellm.proxy._types import UserAPIKeyAuth

LOGGING = {"callback_name": "langfuse_otel", "callback_type": "success_and_failure",
    "callback_vars": {"langfuse_public_key": "pk-lf-team", "langfuse_secret_key": "sk-lf-team"}}


async def check(request, api_key):
    logging = [LOGGING] if api_key == "sk-team" else []
    return UserAPIKeyAuth(api_key=api_key, metadata={"logging": logging})
"""


@dataclass(frozen=True)
class Way:
    """A way to get the callback into a proxy, and the LiteLLM versions that it is for."""

    callback: str
    first: tuple[int, int]
    below: tuple[int, int] = (99, 0)
    environment: dict[str, str] = field(default_factory=dict)


WAYS: Final = {
    "the handler by its dotted path": Way(README_CALLBACK, first=(1, 94)),
    "a file beside the configuration": Way("spooled.handler", first=(1, 82), below=(1, 94)),
    "the stock name and a startup hook": Way(
        "langfuse_otel",
        first=(1, 83),
        environment={"LITELLM_WORKER_STARTUP_HOOKS": "spool.litellm:install"},
    ),
}


class Proxy:
    """A LiteLLM proxy with two workers."""

    def __init__(self, directory: Path, way: Way, **environment: str) -> None:
        config = directory / "config.yaml"
        config.write_text(CONFIG + README_SETTINGS.replace(README_CALLBACK, way.callback))
        (directory / "spooled.py").write_text(SHIM)
        (directory / "our_auth.py").write_text(AUTH)
        self._log = directory / "log"
        self._port = free_port()
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-c", PATIENT_PROXY, "--config", config),
                    *("--host", HOST, "--port", str(self._port)),
                    *("--num_workers", "2"),
                ],
                env={
                    **os.environ,
                    **KEYS,
                    **environment,
                    **way.environment,
                    "HOME": str(directory),
                    "LITELLM_MASTER_KEY": "sk-a-master-key-for-tests-only",
                },
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def wait_until_up(self) -> None:
        deadline = time.monotonic() + 240
        while not self._is_up():
            assert self._process.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.2)

    def _is_up(self) -> bool:
        # Each worker says so when it is ready; before, a request could meet only the other.
        return self.log().count("Application startup complete") == 2

    def ask(self, key: str) -> Any:
        body = {"model": "mock", "messages": [{"role": "user", "content": "hello"}]}
        request = urllib.request.Request(
            f"http://{HOST}:{self._port}/v1/chat/completions",
            json.dumps(body).encode(),
            {"content-type": "application/json", "authorization": f"Bearer {key}"},
        )
        with urllib.request.urlopen(request, timeout=120) as response:
            return json.load(response)

    def terminate(self) -> None:
        self._process.terminate()
        self._process.wait(60)

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(60)

    def log(self) -> str:
        return self._log.read_text()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_all_spans_of_a_terminated_proxy_arrive_later(
    tmp_path: Path, path: Path, langfuse: StandIn, way: Way
) -> None:
    if not way.first <= litellm_version() < way.below:
        pytest.skip(f"not for litellm {'.'.join(map(str, litellm_version()))}")
    langfuse.keys.update(PROJECTS)
    langfuse.behave(unavailable())
    proxy = Proxy(tmp_path, way, LANGFUSE_HOST=langfuse.url, SPOOL_PATH=str(path))
    with contextlib.closing(proxy):
        proxy.wait_until_up()
        for key in ["sk-own"] * 6 + ["sk-team"] * 4:
            assert proxy.ask(key)["choices"][0]["message"]["content"] == "hello"
        proxy.terminate()
    assert langfuse.accepted == 0
    langfuse.behave(None)
    credentials = credentials_file(tmp_path / "credentials")
    assert drain(path, langfuse.url, SPOOL_CREDENTIALS_FILE=credentials) == 20, proxy.log()
    assert langfuse.names() == {"litellm_request": 10, "raw_gen_ai_request": 10}
    assert len(langfuse.span_ids()) == 20
    assert spans_by_key(langfuse) == {OWN_KEY: 12, TEAM_KEY: 8}


def spans_by_key(langfuse: StandIn) -> Counter[str]:
    """Count the accepted spans by the Authorization header that they came with."""
    count: Counter[str] = Counter()
    for request in langfuse.requests:
        if request.status == 200:
            count[request.headers["authorization"]] += len(list(spans_of(parse(request))))
    return count
