from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import uplink
from trials import Trial

pytestmark = [
    pytest.mark.trust,
    pytest.mark.skipif(
        not (sys.platform == "linux" and os.geteuid() == 0),
        reason="a network namespace needs Linux and root",
    ),
]


def spool_behind(line: str, directory: Path, tool: str) -> Any:
    for needed in ("ip", "unshare", tool):
        if shutil.which(needed) is None:
            pytest.skip(f"{needed} is not here (Debian: iproute2, util-linux, nftables)")
    command = ["unshare", "--net", sys.executable, uplink.__file__, str(directory), line]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(("line", "tool"), [("thin", "tc"), ("lossy", "nft")])
def test_all_spans_come_through_a_bad_line_and_requests_grow_when_it_is_good_again(
    line: str, tool: str, path: Path, report: Callable[[Trial], None]
) -> None:
    path.parent.mkdir()
    said = spool_behind(line, path.parent, tool)
    print(said)
    ended = 2 * uplink.SPANS
    assert said["ledger"] == {"pending": 0, "dead": 0}
    bad, good = ([size for size, _ in said[when]] for when in ("bad", "good"))
    if line == "thin":
        assert len(bad) > 3  # no request of all of it got through
        assert max(good) > 2 * max(bad)
    # A request that was given up is not delivered behind our back.
    assert said["duplicates"] <= uplink.SPANS
    lost = ended - said["arrived"]
    report(Trial(f"a {line} line", 2, ended, ended, 0, 0, lost, said["duplicates"]))
