"""A connection, as the sender uses it: deadlines, what servers do, kept ones."""

from __future__ import annotations

import contextlib
import os
import socket

import pytest

import standin
from ports import HOST
from senders import BODY, MakeSender, assert_timed_out, send_in_time
from spool.delivery.http import connection
from spool.delivery.http.classification import Verdict
from spool.delivery.http.sender import Sender
from standin import Behaviour, StandIn


def raw(data: bytes, *, again: bool = False) -> Behaviour:
    """Say these bytes, once or for ever, and keep the connection open."""

    def behave(exchange: standin.Exchange) -> None:
        exchange.read()
        exchange.send(data)
        while again:
            exchange.send(data)
        exchange.hang()

    return behave


def closing(data: bytes) -> Behaviour:
    """Say these bytes and close the connection."""

    def behave(exchange: standin.Exchange) -> None:
        exchange.read()
        exchange.send(data)
        exchange.close()

    return behave


def slow_reader() -> Behaviour:
    """Take the request in sips, so that sending it never stands still for long."""

    def behave(exchange: standin.Exchange) -> None:
        while exchange.connection.socket.recv(1 << 16):
            exchange.pause(0.005)
        exchange.close()

    return behave


def slowly(data: bytes, then: bytes = b"") -> Behaviour:
    """Say these bytes one by one; if `then`, that for ever after, slowly too."""

    def behave(exchange: standin.Exchange) -> None:
        exchange.read()
        for byte in data:
            exchange.pause(0.05)
            exchange.send(bytes([byte]))
        while then:
            exchange.pause(0.05)
            exchange.send(then)
        exchange.hang()

    return behave


