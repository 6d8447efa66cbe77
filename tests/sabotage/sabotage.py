"""Breaks one promise after another on purpose, and shows which test finds it out.

`scripts/sabotage`: each time the package is copied, one place of the copy is changed, and the tests
that keep that promise must fail. Prints a table; exits with 1 if one did not fail. An argument is a
part of the names of those to try.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from sabotages import SABOTAGES, TESTS, Sabotage


def failed_tests(sabotage: Sabotage, *arguments: str) -> list[str]:
    """Run the tests that must find it out; give the names of those that fail."""
    with tempfile.TemporaryDirectory(prefix="sabotage-") as directory:
        source = Path(directory) / "src"
        sabotage.commit(source)
        tests = [str(TESTS / name) for name in sabotage.tests.split()]
        ran = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider",
             *arguments, *tests],
            env={**os.environ, "PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert ran.returncode in (0, 1), ran.stdout + ran.stderr
    return re.findall(r"^(?:FAILED|ERROR) \S+::(\w+)", ran.stdout, re.MULTILINE)


def main(part: str = "") -> int:
    """Commit every sabotage with that in its name, in turn; print the table."""
    survived, chosen = 0, [one for one in SABOTAGES if part in one.name]
    print("| broken on purpose | found out by |\n|---|---|")
    for sabotage in chosen:
        failed = failed_tests(sabotage)
        survived += not failed
        print(f"| {sabotage.name} | {failed[0] if failed else 'NOBODY'} |", flush=True)
    print(f"\n{len(chosen)} promises broken, {survived} not found out")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
