"""Programs that are forked from a process that has imported what takes long to import.

Each is a file that is run as a script, with arguments and an environment of its own. What it finds
imported is all that it shares with others: so a program is run so unless it is about how it starts.

As a script, with the names of modules, this file is the process that the programs are forked from.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import runpy
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path


def run_forked(
    module: str, arguments: Sequence[str], environment: Mapping[str, str]
) -> tuple[int, str]:
    """Run a script to its end where a module is imported; give its code, and all it printed."""
    process = _preloaded(module)
    assert process.stdin is not None
    assert process.stdout is not None
    with tempfile.NamedTemporaryFile("w+") as output:
        order = list(arguments), dict(environment), str(Path.cwd()), output.name
        process.stdin.write(json.dumps(order) + "\n")
        process.stdin.flush()
        return int(process.stdout.readline()), Path(output.name).read_text()


@functools.cache
def _preloaded(module: str) -> subprocess.Popen[str]:
    """Start the process that others are forked from; it ends with the tests."""
    pipe = subprocess.PIPE
    # pytest is imported by what tests and their programs share.
    command = [sys.executable, __file__, module, "pytest"]
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)


def _fork_programs(modules: Sequence[str]) -> None:
    """Fork a process for each order that is read, and print its exit code."""
    before = dict(os.environ)
    for name in modules:
        importlib.import_module(name)
    # LiteLLM says there where its tokenizers lie: else it asks the internet for them.
    set_by_modules = dict(os.environ.items() - before.items())
    assert threading.active_count() == 1, "no other thread would cross a fork"
    for line in sys.stdin:
        arguments, environment, directory, output = json.loads(line)
        pid = os.fork()
        if pid == 0:
            os.environ.clear()
            os.environ.update(set_by_modules | environment)
            os.chdir(directory)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            for fd in (1, 2):
                os.dup2(os.open(output, os.O_WRONLY | os.O_APPEND), fd)
            sys.argv = arguments
            runpy.run_path(arguments[0], run_name="__main__")
            return  # and ends as any program does
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    _fork_programs(sys.argv[1:])
