from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

from resolver import Addresses, address
from senders import BODY, MakeSender, assert_timed_out, send_in_time
from spool.delivery.http.classification import Verdict
from standin import StandIn


def test_an_unknown_name_is_waited_out(
    names: dict[str, Callable[[], Addresses]], sender_to: MakeSender
) -> None:
    def fail() -> Addresses:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    names["langfuse.invalid"] = fail
    outcome = sender_to("http://langfuse.invalid").send(BODY, 10)
    assert outcome.verdict is Verdict.WAIT
    assert "the name of langfuse.invalid cannot be resolved" in outcome.reason
    assert "Name or service not known" in outcome.reason


def test_a_name_that_no_resolver_takes_is_waited_out(sender_to: MakeSender) -> None:
    outcome = sender_to(f"http://{'x' * 70}.invalid").send(BODY, 10)
    assert outcome.verdict is Verdict.WAIT
    assert "cannot be resolved" in outcome.reason


def test_a_resolver_that_hangs_is_left_at_the_deadline(
    names: dict[str, Callable[[], Addresses]], sender_to: MakeSender
) -> None:
    done = threading.Event()

    def hang() -> Addresses:
        done.wait(60)
        return []

    names["langfuse.invalid"] = hang
    try:
        assert_timed_out(send_in_time(sender_to("http://langfuse.invalid")))
    finally:
        done.set()


def test_a_name_without_addresses_is_waited_out(
    names: dict[str, Callable[[], Addresses]], sender_to: MakeSender
) -> None:
    names["langfuse.invalid"] = list
    outcome = sender_to("http://langfuse.invalid").send(BODY, 10)
    assert (outcome.verdict, outcome.is_timeout) == (Verdict.WAIT, False)


def test_a_refusing_address_does_not_hide_a_good_one(
    langfuse: StandIn,
    closed_port: int,
    names: dict[str, Callable[[], Addresses]],
    sender_to: MakeSender,
) -> None:
    names["langfuse.invalid"] = lambda: [address(closed_port), address(langfuse.port)]
    with contextlib.closing(sender_to("http://langfuse.invalid")) as sender:
        assert sender.send(BODY, 10).verdict is Verdict.DELIVERED
    assert langfuse.requests[0].headers["host"] == "langfuse.invalid"


def test_a_mute_address_does_not_hide_a_good_one(
    langfuse: StandIn,
    names: dict[str, Callable[[], Addresses]],
    monkeypatch: pytest.MonkeyPatch,
    sender_to: MakeSender,
) -> None:
    connect = socket.socket.connect
    waited: list[float | None] = []

    class Socket(socket.socket):
        def connect(self, address: Any) -> None:
            if address[1] == 1:
                waited.append(self.gettimeout())
                raise TimeoutError("timed out")
            connect(self, address)

    monkeypatch.setattr(socket, "socket", Socket)
    names["langfuse.invalid"] = lambda: [address(1), address(langfuse.port)]
    with contextlib.closing(sender_to("http://langfuse.invalid")) as sender:
        assert sender.send(BODY, 20).verdict is Verdict.DELIVERED
    (timeout,) = waited
    assert timeout is not None
    assert timeout <= 10
