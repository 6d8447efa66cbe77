"""What a user has: a program's environment, an exporter, and the commands."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from click.testing import CliRunner, Result

from spool import SpoolSpanExporter
from spool.commands.main import commands

SHORT_WAITS: Final = {"SPOOL_BACKOFF_SECONDS": "0.01..0.05", "SPOOL_TIMEOUT_SECONDS": "2"}


def environment_of(path: Path, host: str, owner: str = "test", **more: str) -> dict[str, str]:
    """Name spool, host and keys, as a user would."""
    return {
        "SPOOL_PATH": str(path),
        "LANGFUSE_PUBLIC_KEY": f"pk-lf-{owner}",
        "LANGFUSE_SECRET_KEY": f"sk-lf-{owner}",
        "LANGFUSE_HOST": host,
        **more,
    }


def spool(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a command; it never shows a traceback and exits with `code`."""
    done = subprocess.run(
        [sys.executable, "-m", "spool", *arguments], capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == code, (done.stdout, done.stderr)
    return done


def invoke(*arguments: str, code: int = 0, answer: str | None = None) -> Result:
    """Run a command as `spool` does, but within this process."""
    done = CliRunner().invoke(commands, arguments, input=answer, prog_name="spool")
    assert done.exit_code == code, (done.output, done.exception)
    return done


def status() -> dict[str, Any]:
    """Give what `status` says, whatever it minds."""
    command = [sys.executable, "-m", "spool", "status", "--json"]
    said = subprocess.run(command, stdout=subprocess.PIPE, check=False).stdout
    found: dict[str, Any] = json.loads(said)
    return found


@contextlib.contextmanager
def shut_down(exporter: SpoolSpanExporter) -> Iterator[SpoolSpanExporter]:
    try:
        yield exporter
    finally:
        exporter.shutdown()
