"""A terminal: a command that a person runs, and what he answers."""

from __future__ import annotations

import os
import pty
import sys


def on_terminal(*arguments: str, answer: str = "", code: int = 0) -> str:
    """Run a command on a terminal of its own, type the answer, and give what was shown."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-m", "spool", *arguments])
    os.write(terminal, answer.encode())
    shown = b""
    try:
        while chunk := os.read(terminal, 4096):
            shown += chunk
    except OSError:  # the terminal's other side was closed
        pass
    os.close(terminal)
    said = shown.decode()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == code, said
    return said
