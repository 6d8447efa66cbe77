"""A port that is kept refuses, and is nobody else's."""

from __future__ import annotations

import errno
import socket

import pytest

import ports
from ports import HOST, free_port
from standin import StandIn


def test_a_kept_port_refuses_and_is_given_to_nobody_else() -> None:
    with StandIn() as langfuse:
        langfuse.stop()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((HOST, langfuse.port), timeout=5)
        with pytest.raises(OSError, match=r".") as refused:
            socket.create_server((HOST, langfuse.port))
        assert refused.value.errno == errno.EADDRINUSE


def test_a_released_port_can_be_taken() -> None:
    port = free_port()
    ports.keep(port)
    ports.release(port)
    socket.create_server((HOST, port)).close()


def test_a_free_port_is_none_that_the_system_gives() -> None:
    with socket.create_server((HOST, 0)) as given:
        assert free_port() < given.getsockname()[1]
