"""A spool behind a thin line, told as JSON; to be run in a network namespace of its own.

`unshare --net python uplink.py DIRECTORY LINE`: the loopback of the namespace is the line.
`thin` is a real 64 kbit/s (tc's token bucket), `lossy` drops every tenth packet (nftables).
Afterwards the line is good again, and as many spans follow.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from spans import batch
from spool.delivery.drainer import Drainer
from spool.settings.settings import Settings
from spool.settings.target import Target
from spool.store.store import Store
from standin import StandIn

SPANS = 60
LINES = {
    "thin": (
        ["tc qdisc add dev lo root tbf rate 64kbit burst 3000 latency 300ms"],
        ["tc qdisc del dev lo root"],
    ),
    "lossy": (
        [
            "nft add table inet line",
            "nft add chain inet line input { type filter hook input priority 0 ; }",
            "nft add rule inet line input numgen random mod 10 == 0 drop",
        ],
        ["nft delete table inet line"],
    ),
}


def run(commands: list[str]) -> None:
    for command in commands:
        subprocess.run(command.split(), check=True)


def drain(drainer: Drainer, store: Store) -> None:
    end = time.monotonic() + 120
    while store.ledger().pending and time.monotonic() < end:
        if not drainer.send_due():
            time.sleep(0.01)


def main() -> None:
    """Drain over the bad line, then over the good one; print what came of it."""
    directory, line = sys.argv[1:]
    make, mend = LINES[line]
    run(["ip link set lo up mtu 1500"])
    with StandIn() as langfuse:
        target = Target.langfuse("pk-lf-test", "sk-lf-test", langfuse.url)
        settings = Settings(
            path=Path(directory) / "spool.db",
            backoff_seconds=(0.01, 0.05),
            timeout_seconds=1,
            compression="none",
        )
        store, drainer = Store(settings.path), Drainer(Store(settings.path), settings)
        drainer.routes.add(target)
        run(make)
        result: dict[str, object] = {}
        for now in ("bad", "good"):
            for number in range(SPANS):
                store.append(target, batch(f"{now} {number}", size=800), 1.0)
            before = len(langfuse.requests)
            drain(drainer, store)
            requests = langfuse.requests[before:]
            result[now] = [(len(r.body), r.status) for r in requests]
            if now == "bad":
                run(mend)
        result["ledger"] = {"pending": store.ledger().pending, "dead": store.ledger().dead}
        result["arrived"] = len(langfuse.names())
        result["duplicates"] = len(langfuse.spans) - len(langfuse.names())
    print(json.dumps(result))


if __name__ == "__main__":
    main()
