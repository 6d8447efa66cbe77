"""Programs with an exporter, each with either span processor, and how they are run."""

from __future__ import annotations

import os
import subprocess
import sys


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


BATCH = """
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
from spool import SpoolSpanExporter
provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(SpoolSpanExporter()))
tracer = provider.get_tracer("x")
"""


SIMPLE = BATCH.replace("(BatchSpanProcessor(", "(SimpleSpanProcessor(")
