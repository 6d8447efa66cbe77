"""Programs with an exporter, each with either span processor, and how they are run."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

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


BATCH = """
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
from spool import SpoolSpanExporter
provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(SpoolSpanExporter()))
tracer = provider.get_tracer("x")
"""


SIMPLE = BATCH.replace("(BatchSpanProcessor(", "(SimpleSpanProcessor(")
