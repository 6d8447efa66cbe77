"""Programs with an exporter, each with either span processor, and how they are run."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from waits import wait_until

Program = subprocess.Popen[str]


def run(code: str, *options: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, and give what it said."""
    return run_python(*options, "-c", code, **more)


def run_python(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run Python to its end, which is a good one, and give what it said."""
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, **more},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done


@contextlib.contextmanager
def talking(*command: str | Path, **more: str) -> Iterator[Program]:
    """Run a program that is told what to do by lines, until there are no more; it may be killed."""
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, env={**os.environ, **more}, stdin=pipe, stdout=pipe, text=True
    ) as program:
        try:
            yield program
            program.communicate(timeout=120)
        finally:
            program.kill()


def line_of(program: Program) -> str:
    """Wait for what it says next."""
    assert program.stdout is not None
    return program.stdout.readline().removesuffix("\n")


def tell(program: Program, line: str) -> str:
    """Tell it a line; give what it says to that."""
    assert program.stdin is not None
    program.stdin.write(f"{line}\n")
    program.stdin.flush()
    return line_of(program)


@contextlib.contextmanager
def serving_app(
    command: Sequence[str], directory: Path, is_up: Callable[[], bool], **more: str
) -> Iterator[None]:
    """Run a server there, and end it as SIGTERM does; then its log has no traceback."""

    def is_served() -> bool:
        assert process.poll() is None, "the server has ended"
        return is_up()

    with (directory / "log").open("wb") as log, subprocess.Popen(
        command, cwd=directory, env={**os.environ, **more}, stdout=log, stderr=log
    ) as process:  # fmt: skip
        try:
            wait_until(is_served, every=0.1)
            yield
            process.send_signal(signal.SIGTERM)
            process.wait(300)  # it may send much, on a machine that is busy
        finally:
            process.kill()
    assert "Traceback" not in (directory / "log").read_text()


BATCH = """
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
from spool import SpoolSpanExporter
provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(SpoolSpanExporter()))
tracer = provider.get_tracer("x")
"""


SIMPLE = BATCH.replace("(BatchSpanProcessor(", "(SimpleSpanProcessor(")
