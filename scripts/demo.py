"""The demo's story; `scripts/demo` makes the environment and runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "support"))

from standin import StandIn  # noqa: E402 - it lives with the tests

CALLS = 20
SPANS = 2 * CALLS  # LiteLLM makes two for each successful call
DONE = "every call is logged"
WAITS = "route pk-lf-test waits: "

APPLICATION = f"""
import time
import litellm, spool.litellm
litellm.suppress_debug_info = True
litellm.callbacks = [spool.litellm.handler]
for number in range({CALLS}):
    litellm.completion(
        model="gpt-4o-mini",
        messages=[{{"role": "user", "content": f"question {{number}}"}}],
        mock_response=f"answer {{number}}",
        metadata={{"generation_name": f"call {{number}}"}},
    )
from litellm.litellm_core_utils.thread_pool_executor import executor
executor.shutdown(wait=True)  # the calls are logged in LiteLLM's own threads
print("{DONE}", flush=True)
time.sleep(60)
"""


def main() -> int:
    """Tell the story; give the exit code."""
    with tempfile.TemporaryDirectory() as directory, StandIn() as langfuse:
        environment = {
            **os.environ,
            "SPOOL_PATH": f"{directory}/spool.db",
            "LANGFUSE_PUBLIC_KEY": "pk-lf-test",
            "LANGFUSE_SECRET_KEY": "sk-lf-test",
            "LANGFUSE_HOST": langfuse.url,
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_LOG": "ERROR",
        }
        langfuse.stop()
        say(f"Langfuse is down: {langfuse.url} refuses connections.")
        if not run_and_kill(environment):
            say("the application did not get as far as its last call, or the spool said nothing")
            return 1
        say(
            f"An application made {CALLS} LiteLLM calls, and LiteLLM logged them. "
            "Then it was killed with -9."
        )
        waiting = status(environment)["pending"]["spans"]
        say(f"On disk wait {waiting} of {SPANS} spans.")
        langfuse.start()
        say("Langfuse is up again. A new process runs `python -m spool drain`:")
        subprocess.run([sys.executable, "-m", "spool", "drain"], env=environment, check=False)
        arrived = len(langfuse.span_ids())
        say(f"At Langfuse arrived {arrived} of {SPANS} spans.")
        ledger = status(environment)["ledger"]
        say(f"The ledger: accepted {ledger['accepted']} = delivered {ledger['delivered']}.")
        is_well = waiting == arrived == ledger["accepted"] == ledger["delivered"] == SPANS
        say("Nothing was lost." if is_well else "SPANS ARE MISSING.")
        return 0 if is_well else 1


def run_and_kill(environment: dict[str, str]) -> bool:
    """Run the application until its last call is logged and the spool has said that Langfuse is
    down, and kill it; say whether it got there. What it says on standard error is passed on.
    """
    command = [sys.executable, "-c", APPLICATION]
    missing = {DONE, WAITS}
    pipe, same = subprocess.PIPE, subprocess.STDOUT
    with subprocess.Popen(command, env=environment, stdout=pipe, stderr=same, text=True) as process:
        for line in process.stdout or ():
            missing -= {words for words in missing if words in line}
            if line != f"{DONE}\n":
                print(line, end="", file=sys.stderr, flush=True)
            if not missing:
                break
        process.kill()
    return not missing


def status(environment: dict[str, str]) -> dict[str, dict[str, int]]:
    """Ask the spool."""
    command = [sys.executable, "-m", "spool", "status", "--json"]
    asked = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    said: dict[str, dict[str, int]] = json.loads(asked.stdout)
    return said


def say(text: str) -> None:
    """Print a line at once, so that it stands in order with the processes' own."""
    print(f"• {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
