from __future__ import annotations

import time
from pathlib import Path

from spans import batch
from spool.delivery.drainer import TICK, Drainer
from spool.journal.overflow import Overflow
from spool.settings.settings import Settings
from spool.settings.target import Target
from spool.store.store import Store
from standin import StandIn


def test_what_is_held_in_memory_goes_out_while_the_turn_is_waited_for(
    store: Store, settings: Settings, target: Target, path: Path, langfuse: StandIn
) -> None:
    store.append(target, batch("row"), 1.0)
    overflow, other = Overflow(), Store(path)
    drainer = Drainer(store, settings, overflow)
    drainer.routes.add(target)
    with other.drain_lock.take(60):
        drainer.start()
        time.sleep(3 * TICK)
        overflow.has_moved = False
        overflow.add(target, batch("held"), 1.0)
        langfuse.wait_for(lambda server: "held" in server.names())
    drainer.stop(10)
    other.close()
