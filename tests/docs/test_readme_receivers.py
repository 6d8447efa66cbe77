"""The README's lines for other receivers: the quick start's program, sent to the real ones."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pages import README, block, blocks, run
from real_receivers import Receiver

# What runs does not depend on the Python; a small machine needs its time to start it.
pytestmark = [pytest.mark.trust, pytest.mark.timeout(900)]

LINES = {
    "phoenix": ("# Phoenix", "http://localhost:6006"),
    "mlflow": ("# or MLflow", "http://localhost:5000"),
}


@pytest.mark.parametrize("name", list(LINES))
def test_the_quick_starts_span_goes_where_the_line_says(
    receivers: Callable[[str], Receiver], name: str, tmp_path: Path, path: Path
) -> None:
    comment, written = LINES[name]
    (lines,) = [one.text for one in blocks(README) if "OTEL_EXPORTER_OTLP_ENDPOINT" in one.text]
    (line,) = [one for one in lines.splitlines() if one.endswith(comment)]
    assert written in line
    real = receivers(name)
    (tmp_path / "hello.py").write_text(block("Quick start", "python"))
    hello = f"{sys.executable} {tmp_path / 'hello.py'}"
    run("bash", "-ec", f"{line.replace(written, real.url)}\n{hello}", SPOOL_PATH=str(path))
    real.wait_for(["hello"])
