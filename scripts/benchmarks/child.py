"""One measurement in a process of its own: `python -m benchmarks.child MODULE:FUNCTION JSON`.

The function's result is printed as JSON. A peer that is not installed is a result too.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

_CLEAN = ("OTEL_", "SPOOL_", "LANGFUSE_", "LOGFIRE_")


class MissingError(Exception):
    """A peer is not installed."""


def environment() -> dict[str, str]:
    """Give what a child runs in: nothing of the person's own settings."""
    scripts = str(Path(__file__).resolve().parent.parent)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_CLEAN)}
    path = os.pathsep.join(filter(None, [scripts, kept.get("PYTHONPATH")]))
    return {**kept, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}


class Child:
    """A measurement that runs; `result` waits for it."""

    def __init__(self, function: str, **arguments: Any) -> None:
        self._name = f"{function} {arguments}"
        command = [sys.executable, "-m", "benchmarks.child", function, json.dumps(arguments)]
        self.process = subprocess.Popen(
            command,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def result(self) -> Any:
        """Give what the function returned. Raises MissingError, RuntimeError."""
        out, _ = self.process.communicate()
        if self.process.returncode:
            raise RuntimeError(f"{self._name} failed")
        result = json.loads(out.splitlines()[-1])
        if isinstance(result, dict) and "missing" in result:
            raise MissingError(result["missing"])
        return result


def start_together(children: list[Child]) -> None:
    """Let functions that call `ready` go on, once all of them are there."""
    for child in children:
        assert child.process.stdout is not None
        child.process.stdout.readline()
    for child in children:
        assert child.process.stdin is not None
        child.process.stdin.write("go\n")
        child.process.stdin.flush()


def results(children: list[Child]) -> list[Any]:
    """Wait for all of them; where one fails, none is left behind."""
    try:
        return [child.result() for child in children]
    finally:
        for child in children:
            child.process.kill()
            child.process.communicate()


def ready() -> None:
    """Wait, in the child, for the others."""
    print("ready", flush=True)
    sys.stdin.readline()


def run(function: str, **arguments: Any) -> Any:
    """Measure in a fresh process. Raises as `Child.result`."""
    return Child(function, **arguments).result()


def _main() -> None:
    module, _, function = sys.argv[1].partition(":")
    try:
        measure = getattr(importlib.import_module(f"benchmarks.{module}"), function)
        result = measure(**json.loads(sys.argv[2]))
    except ModuleNotFoundError as error:
        result = {"missing": str(error)}
    print(json.dumps(result))


if __name__ == "__main__":
    _main()