# Deadlines

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    "behaviour",
    [
        standin.mute(),
        standin.delay(30),
        standin.slow_headers(0.1),
        standin.slow_body(0.1),
        raw(ANSWER),
        raw(ANSWER + b"Content-Length: 10\r\n\r\n{"),
        raw(ANSWER + b"\r\n"),
        raw(ANSWER + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n"),
        raw(ANSWER + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nTrailer: x\r\n"),
        raw(b"HTTP/1.1 100 Continue\r\n\r\n", again=True),
        slowly(ANSWER + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\n \r\n" * 1000),
        slowly(b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
        slowly(b"", then=b"HTTP/1.1 200 OK\r\nX: y\r\n"),
    ],
    ids=[
        "mute", "late", "slow headers", "slow body", "half of the headers", "half of the body",
        "a body without end", "half of the chunks", "half of the trailers", "100 for ever",
        "slow chunks", "slow 100", "slow headers without end",
    ],
)  # fmt: skip
def test_a_request_ends_at_its_deadline(
    langfuse: StandIn, sender: Sender, behaviour: Behaviour
) -> None:
    langfuse.behave(behaviour)
    assert_timed_out(send_in_time(sender))
    langfuse.behave(None)
    assert sender.send(BODY, 10).verdict is Verdict.DELIVERED


def test_a_request_that_nobody_reads_ends_at_its_deadline(
    langfuse: StandIn, sender: Sender
) -> None:
    for behaviour in (standin.deaf(), slow_reader()):
        langfuse.behave(behaviour)
        assert_timed_out(send_in_time(sender, os.urandom(32 << 20)))


def test_of_a_request_that_was_given_up_nothing_more_is_sent(sender_to: MakeSender) -> None:
    with socket.create_server((HOST, 0)) as listener:
        sender = sender_to(f"http://{HOST}:{listener.getsockname()[1]}")
        assert sender.send(bytes(32 << 20), 0.2).is_timeout
        accepted, _ = listener.accept()
        with accepted, pytest.raises(ConnectionResetError):
            read_to_its_end(accepted)


def read_to_its_end(sock: socket.socket) -> None:
    while sock.recv(1 << 20):
        pass


def test_a_request_without_time_is_not_sent(langfuse: StandIn, sender: Sender) -> None:
    assert sender.send(BODY, 0).is_timeout
    assert not langfuse.requests


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_server_that_takes_connections_and_no_more_is_left_at_the_deadline(
    silent_port: int, scheme: str, sender_to: MakeSender
) -> None:
    with contextlib.closing(sender_to(f"{scheme}://{HOST}:{silent_port}")) as sender:
        assert_timed_out(send_in_time(sender))


# What servers and networks do


@pytest.mark.parametrize(
    "behaviour",
    [
        standin.garbage(),
        standin.half_answer(),
        standin.reset_mid_body(),
        standin.reset_after_accept(),
        lambda exchange: exchange.close(),
        raw(b"HTTP/1.1 abc\r\n\r\n"),
        raw(b"HTTP/9.9 200 OK\r\n\r\n"),
        raw(b"HTTP/1.1 200 OK\r\n" + b"x" * 100_000),
        raw(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000),
        raw(ANSWER + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n"),
        closing(ANSWER + b"Content-Length: 10\r\n\r\n{}"),
        closing(ANSWER + b"Content-Length: 10\r\n\r\n"),
        closing(ANSWER + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n"),
    ],
    ids=[
        "garbage", "half an answer", "reset in the body", "reset after it", "closed", "bad status",
        "bad version", "endless line", "many headers", "bad chunk", "half a body that looks whole",
        "no body", "half of the chunks",
    ],
)  # fmt: skip
def test_what_is_no_answer_is_waited_out_and_then_all_is_well(
    langfuse: StandIn, sender: Sender, behaviour: Behaviour
) -> None:
    langfuse.behave(behaviour)
    outcome = sender.send(BODY, 10)
    assert outcome.verdict is Verdict.WAIT
    assert not outcome.is_timeout
    assert outcome.reason
    langfuse.behave(None)
    assert sender.send(BODY, 10).verdict is Verdict.DELIVERED


def test_a_refused_connection_is_waited_out(closed_port: int, sender_to: MakeSender) -> None:
    outcome = sender_to(f"http://{HOST}:{closed_port}").send(BODY, 10)
    assert outcome.verdict is Verdict.WAIT
    assert "nobody listens" in outcome.reason
    assert not outcome.is_timeout


# Kept connections


def test_one_connection_carries_many_requests(langfuse: StandIn, sender: Sender) -> None:
    for _ in range(10):
        assert sender.send(BODY, 10).verdict is Verdict.DELIVERED
    assert (langfuse.connections, langfuse.accepted) == (1, 10)


@pytest.mark.parametrize("code", [400, 413, 415])
def test_behind_an_answer_that_refuses_the_body_the_connection_may_end_unannounced(
    langfuse: StandIn, sender: Sender, code: int
) -> None:
    def refuse_and_close(exchange: standin.Exchange) -> None:
        exchange.answer(standin.Reply(code, b"{}"))
        exchange.pause(0.1)  # meanwhile it looks as if it were kept
        exchange.close()

    langfuse.behave(refuse_and_close)
    assert [sender.send(BODY, 10).status for _ in range(2)] == [code, code]


def test_a_connection_is_kept_after_an_error_answer_too(langfuse: StandIn, sender: Sender) -> None:
    langfuse.behave(standin.sequence([standin.unavailable(), None]))
    assert sender.send(BODY, 10).verdict is Verdict.WAIT
    assert sender.send(BODY, 10).verdict is Verdict.DELIVERED
    assert langfuse.connections == 1


def test_a_kept_connection_that_went_stale_costs_no_attempt(
    langfuse: StandIn, sender: Sender
) -> None:
    assert sender.send(BODY, 10).verdict is Verdict.DELIVERED
    langfuse.stop()
    langfuse.start()
    assert sender.send(BODY, 10).verdict is Verdict.DELIVERED
    assert langfuse.connections == 2


def test_a_connection_that_the_server_closes_is_not_used_again(
    langfuse: StandIn, sender: Sender
) -> None:
    langfuse.behave(standin.sequence([standin.busy(), None]))
    assert sender.send(BODY, 10).verdict is Verdict.WAIT
    assert sender.send(BODY, 10).verdict is Verdict.DELIVERED
    assert langfuse.connections == 2


def test_a_connection_that_was_idle_for_long_is_not_used_again(
    langfuse: StandIn, sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_LONGEST_IDLE", -1.0)
    for _ in range(2):
        assert sender.send(BODY, 10).verdict is Verdict.DELIVERED
    assert langfuse.connections == 2


def test_a_closed_sender_opens_a_connection_again(langfuse: StandIn, sender: Sender) -> None:
    for _ in range(2):
        assert sender.send(BODY, 10).verdict is Verdict.DELIVERED
        sender.close()
    assert langfuse.connections == 2


def test_an_answer_that_nobody_asked_for_is_not_taken_for_the_next_ones(
    langfuse: StandIn, sender: Sender
) -> None:
    refused = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"
    smuggled = ANSWER + b"Content-Length: 2\r\n\r\n{}"
    langfuse.behave(standin.sequence([raw(refused + smuggled), standin.mute()]))
    assert sender.send(BODY, 10).verdict is Verdict.WAIT
    assert_timed_out(send_in_time(sender))
    langfuse.behave(None)
    assert sender.send(BODY, 10).verdict is Verdict.DELIVERED


@pytest.mark.parametrize("interim", ["100 Continue", "102 Processing", "103 Early Hints"])
def test_what_a_server_says_before_its_answer_is_passed_over(
    langfuse: StandIn, sender: Sender, interim: str
) -> None:
    def behave(exchange: standin.Exchange) -> None:
        reply = exchange.judge()
        exchange.send(f"HTTP/1.1 {interim}\r\nLink: </a>\r\n\r\n".encode() * 2)
        exchange.answer(reply)

    langfuse.behave(behave)
    for _ in range(2):
        assert sender.send(BODY, 10).verdict is Verdict.DELIVERED
    assert langfuse.connections == 1


@pytest.mark.parametrize("size", [(1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 20])
def test_a_large_answer_does_not_break_the_next_request(
    langfuse: StandIn, sender: Sender, size: int
) -> None:
    langfuse.behave(standin.sequence([standin.status(503, body="x" * size), None]))
    assert sender.send(BODY, 10).verdict is Verdict.WAIT
    assert sender.send(BODY, 10).verdict is Verdict.DELIVERED
    assert langfuse.accepted == 1
    assert langfuse.connections == 1 + (size > 1 << 20)


def test_an_answer_without_end_is_not_read_to_its_end(langfuse: StandIn, sender: Sender) -> None:
    endless = raw(b"x" * 10_000, again=True)

    def behave(exchange: standin.Exchange) -> None:
        exchange.read()
        exchange.send(b"HTTP/1.1 503 Busy\r\n\r\n")
        endless(exchange)

    langfuse.behave(standin.sequence([behave, None]))
    assert not sender.send(BODY, 10).is_timeout
    assert sender.send(BODY, 10).verdict is Verdict.DELIVERED
