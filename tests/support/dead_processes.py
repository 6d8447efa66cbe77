"""Processes that have ended spans and were killed: what others find in their journals.

`python dead_processes.py SPOOL NAME...` is such a process.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from spans import batch
from spool.journal import directory
from spool.settings.target import Target
from spool.store.store import Store
from targets import MINE


def accept(store: Store, *names: str, target: Target = MINE, size: int = 0) -> None:
    """Take in a batch for each name, a second after the one before."""
    for number, name in enumerate(names):
        store.accept(target, batch(name, size=size), float(number))


def die(path: Path, *names: str) -> None:
    """Let a process end spans and be killed."""
    done = subprocess.run([sys.executable, __file__, str(path), *names], check=False)
    assert done.returncode == -signal.SIGKILL


def leave_many(path: Path, count: int) -> None:
    """Let so many processes die, each with one span in its journal."""
    die(path, "left")
    (left,) = directory.paths(path)
    for number in range(count - 1):
        shutil.copyfile(left, path.with_name(f"{path.name}.inbox-{number + 1}-{number:012x}"))


if __name__ == "__main__":
    store = Store(Path(sys.argv[1]))
    store.open()
    accept(store, *sys.argv[2:])
    os.kill(os.getpid(), signal.SIGKILL)
