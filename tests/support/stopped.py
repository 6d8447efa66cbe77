"""A process that is stopped while it has the mutex of a spool."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def stopped_holder_of_the_mutex(path: Path) -> Iterator[None]:
    code = (
        "import sys, time; from pathlib import Path; from spool.store.store import Store\n"
        f"with Store(Path({str(path)!r})).database.writing():\n"
        "    print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as peer:
        assert peer.stdout is not None
        peer.stdout.readline()
        os.kill(peer.pid, signal.SIGSTOP)
        yield
        peer.kill()
