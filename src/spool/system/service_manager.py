"""The service manager: systemd is told how its service is (sd_notify(3)), where it has started us.

Nothing here fails, or waits: a service does its work, whether anybody hears of it or not.
"""

from __future__ import annotations

import contextlib
import os
import socket


def notify(**said: str | int) -> None:
    """Tell it, as `READY=1`; nothing happens where nobody asked for that."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):  # an abstract one, which no file stands for
        address = f"\0{address[1:]}"
    lines = "\n".join(f"{name}={value}" for name, value in said.items())
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sending:
        sending.setblocking(False)
        sending.sendto(lines.encode(), address)


def watchdog_seconds() -> float | None:
    """Tell within how many seconds it wants to hear of us again and again; None for never."""
    asked, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not asked.isdecimal() or int(asked) == 0 or pid not in ("", str(os.getpid())):
        return None
    return int(asked) / 1_000_000
