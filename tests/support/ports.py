"""Ports on loopback that no other process takes meanwhile.

Who asks the system for any port, or only connects, gets one of a range, soon again one that another
has just closed: of tests that run beside each other, each stops servers whose port is to refuse. So
a server's port lies below that range, and is kept bound while it must stay closed.
"""

from __future__ import annotations

import contextlib
import random
import socket
from typing import Final

HOST: Final = "127.0.0.1"
_BELOW_EPHEMERAL: Final = range(10_000, 32_000)  # RFC 6335 and Linux: 49152 and 32768 upwards
_kept: dict[int, socket.socket] = {}
_draw: Final = random.SystemRandom()  # not what a test has seeded


def free_port() -> int:
    """Find a port that nobody has, and that nobody gets who asks for any."""
    while True:
        port = _draw.choice(_BELOW_EPHEMERAL)
        with socket.socket() as tried, contextlib.suppress(OSError):
            tried.bind((HOST, port))
            return port


def keep(port: int) -> None:
    """Let a port refuse connections, and nobody else have it."""
    bound = _kept[port] = socket.socket()
    # Connections of before may still wait there, which is no reason to refuse the binding ...
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind((HOST, port))
    # ... but whoever asks for any port must not be given this one.
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)


def release(port: int) -> None:
    """Let somebody of this process listen at a port, which may be one that is kept."""
    if bound := _kept.pop(port, None):
        # A forked child may hold a copy of the socket.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.close()
