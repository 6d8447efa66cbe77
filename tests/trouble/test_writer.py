from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from standin import StandIn
from users import environment_of
from waits import wait_until
from writer import FINISHED, Nursery


@pytest.mark.timeout(120)
def test_a_nursery_stops_those_too_that_were_just_forked_and_have_not_said_so_yet(
    path: Path, tmp_path: Path
) -> None:
    with (
        StandIn() as langfuse,
        Nursery(tmp_path / "trails", environment_of(path, langfuse.url)) as nursery,
    ):
        childs = nursery.directory / "1.trail.0"
        os.mkfifo(childs)  # before it says so it opens its trail: that waits for a reader
        parent = nursery.start(children=1, pause=0.1)
        parents = nursery.directory / "1.trail"
        wait_until(lambda: parents.exists() and parents.read_text().count("begun") > 5)
        stopping = threading.Thread(target=nursery.stop)
        stopping.start()
        nursery.wait(parent)
        with childs.open("rb", buffering=0) as trail:
            stopping.join()
            os.set_blocking(trail.fileno(), False)
            assert FINISHED.encode() in (trail.read() or b"")
