"""What LiteLLM's keys and teams with Langfuse projects of their own cost: ours and stock.

    .venv-3.11/bin/python scripts/benchmarks/tenants.py --tenants 200

Each case is a process of its own, with real LiteLLM: a call with no key to warm up, then one call a
tenant, each with its own keys. Told are the threads, descriptors and memory (RSS) that the tenants
added, once all their spans have arrived, and how many did. In the environment of `scripts/test`
that has the newest LiteLLM, it prints Markdown.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from standin import StandIn

CASES: Final = {
    "v1, ours": {},
    "v1, stock": {"STOCK": "yes"},
    "v2, ours": {"LITELLM_OTEL_V2": "true", "OTEL_EXPORTER": "in_memory"},
    "v2, stock": {"LITELLM_OTEL_V2": "true", "OTEL_EXPORTER": "in_memory", "STOCK": "yes"},
}
SUPPORT: Final = Path(__file__).resolve().parents[2] / "tests" / "support"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tenants", type=int, default=200)
    parser.add_argument("--only", nargs="+", choices=list(CASES), default=list(CASES))
    options = parser.parse_args()
    print(
        "| LiteLLM | threads | descriptors | memory | spans that arrived |\n|---|---|---|---|---|"
    )
    for case in options.only:
        found = measure(options.tenants, CASES[case])
        print(
            f"| {case} | +{found['threads']} | +{found['descriptors']} | "
            f"+{found['kib'] / 1024:.0f} MiB | {found['arrived']} of {found['of']} |",
            flush=True,
        )


def measure(tenants: int, case: Mapping[str, str]) -> dict[str, Any]:
    """Run a case against a stand-in that takes the keys of all tenants."""
    sys.path.insert(0, str(SUPPORT))
    keys = {"pk-lf-test": "sk-lf-test", **{f"pk-lf-{n}": f"sk-lf-{n}" for n in range(tenants)}}
    standin = importlib.import_module("standin")
    with standin.StandIn(keys) as langfuse, tempfile.TemporaryDirectory() as directory:
        environment = {
            **os.environ,
            "LANGFUSE_HOST": langfuse.url,
            "LANGFUSE_PUBLIC_KEY": "pk-lf-test",
            "LANGFUSE_SECRET_KEY": "sk-lf-test",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "SPOOL_PATH": directory,
            **case,
        }
        return _told(tenants, environment, langfuse)


def _told(tenants: int, environment: dict[str, str], langfuse: StandIn) -> dict[str, Any]:
    """Ask the process for its sizes: before the tenants, and when what they made has arrived."""
    process = subprocess.Popen(
        [sys.executable, "-c", "from benchmarks.tenants import call; call()"],
        env={**environment, "PYTHONPATH": str(Path(__file__).resolve().parents[1])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    sizes, spans = [], []
    for calls in (0, tenants):
        process.stdin.write(f"{calls}\n")
        process.stdin.flush()
        process.stdout.readline()
        _wait_until_no_more_arrive(langfuse)
        spans.append(langfuse.accepted)
        process.stdin.write("\n")
        process.stdin.flush()
        sizes.append(json.loads(process.stdout.readline()))
    process.kill()
    process.communicate()
    added = {name: sizes[1][name] - sizes[0][name] for name in sizes[0]}
    return {**added, "arrived": spans[1] - spans[0], "of": tenants * spans[0]}


def _wait_until_no_more_arrive(langfuse: StandIn) -> None:
    before = -1
    while before != langfuse.accepted:
        before = langfuse.accepted
        time.sleep(8)  # the stock processors send every 5 s


def call() -> None:
    """Make the calls that are asked for, and tell this process's sizes: the measured process."""
    import litellm  # noqa: PLC0415 - only this process has it

    if "STOCK" not in os.environ:
        importlib.import_module("spool.litellm").install()
    litellm.callbacks = ["langfuse_otel"]
    loop = asyncio.new_event_loop()
    for line in iter(sys.stdin.readline, ""):
        if not line.strip():
            print(json.dumps(_sizes()), flush=True)
            continue
        loop.run_until_complete(_calls(int(line)))
        print("made", flush=True)


async def _calls(tenants: int) -> None:
    litellm = importlib.import_module("litellm")
    question: Any = {"messages": [{"role": "user", "content": "hi"}], "mock_response": "hello"}
    for number in range(tenants):
        keys = {"langfuse_public_key": f"pk-lf-{number}", "langfuse_secret_key": f"sk-lf-{number}"}
        await litellm.acompletion("gpt-4o", **question, **keys)
    if not tenants:
        await litellm.acompletion("gpt-4o", **question)
    await asyncio.sleep(2)  # LiteLLM logs after the call


def _sizes() -> dict[str, int]:
    status = Path("/proc/self/status").read_text()
    kib = next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))
    return {
        "threads": threading.active_count(),
        "descriptors": len(os.listdir("/proc/self/fd")),  # noqa: PTH208 - as many as there are
        "kib": int(kib),
    }


if __name__ == "__main__":
    main()
