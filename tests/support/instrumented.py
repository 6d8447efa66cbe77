"""Programs and servers under `opentelemetry-instrument`, which a distro turns on."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from http.client import HTTPConnection
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import pytest

import ports
from programs import serving_app
from waits import PATIENCE

BIN: Final = Path(sys.executable).parent
ZERO_CODE: Final = {
    "OTEL_TRACES_EXPORTER": "spool",
    "OTEL_METRICS_EXPORTER": "none",
    "OTEL_LOGS_EXPORTER": "none",
    # What is installed for other tests would import what it instruments, which takes seconds.
    "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "*",
}
PROGRAM: Final = """
from opentelemetry import trace
trace.get_tracer("app").start_span("ended").end()
print("went on")
"""
KILLED: Final = f"{PROGRAM}\nimport os; os.kill(os.getpid(), 9)"
# It ends a span before a preloading server forks, and says which process has answered.
_SERVED: Final = """
import os
from opentelemetry import trace

trace.get_tracer("app").start_span("loaded").end()

def application(environ, start_response):
    with trace.get_tracer("app").start_as_current_span(environ["PATH_INFO"]):
        start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
"""


def is_here(module: str) -> bool:
    """Say whether a module is installed, whatever package it may be in."""
    with contextlib.suppress(ModuleNotFoundError):  # of a package above it
        return find_spec(module) is not None
    return False


needs_distro = pytest.mark.skipif(
    not is_here("opentelemetry.distro"), reason="opentelemetry-distro is not installed here"
)

needs_configuration = pytest.mark.skipif(
    not is_here("opentelemetry.configuration"),
    reason="opentelemetry-configuration is not installed here",
)


def instrument(code: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a program without a line of ours in it, to its end."""
    return subprocess.run(
        [BIN / "opentelemetry-instrument", sys.executable, "-c", code],
        env={**os.environ, **more},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


@contextlib.contextmanager
def gunicorn(directory: Path, *options: str, **more: str) -> Iterator[HTTPConnection]:
    """Serve with two workers; end as SIGTERM does, after which its log has no traceback."""
    (directory / "app.py").write_text(_SERVED)
    port = ports.free_port()
    command = [str(BIN / "opentelemetry-instrument"), str(BIN / "gunicorn"), *options]
    command += ["--workers=2", f"--bind={ports.HOST}:{port}", "app:application"]
    connection = HTTPConnection(ports.HOST, port, timeout=PATIENCE)
    with serving_app(command, directory, lambda: is_served(connection), **more):
        yield connection


def is_served(connection: HTTPConnection) -> bool:
    with contextlib.suppress(ConnectionError):
        connection.connect()
        return True
    return False


def ask(connection: HTTPConnection, path: str) -> int:
    """Ask for a path, on a connection of its own; give the process that has answered."""
    connection.close()
    connection.request("GET", path)
    return int(connection.getresponse().read())
