from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

# The fork begins in the middle of an import, which ends as soon as the fork has begun.
PROGRAM = """
import os, threading
from spool.system import importing

importing.BRIEFLY = 60.0
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


def test_a_child_of_a_fork_beside_an_import_has_whole_modules(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    paths = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM],
        env={**os.environ, "PYTHONPATH": paths},
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.stderr == ""
