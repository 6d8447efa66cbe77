"""The commands of the pages for those who work on it, each run as it stands in a copy of the clone.

There every environment is this one, for this Python alone; pytest only collects, what would take
minutes is cut short once it says what it does, and mypy, which `scripts/test` has just run, rests.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Final

import pytest

from pages import CONTRIBUTING, README, ROOT, SCRIPTS, TESTS, block, blocks, quoted

pytestmark = pytest.mark.once

# What a command says when it does what it should, by how it begins.
SAID: Final = {
    "scripts/test": "== passed: Python 3.11",
    ".venv-3.11/bin/python -m pytest": " tests collected",
    ".venv-3.11/bin/ruff": "already formatted",
    ".venv-3.11/bin/mypy": "Contracts: ",
    "scripts/matrix": "| Python | OpenTelemetry |",
    "scripts/chaos": "seed ",
    "scripts/sabotage": "| no span is fsynced with SPOOL_SYNC_SECONDS=0 |",
    "scripts/bench": " ...",
}


def commands() -> list[str]:
    """Give what they tell to run, in blocks and between backquotes; test_readme has the rest."""
    pages = [TESTS, SCRIPTS, CONTRIBUTING]
    found = [line for page in pages for one in blocks(page) for line in one.text.splitlines()]
    found += block("", "sh").splitlines()
    found += [said for page in (README, *pages) for said in quoted(page.read_text())]
    whole = {re.split(r" +#", " ".join(said.split()))[0] for said in found}
    return sorted(said for said in whole if said.startswith(tuple(SAID)) and is_command(said))


def is_command(said: str) -> bool:
    return not said.startswith("scripts/") or os.access(ROOT / said.split(maxsplit=1)[0], os.X_OK)


@pytest.mark.parametrize("command", commands())
def test_a_command_does_what_its_page_says(command: str, clone: Path, tmp_path: Path) -> None:
    (words,) = [words for begins, words in SAID.items() if command.startswith(begins)][:1]
    environment = {
        **os.environ,
        "PATH": f"{clone}/.venv-3.11/bin{os.pathsep}{os.environ['PATH']}",
        "PYTEST_ADDOPTS": "--collect-only -q",
        "PYTHONUNBUFFERED": "1",
        "TMPDIR": str(tmp_path),
    }
    said = ""
    with subprocess.Popen(
        ["bash", "-c", command],
        cwd=clone,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            said += line
            if words in line:
                break
        os.killpg(process.pid, signal.SIGKILL)
    assert words in said, said
