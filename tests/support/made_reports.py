"""Reports of a spool that is not there: routes by what their rows say."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from spool.delivery.route_state import RouteState
from spool.report.report import Report
from spool.store.drainers import SeenDrainer
from spool.store.records import Ledger, Route, Trouble

NOW: Final = 1_700_000_000.0
WELL: Final = Route(
    id=1, name="pk-lf-a", endpoint="https://langfuse.example", public_key="pk-lf-a",
    pending_spans=0, pending_batches=0, pending_bytes=0, attempts=0, waited_at=0, wait_seconds=0,
    fingerprints=(), held_at=0, suspect_to=0, probes=0,
    last_error="", last_success_at=NOW, oldest_at=None,
)  # fmt: skip


def report(
    *routes: Route,
    trouble: Trouble | None = None,
    state: RouteState = RouteState.OK,
    missing: str = "",
) -> Report:
    return Report(
        path=Path("spool.db"), file_bytes=0, max_bytes=0, ledger=Ledger(),
        drainers=(SeenDrainer(pid=1),), pid=1,
        routes=routes, states=(state,) * len(routes),
        missing={route.name: missing for route in routes},
        trouble=trouble or Trouble(None, None, None), refused_by="", used_bytes=0,
        free_bytes=1 << 40, disk="ok", strangers=(), unreadable=(), now=NOW,
    )  # fmt: skip
