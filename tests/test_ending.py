"""Programs of every length: what they ended is delivered before they end, or said to be kept.

Each is a real process, and the receiver a real one on loopback.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

import spool
from standin import StandIn

HERE = Path(__file__).parent


@pytest.fixture
def environment(path: Path, langfuse: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """Name spool and stand-in as a user would."""
    monkeypatch.setenv("SPOOL_PATH", str(path))
    monkeypatch.setenv("LANGFUSE_PUBLIC_KEY", "pk-lf-test")
    monkeypatch.setenv("LANGFUSE_SECRET_KEY", "sk-lf-test")
    monkeypatch.setenv("LANGFUSE_HOST", langfuse.url)


def run(code: str, *options: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, and give what it said."""
    done = subprocess.run(
        [sys.executable, *options, "-c", code],
        env={**os.environ, **more},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done


@pytest.fixture
def zipped(tmp_path: Path) -> str:
    """Give a beginning that imports the package out of a zip, without any metadata of it."""
    archive, site = tmp_path / "app.zip", tmp_path / "site"
    source = Path(spool.__file__).parent
    with zipfile.ZipFile(archive, "w") as written:
        for module in source.glob("*.py"):
            written.write(module, f"spool/{module.name}")
    site.mkdir()
    for installed in Path(sysconfig.get_path("purelib")).iterdir():
        if not installed.name.startswith(("langfuse_spool", "__editable__")):
            (site / installed.name).symlink_to(installed)
    return f"import sys; sys.path[:0] = [{str(archive)!r}, {str(site)!r}]\n"


def test_a_program_in_a_zip_without_metadata_delivers(
    environment: None, langfuse: StandIn, zipped: str
) -> None:
    code = """
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
import spool
assert ".zip" in spool.__file__
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(spool.SpoolSpanExporter()))
provider.get_tracer("x").start_span("zipped").end()
"""
    run(zipped + code, "-I", "-S")
    assert langfuse.names() == {"zipped": 1}
