"""What a resolver answers."""

from __future__ import annotations

import socket
from typing import Any

from ports import HOST

Addresses = list[tuple[Any, ...]]


def address(port: int) -> tuple[Any, ...]:
    return (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (HOST, port))
