"""Dialling: a host's name is resolved and one of its addresses connected, by a deadline.

Invariant: a request to a healthy receiver imports nothing. The child of a fork in the middle of an
import by another thread has half a module for ever: of `idna` it could not look up any name.
"""

from __future__ import annotations

import contextlib
import encodings.idna  # noqa: F401 - what names are looked up with: see above
import ipaddress
import queue
import socket
import threading
from typing import TYPE_CHECKING, Any

from spool.delivery.http.deadline import Step

if TYPE_CHECKING:
    from spool.delivery.http.deadline import Deadline


def dial(host: str, port: int, deadline: Deadline) -> socket.socket:
    """Connect to the first address that takes it. Raises OSError."""
    deadline.step = Step.RESOLVE
    addresses = _resolve(host, port, deadline)
    error: OSError = OSError("it has no address")
    if addresses:
        deadline.step = Step.CONNECT
    for tried, (family, kind, protocol, _, address) in enumerate(addresses):
        sock = None
        try:
            sock = socket.socket(family, kind, protocol)
            # A share of the time each: one mute address must not hide a good one.
            sock.settimeout(deadline.left() / (len(addresses) - tried))
            sock.connect(address)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as failure:
            if sock is not None:  # a kernel without IPv6 makes none
                sock.close()
            error = failure
        else:
            return sock
    raise error


def _resolve(host: str, port: int, deadline: Deadline) -> list[tuple[Any, ...]]:
    """Resolve a name in a thread of its own: getaddrinfo knows no timeout."""
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(host)
        return list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    answers: queue.SimpleQueue[list[tuple[Any, ...]] | OSError] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))
        except OSError as error:
            answers.put(error)
        except UnicodeError:
            answers.put(OSError("no name may be like that"))

    try:
        threading.Thread(target=ask, name="spool-resolve", daemon=True).start()
    except RuntimeError:  # Python 3.12 starts no thread during exit, which is bounded itself
        ask()
    try:
        answer = answers.get(timeout=deadline.left())
    except queue.Empty:
        raise TimeoutError(f"resolving {host} took too long") from None
    if isinstance(answer, OSError):
        raise answer
    return answer
