"""A real LiteLLM proxy, as a user starts one: workers, models whose answers are mocks, keys."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Final

import pytest

from litellm_scenarios import KEYS
from ports import HOST, free_port

# What the command `litellm` does. But uvicorn kills a worker that does not answer for 5 s, as one
# that imports on a busy machine: there none would ever start. It may wait as long for the answer of
# one that was killed, before it starts another.
PATIENT_PROXY: Final = """
import sys, uvicorn
uvicorn.run.__kwdefaults__["timeout_worker_healthcheck"] = 60
from litellm import run_server
sys.exit(run_server())
"""

needs_proxy: Final = pytest.mark.skipif(
    not Path(sys.executable).with_name("litellm").exists()
    or not all(importlib.util.find_spec(name) for name in ("fastapi", "uvicorn", "apscheduler")),
    reason="litellm[proxy] is not installed; pip install 'litellm[proxy]'",
)

CONFIG: Final = """
model_list:
  - model_name: mock
    litellm_params: {model: openai/gpt-4o, api_key: none, mock_response: hello}
  - model_name: broken
    litellm_params:
      {model: openai/gpt-4o, api_key: none, mock_response: litellm.InternalServerError}
router_settings: {num_retries: 0, disable_cooldowns: true}
general_settings:
  custom_auth: our_auth.check
"""
MASTER_KEY: Final = "sk-a-master-key-for-tests-only"
SHIM: Final = "from spool.litellm import handler\n"
# What a proxy with a database does for a virtual key that has `logging` settings. Each worker
# imports it before its first request.
AUTH: Final = """
import span_witness
from litellm.proxy._types import LitellmUserRoles, UserAPIKeyAuth

span_witness.install()

LOGGING = {"callback_name": "langfuse_otel", "callback_type": "success_and_failure",
    "callback_vars": {"langfuse_public_key": "pk-lf-team", "langfuse_secret_key": "sk-lf-team"}}


async def check(request, api_key):
    logging = [LOGGING] if api_key == "sk-team" else []
    role = LitellmUserRoles.PROXY_ADMIN
    return UserAPIKeyAuth(api_key=api_key, user_role=role, metadata={"logging": logging})
"""


class Proxy:
    """A LiteLLM proxy; `settings` are YAML, as they stand in its config.yaml.

    Each of several workers imports LiteLLM for seconds, and so does the process that has them.
    """

    def __init__(self, directory: Path, settings: str, workers: int, **environment: str) -> None:
        self.workers = workers
        directory.mkdir(exist_ok=True)
        (directory / "config.yaml").write_text(CONFIG + settings)
        (directory / "spooled.py").write_text(SHIM)
        (directory / "our_auth.py").write_text(AUTH)
        self._log = directory / "log"
        self._port = free_port()
        with self._log.open("a") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-c", PATIENT_PROXY),
                    *("--config", directory / "config.yaml"),
                    *("--host", HOST, "--port", str(self._port)),
                    *("--num_workers", str(self.workers)),
                ],
                env={
                    **os.environ,
                    **KEYS,
                    "HOME": str(directory),
                    "LITELLM_MASTER_KEY": MASTER_KEY,
                    **environment,
                },
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_until_up(self, *, is_anew: bool = False) -> None:
        """Wait until all workers have started, or those that come after them.

        Each says so when it is ready; before, a request could meet only the other.
        """
        started = self.workers * (2 if is_anew else 1)
        deadline = time.monotonic() + 240
        while self.log().count("Application startup complete") < started:
            assert self._process.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.2)

    def ask(self, key: str, model: str = "mock", is_streamed: bool = False) -> tuple[int, str]:
        """Give the status and the text of an answer."""
        message = {"role": "user", "content": "hello"}
        body = {"model": model, "messages": [message], "stream": is_streamed}
        status, answer = self._request("/v1/chat/completions", key, json.dumps(body).encode())
        if status != 200:
            return status, answer
        if not is_streamed:
            return status, json.loads(answer)["choices"][0]["message"]["content"]
        chunks = [json.loads(data) for data in re.findall(r"^data: (\{.*)$", answer, re.MULTILINE)]
        deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
        return status, "".join(delta.get("content") or "" for delta in deltas)

    def get(self, path: str) -> tuple[int, Any]:
        """Give the status and the JSON of an answer to the owner of the proxy."""
        status, answer = self._request(path, MASTER_KEY)
        return status, json.loads(answer)

    def _request(self, path: str, key: str, body: bytes | None = None) -> tuple[int, str]:
        headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
        request = urllib.request.Request(f"http://{HOST}:{self._port}{path}", body, headers)
        try:
            with urllib.request.urlopen(request, timeout=120) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def terminate(self) -> None:
        """End it as `systemctl stop` does."""
        self._process.terminate()
        self._process.wait(120)

    def kill_workers(self) -> None:
        """Kill -9 each worker; the proxy starts others."""
        for pid in re.findall(r"Started server process \[(\d+)\]", self.log())[-self.workers :]:
            os.kill(int(pid), signal.SIGKILL)

    def close(self) -> None:
        """Kill -9 what is left, the workers with it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(60)

    def log(self) -> str:
        return self._log.read_text()
