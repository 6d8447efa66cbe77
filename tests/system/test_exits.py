from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from standin import StandIn


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_process_of_multiprocessing_delivers_before_it_ends(
    environment: None, path: Path, langfuse: StandIn, tmp_path: Path, method: str
) -> None:
    program = tmp_path / "program.py"
    program.write_text(f"""
import multiprocessing
def work():
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from spool import SpoolSpanExporter
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(SpoolSpanExporter()))
    provider.get_tracer("x").start_span("a").end()
if __name__ == "__main__":
    child = multiprocessing.get_context({method!r}).Process(target=work)
    child.start()
    child.join()
    assert child.exitcode == 0
""")
    subprocess.run([sys.executable, program], check=True, timeout=120)
    assert langfuse.names() == {"a": 1}
