from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

# The fork begins in the middle of an import, which ends as soon as the fork has begun.
PROGRAM = """
import os, threading
from spool.system import importing

importing.PATIENTLY = 60.0
is_half, has_fork_begun = threading.Event(), threading.Event()

def take():
    with importing.importing():
        import slow
        assert slow.IS_WHOLE

os.register_at_fork(before=has_fork_begun.set)  # the last one comes first
thread = threading.Thread(target=take)
thread.start()
is_half.wait()
pid = os.fork()
if pid == 0:
    child = threading.Thread(target=lambda: (take(), os._exit(0)), daemon=True)
    child.start()
    child.join(30)
    os._exit(1)
thread.join()
assert os.waitpid(pid, 0)[1] == 0, "the child has half a module"
"""

SLOW = """
import __main__
__main__.is_half.set()
__main__.has_fork_begun.wait()
IS_WHOLE = True
"""


def forked(directory: Path, program: str) -> str:
    """Run a program that finds the modules of a directory, too; give what it says of errors."""
    paths = os.pathsep.join([str(directory), *filter(None, sys.path)])
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        env={**os.environ, "PYTHONPATH": paths},
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
        check=False,
    )
    return ran.stderr


def test_a_child_of_a_fork_beside_an_import_has_whole_modules(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    assert forked(tmp_path, PROGRAM) == ""


# As from a cold disk: longer than a fork waits for anything else.
LONG = """
import __main__, time
__main__.is_half.set()
time.sleep(1.0)
IS_WHOLE = True
"""


def test_a_fork_waits_for_an_import_from_a_slow_disk(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(LONG)
    assert forked(tmp_path, PROGRAM.replace("importing.PATIENTLY = 60.0\n", "")) == ""
