"""A stand-in for Langfuse's OTLP endpoint on loopback, faithful to what the real server answers.

The healthy answers are those of Langfuse 4.16's route handler, observed with real clients or read
from its source, unless it is given the manner of another receiver (`manners`). All else is a
behaviour: a function that is handed an `Exchange` and does with it what some server, proxy or
network does.

    with StandIn() as langfuse:
        langfuse.behave(sequence([unavailable(), too_many(2), None]))

A request counts as accepted just before the end of its whole 2xx answer is sent: what a client
believes to be delivered without having read such an answer is missing from `spans`.
Only `reset_after_accept` accepts without an answer.

`python tests/support/standin.py --port 3000` serves until it is killed: any project, whose spans it
prints as they arrive.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import gzip
import http.client
import importlib
import json
import selectors
import socket
import struct
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from typing import TYPE_CHECKING

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

import ports
from ports import HOST

if TYPE_CHECKING:
    import ssl

    from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span
    from typing_extensions import Self

# Imported by name because protobuf ships no type information.
DecodeError: type[Exception] = importlib.import_module("google.protobuf.message").DecodeError
json_format = importlib.import_module("google.protobuf.json_format")

PATH = "/api/public/otel/v1/traces"
KEYS = {"pk-lf-test": "sk-lf-test"}
JSON = "application/json"
PROTOBUF = "application/x-protobuf"
HTML = "text/html; charset=utf-8"


@dataclass(frozen=True)
class Request:
    """What a client sent; `status` is what it was answered, 0 if nothing (yet)."""

    at: float
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    status: int = 0


@dataclass(frozen=True)
class Reply:
    """An answer, and the spans that it accepts."""

    status: int
    body: bytes = b""
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)
    accepted: tuple[ResourceSpans, ...] = ()

    @classmethod
    def json(cls, status: int, value: object, headers: Mapping[str, str] | None = None) -> Reply:
        return cls(status, json.dumps(value).encode(), headers=headers or {})

    def head(self) -> bytes:
        headers = {"Date": formatdate(usegmt=True)}
        if self.content_type:
            headers["Content-Type"] = self.content_type
        if self.status != 204:  # RFC 9110, section 8.6
            headers["Content-Length"] = str(len(self.body))
        headers.update(self.headers)
        reason = http.client.responses.get(self.status, "Unknown")
        lines = [f"HTTP/1.1 {self.status} {reason}", *(f"{k}: {v}" for k, v in headers.items())]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")


Behaviour = Callable[["Exchange"], None]


# What a healthy Langfuse answers


class MalformedError(Exception):
    """The request cannot be read; the message is what Langfuse says about it."""


def judge(request: Request, keys: Mapping[str, str]) -> Reply:
    """Langfuse 4.16 answers in this order: path, method, key, body, ids, version. (Its source.)"""
    if request.path.partition("?")[0] != PATH:
        return Reply(404, b"<!DOCTYPE html><html><body>404</body></html>", HTML)
    if request.method != "POST":
        error = {"message": "Method not allowed", "error": "MethodNotAllowedError"}
        return Reply.json(405, error)
    return refuse_key(request, keys) or judge_spans(request)


def refuse_key(request: Request, keys: Mapping[str, str]) -> Reply | None:
    """Langfuse looks keys up by the secret; a wrong public key is only logged there, observed."""
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    if scheme == "Bearer" and credentials in keys:
        message = "Access denied: Bearer auth and org api keys are not allowed to access"
        return Reply.json(403, {"message": message})
    public_key, secret_key = key_pair(request)
    if public_key and secret_key in keys.values():
        return None
    message = "Invalid credentials. Confirm that you've configured the correct host."
    return Reply.json(401, {"message": message})


def key_pair(request: Request) -> tuple[str, str]:
    """Give the public and the secret key of a Basic authorization; empty ones for any other."""
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    with contextlib.suppress(ValueError):
        public_key, _, secret_key = base64.b64decode(credentials).decode().partition(":")
        if scheme == "Basic":
            return public_key, secret_key
    return "", ""


def judge_spans(request: Request) -> Reply:
    """Langfuse 4.16 accepts a whole request or none of it, and never reports a partial success.

    Its 200 carries the queued job as JSON, for a protobuf request too, observed.
    """
    try:
        accepted = parse(request)
    except MalformedError as error:
        return Reply.json(400, {"error": str(error)})
    if not accepted:
        return Reply.json(200, {})
    error_text = refuse_ids(accepted) or refuse_version(request)
    if error_text:
        return Reply.json(400, {"error": error_text})
    job = {"name": "otel-ingestion-job", "data": {"name": "otel-ingestion-job"}, "id": "1"}
    return replace(Reply.json(200, job), accepted=tuple(accepted))


def parse(request: Request) -> list[ResourceSpans]:
    return parse_body(request, decode(request))


def parse_body(request: Request, body: bytes) -> list[ResourceSpans]:
    content_type = request.headers.get("content-type", "").lower()
    if PROTOBUF in content_type:
        return parse_protobuf(body)
    if JSON in content_type:
        return parse_json(body)
    raise MalformedError("Invalid content type")


def decode(request: Request) -> bytes:
    """Langfuse 4.16 unpacks gzip of one or more members, and takes any other encoding as it is."""
    if "gzip" not in request.headers.get("content-encoding", ""):
        return request.body
    try:
        return gzip.decompress(request.body)
    except (OSError, EOFError, zlib.error):
        raise MalformedError("Failed to decompress request body") from None


def parse_protobuf(body: bytes) -> list[ResourceSpans]:
    message = ExportTraceServiceRequest()
    try:
        message.ParseFromString(body)
    except DecodeError:
        raise MalformedError("Failed to parse OTel Protobuf Trace") from None
    return list(message.resource_spans)


def parse_json(body: bytes) -> list[ResourceSpans]:
    """OTLP's JSON writes ids in hex, protobuf's own JSON in base64. (OTLP specification.)"""
    message = ExportTraceServiceRequest()
    try:
        value = json.loads(body, object_hook=ids_to_base64)
        json_format.ParseDict(value, message, ignore_unknown_fields=True)
    except (ValueError, json_format.ParseError):
        raise MalformedError("Failed to parse OTel JSON Trace") from None
    return list(message.resource_spans)


def ids_to_base64(value: dict[str, object]) -> dict[str, object]:
    for name in {"traceId", "spanId", "parentSpanId"} & value.keys():
        value[name] = base64.b64encode(bytes.fromhex(str(value[name]))).decode()
    return value


def refuse_ids(resource_spans: Iterable[ResourceSpans]) -> str:
    """Langfuse 4.16 rejects the entire export for one span without ids, observed."""
    spans = list(spans_of(resource_spans))
    bad = sum(len(span.trace_id) != 16 or len(span.span_id) != 8 for span in spans)
    if not bad:
        return ""
    return (
        f"Invalid OTLP trace export: {bad} of {len(spans)} span(s) have a missing or malformed "
        "traceId/spanId — a traceId must be 16 bytes (32 hex chars) and a spanId 8 bytes (16 hex "
        "chars). The entire export was rejected and no spans were ingested."
    )


def refuse_version(request: Request) -> str:
    version = request.headers.get("x-langfuse-ingestion-version") or "4"
    if version.isdecimal() and int(version) <= 4:
        return ""
    return f'Unsupported x-langfuse-ingestion-version: "{version}". Maximum supported: "4".'


def spans_of(resource_spans: Iterable[ResourceSpans]) -> Iterator[Span]:
    for resource in resource_spans:
        for scope in resource.scope_spans:
            yield from scope.spans


@dataclass(frozen=True)
class Manner:
    """A receiver: the path of its traces, and what it answers to requests as long as it is well."""

    name: str
    path: str
    judge: Callable[[Request, Mapping[str, str]], Reply]


def judge_for_any_project(request: Request, _: Mapping[str, str]) -> Reply:
    """Take any `pk-lf-…` with any `sk-lf-…` for a project's keys."""
    public_key, secret_key = key_pair(request)
    is_project = public_key.startswith("pk-lf-") and secret_key.startswith("sk-lf-")
    return judge(request, {public_key: secret_key} if is_project else {})


LANGFUSE = Manner("Langfuse", PATH, judge)
LANGFUSE_OF_ANY_PROJECT = Manner("Langfuse", PATH, judge_for_any_project)


# The server


class Exchange:
    """One request on one connection, as a behaviour sees it."""

    def __init__(self, standin: StandIn, connection: Connection) -> None:
        self.standin = standin
        self.connection = connection
        self.keep_alive = True
        self.bytes_per_second: float = 0  # any number, if it is none
        self._request: Request | None = None
        self._index = 0

    def read(self, share: float = 1.0) -> Request:
        """Reads the request, or the given share of its body, once."""
        if self._request is None:
            self._request = self._read(share)
        return self._request

    def judge(self) -> Reply:
        """Reads the request and says what a healthy receiver would answer."""
        return self.standin.manner.judge(self.read(), self.standin.keys)

    def answer(self, reply: Reply) -> None:
        reply = self._framed(reply)
        self.settle(reply)
        self.send(reply.head() + self._body(reply))

    def answer_slowly(
        self, reply: Reply, seconds_per_byte: float, headers_at_once: bool = False
    ) -> None:
        """Sends the answer byte by byte, or only its body."""
        reply = self._framed(reply)
        head, body = reply.head(), self._body(reply)
        at_once, slow = (head, body) if headers_at_once else (b"", head + body)
        self.send(at_once)
        for left in range(len(slow), 0, -1):
            self.pause(seconds_per_byte)
            if left == 1:
                self.settle(reply)
            self.send(slow[len(slow) - left :][:1])

    def settle(self, reply: Reply) -> None:
        """Records the answer, and the spans it accepts, before the client can know of it."""
        self.read()
        self.standin.settle(self._index, reply, self.connection)

    def send(self, data: bytes) -> None:
        self.connection.socket.sendall(data)

    def pause(self, seconds: float) -> None:
        if self.connection.stopped.wait(seconds):
            raise ConnectionAbortedError("the stand-in was stopped")

    def hang(self) -> None:
        """Does nothing until the stand-in is stopped."""
        self.keep_alive = False
        self.connection.stopped.wait()

    def close(self) -> None:
        self.keep_alive = False

    def reset(self) -> None:
        """Ends the connection with a TCP reset."""
        self.keep_alive = False
        self.connection.reset()

    def _read(self, share: float) -> Request:
        file = self.connection.file
        line = file.readline(65536).decode("latin-1").split()
        if len(line) != 3:
            raise ConnectionAbortedError("this is not HTTP")
        headers = self._read_headers()
        closing = "close" in headers.get("connection", "").lower()
        self.keep_alive = line[2] == "HTTP/1.1" and not closing
        if headers.get("expect", "").lower() == "100-continue":
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        length = int(int(headers.get("content-length", "0")) * share)
        body = self._read_slowly(length) if self.bytes_per_second else file.read(length)
        request = Request(time.monotonic(), line[0], line[1], headers, body)
        self._index = self.standin.record(request)
        if len(body) < length:
            raise ConnectionAbortedError("the client gave up in mid-request")
        return request

    def _read_slowly(self, length: int) -> bytes:
        body = b""
        while more := self.connection.file.read(min(1024, length - len(body))):
            body += more
            self.pause(len(more) / self.bytes_per_second)
        return body

    def _read_headers(self) -> dict[str, str]:
        headers = {}
        while line := self.connection.file.readline(65536).decode("latin-1").strip():
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        return headers

    def _framed(self, reply: Reply) -> Reply:
        """Keeps both sides of one mind about whether the connection lives on."""
        self.read()
        if reply.headers.get("Connection") == "close":
            self.keep_alive = False
        if not self.keep_alive:
            return replace(reply, headers={**reply.headers, "Connection": "close"})
        return reply

    def _body(self, reply: Reply) -> bytes:
        return b"" if self.read().method == "HEAD" else reply.body


class Connection:
    """An accepted connection; `stopped` is set when the stand-in that accepted it stops."""

    def __init__(self, accepted: socket.socket, stopped: threading.Event) -> None:
        self.socket = accepted
        self.stopped = stopped
        self.file = accepted.makefile("rb")

    def shut(self) -> None:
        """Wakes whoever reads or writes here; also where a forked child holds a copy."""
        with contextlib.suppress(OSError):
            # The plain socket's method: SSLSocket's would pull the session from under a reader.
            socket.socket.shutdown(self.socket, socket.SHUT_RDWR)

    def reset(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        # The descriptor lives until both are closed.
        with contextlib.suppress(OSError):
            self.file.close()
        self.socket.close()


class StandIn:
    """Serves while started; what it has seen stays readable after it was stopped.

    The keys map public to secret ones. With a TLS context it serves HTTPS.
    """

    def __init__(
        self,
        keys: Mapping[str, str] | None = None,
        port: int = 0,
        tls: ssl.SSLContext | None = None,
        manner: Manner = LANGFUSE,
    ) -> None:
        self.manner = manner
        self.keys = dict(KEYS if keys is None else keys)
        self.port = port
        self.tls = tls
        self._behaviour: Behaviour = healthy
        self._changed = threading.Condition()
        self._requests: list[Request] = []
        self._resource_spans: list[ResourceSpans] = []
        self._spans: list[Span] = []
        self._names: Counter[str] = Counter()
        self._span_ids: Counter[str] = Counter()
        self._connected = 0
        self._threads: dict[threading.Thread, Connection] = {}
        self._stopped = threading.Event()
        self._listener: socket.socket | None = None
        self._acceptor: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listens; once more on the same port after a stop."""
        if self._acceptor is not None:
            return
        self.port = self.port or ports.free_port()
        ports.release(self.port)
        self._listener = socket.create_server((HOST, self.port), backlog=256)
        self._listener.setblocking(False)
        self._stopped = threading.Event()
        arguments = (self._listener, self._stopped)
        self._acceptor = threading.Thread(target=self._accept, args=arguments, daemon=True)
        self._acceptor.start()

    def stop(self) -> None:
        """Closes the port and all connections at once, as the death of a server does."""
        if self._acceptor is None or self._listener is None:
            return
        self._stopped.set()
        # Also refuses when a forked child still holds a copy of the listening socket.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._acceptor.join()
        self._acceptor = self._listener = None
        with self._changed:
            threads = dict(self._threads)
        for connection in threads.values():
            connection.shut()
        for thread in threads:
            thread.join(timeout=1)
        # Nobody else's stand-in may answer there.
        ports.keep(self.port)

    def behave(self, behaviour: Behaviour | None) -> None:
        """From the next request on; None is healthy again."""
        self._behaviour = behaviour or healthy

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{HOST}:{self.port}"

    @property
    def endpoint(self) -> str:
        return self.url + self.manner.path

    @property
    def connections(self) -> int:
        """How many connections were ever accepted."""
        return self._connected

    @property
    def requests(self) -> list[Request]:
        with self._changed:
            return list(self._requests)

    @property
    def resource_spans(self) -> list[ResourceSpans]:
        with self._changed:
            return list(self._resource_spans)

    @property
    def spans(self) -> list[Span]:
        with self._changed:
            return list(self._spans)

    @property
    def accepted(self) -> int:
        """How many spans were accepted, the repeated ones included."""
        return len(self._spans)

    def names(self) -> Counter[str]:
        with self._changed:
            return self._names.copy()

    def span_ids(self) -> Counter[str]:
        with self._changed:
            return self._span_ids.copy()

    def wait_for(self, predicate: Callable[[StandIn], bool], timeout: float = 120) -> None:
        """Waits until the predicate holds; what was seen instead is in the error."""
        with self._changed:
            if not self._changed.wait_for(lambda: predicate(self), timeout):
                raise AssertionError(f"not within {timeout} s: {self.describe()}")

    def describe(self) -> str:
        with self._changed:
            statuses = dict(Counter(request.status for request in self._requests))
            return (
                f"{self._connected} connections, {len(self._requests)} requests, answered "
                f"{statuses} (0: never), {len(self._spans)} spans accepted, "
                f"{len(self._span_ids)} of them different, names {self._names.most_common(10)}"
            )

    def _accept(self, listener: socket.socket, stopped: threading.Event) -> None:
        with listener, selectors.DefaultSelector() as selector:
            selector.register(listener, selectors.EVENT_READ)
            while not stopped.is_set():
                # On Linux shutdown() wakes this at once; elsewhere the timeout does.
                selector.select(timeout=0.2)
                try:
                    accepted, _ = listener.accept()
                except BlockingIOError:
                    continue
                except OSError:  # stopped, or out of descriptors
                    stopped.wait(0.01)
                    continue
                self._open(accepted, stopped)

    def _open(self, accepted: socket.socket, stopped: threading.Event) -> None:
        accepted.setblocking(True)
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.tls is not None:
            # The handshake comes with the first read, on the connection's own thread.
            accepted = self.tls.wrap_socket(
                accepted, server_side=True, do_handshake_on_connect=False
            )
        connection = Connection(accepted, stopped)
        thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
        with self._changed:
            self._threads[thread] = connection
            self._connected += 1
            self._changed.notify_all()
        thread.start()

    def _serve(self, connection: Connection) -> None:
        try:
            with contextlib.suppress(OSError):
                self._exchange(connection)
        finally:
            connection.close()
            with self._changed:
                del self._threads[threading.current_thread()]

    def _exchange(self, connection: Connection) -> None:
        # The behaviour is chosen when the request begins, not when the last one ended.
        while connection.file.peek(1):
            exchange = Exchange(self, connection)
            self._behaviour(exchange)
            if not exchange.keep_alive:
                return

    def record(self, request: Request) -> int:
        with self._changed:
            self._requests.append(request)
            self._changed.notify_all()
            return len(self._requests) - 1

    def settle(self, index: int, reply: Reply, connection: Connection) -> None:
        spans = list(spans_of(reply.accepted))
        with self._changed:
            if connection.stopped.is_set():
                raise ConnectionAbortedError("the stand-in was stopped")
            self._requests[index] = replace(self._requests[index], status=reply.status)
            self._resource_spans.extend(reply.accepted)
            self._spans.extend(spans)
            self._names.update(span.name for span in spans)
            self._span_ids.update(span.span_id.hex() for span in spans)
            self._changed.notify_all()


class PrintingStandIn(StandIn):
    """Prints each span that it accepts, after the public key that brought it."""

    def settle(self, index: int, reply: Reply, connection: Connection) -> None:
        super().settle(index, reply, connection)
        public_key, _ = key_pair(self.requests[index])
        lines = [f"{public_key}: {span.name}\n" for span in spans_of(reply.accepted)]
        print("".join(lines), end="", flush=True)


# Behaviours: what servers answer


def healthy(exchange: Exchange) -> None:
    exchange.answer(exchange.judge())


def answering(reply: Reply) -> Behaviour:
    return lambda exchange: exchange.answer(reply)


def status(
    code: int,
    headers: Mapping[str, str] | None = None,
    body: str | bytes | None = None,
    content_type: str = JSON,
) -> Behaviour:
    """Always this status, without a look at the request."""
    if body is None:
        body = json.dumps({"message": http.client.responses.get(code, "Unknown")})
    data = body.encode() if isinstance(body, str) else body
    return answering(Reply(code, data, content_type, dict(headers or {})))


def unavailable() -> Behaviour:
    """Langfuse 4.16 without its Postgres, observed."""
    return answering(Reply.json(503, {"message": "Service Unavailable"}))


def busy() -> Behaviour:
    """Langfuse 4.16 with a busy ingestion worker. (Its source.)"""
    message = {"message": "Service Unavailable"}
    return answering(Reply.json(503, message, {"Retry-After": "1", "Connection": "close"}))


def server_error() -> Behaviour:
    """Langfuse 4.16 without its object storage, observed."""
    message = {"message": "Internal Server Error", "error": "Failed to upload JSON to S3"}
    return answering(Reply.json(500, message))


def suspended() -> Behaviour:
    """Langfuse Cloud when the plan is used up, observed."""
    message = "Ingestion suspended: Usage threshold exceeded. Please upgrade your plan."
    return answering(Reply.json(403, {"message": message, "error": "ForbiddenError"}))


def too_many(seconds: int) -> Behaviour:
    """Langfuse Cloud's rate limit, with whole seconds to wait, observed."""
    message = {"message": "Rate limit exceeded", "error": "TooManyRequestsError"}
    return answering(Reply.json(429, message, {"Retry-After": str(seconds)}))


def retry_after_date(seconds: int, clock_offset: float = 0) -> Behaviour:
    """429 with a date to wait for, by a clock that is ahead of ours by the offset."""

    def behave(exchange: Exchange) -> None:
        now = time.time() + clock_offset
        headers = {
            "Date": formatdate(now, usegmt=True),
            "Retry-After": formatdate(now + seconds, usegmt=True),
        }
        exchange.answer(Reply(429, b"{}", headers=headers))

    return behave


def html_200() -> Behaviour:
    """A captive portal, such as a hotel's."""
    return status(200, body="<html><body>Welcome! Room number?</body></html>", content_type=HTML)


def redirect_302(location: str = "http://127.0.0.1:9/login") -> Behaviour:
    """A captive portal, or a host that moved."""
    return status(302, {"Location": location}, "<html><body>Moved</body></html>", HTML)


def too_large(max_bytes: int) -> Behaviour:
    """A proxy that allows requests of this size once decoded; healthy below."""
    page = b"<html><head><title>413 Request Entity Too Large</title></head></html>"

    def behave(exchange: Exchange) -> None:
        try:
            size = len(decode(exchange.read()))
        except MalformedError:
            size = len(exchange.read().body)
        too_big = Reply(413, page, HTML, {"Connection": "close"})
        exchange.answer(too_big if size > max_bytes else exchange.judge())

    return behave


def poison(name: str, code: int = 500) -> Behaviour:
    """That status while a span of that name is in the request; else healthy."""

    def behave(exchange: Exchange) -> None:
        reply = exchange.judge()
        if any(span.name == name for span in spans_of(reply.accepted)):
            reply = Reply.json(code, {"error": f"cannot take the span {name}"})
        exchange.answer(reply)

    return behave


def reject_span(name: str) -> Behaviour:
    return poison(name, 400)


def protobuf_ok() -> Behaviour:
    """An OpenTelemetry Collector: a protobuf answer to all that is well."""
    return partial_success(0, "")


def partial_success(rejected: int, message: str, as_json: bool = False) -> Behaviour:
    """An OTLP receiver that rejects so many spans of each request, the last ones here."""

    def behave(exchange: Exchange) -> None:
        reply = exchange.judge()
        if reply.status == 200:
            drop_last_spans(reply.accepted, rejected)
            reply = replace(otlp_reply(rejected, message, as_json), accepted=reply.accepted)
        exchange.answer(reply)

    return behave


def otlp_reply(rejected: int, message: str, as_json: bool) -> Reply:
    response = ExportTraceServiceResponse()
    if rejected or message:
        response.partial_success.rejected_spans = rejected
        response.partial_success.error_message = message
    if as_json:
        return Reply.json(200, json_format.MessageToDict(response))
    return Reply(200, response.SerializeToString(), PROTOBUF)


def drop_last_spans(resource_spans: Iterable[ResourceSpans], count: int) -> None:
    for resource in reversed(list(resource_spans)):
        for scope in reversed(resource.scope_spans):
            kept = max(0, len(scope.spans) - count)
            count -= len(scope.spans) - kept
            del scope.spans[kept:]


# Behaviours: what goes wrong on the way


def mute() -> Behaviour:
    """Reads the request and never answers, as Langfuse 4.16 with a frozen Redis, observed."""

    def behave(exchange: Exchange) -> None:
        exchange.read()
        exchange.hang()

    return behave


def reset_when(is_asked: threading.Event, may_answer: threading.Event) -> Behaviour:
    """Says that it was asked, and resets the connection once it may, within a minute."""

    def behave(exchange: Exchange) -> None:
        exchange.read()
        is_asked.set()
        assert may_answer.wait(60)
        exchange.reset()

    return behave


def deaf() -> Behaviour:
    """Accepts the connection and does not read the request, so that a large one cannot be sent."""

    def behave(exchange: Exchange) -> None:
        # Else the kernel takes in megabytes on our behalf.
        exchange.connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        exchange.hang()

    return behave


def thin(bytes_per_second: int) -> Behaviour:
    """Healthy, behind a line that carries no more than this."""

    def behave(exchange: Exchange) -> None:
        # Else the kernel takes in megabytes on our behalf.
        exchange.connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        exchange.bytes_per_second = bytes_per_second
        healthy(exchange)

    return behave


def delay(seconds: float) -> Behaviour:
    """Healthy, but late; it accepts even if the client did not wait for it."""

    def behave(exchange: Exchange) -> None:
        exchange.read()
        exchange.pause(seconds)
        healthy(exchange)

    return behave


def slow_headers(seconds_per_byte: float = 0.1) -> Behaviour:
    """The healthy answer byte by byte, from the status line on."""
    return lambda exchange: exchange.answer_slowly(exchange.judge(), seconds_per_byte)


def slow_body(seconds_per_byte: float = 0.1) -> Behaviour:
    """The healthy answer, its headers at once and its body byte by byte."""
    return lambda exchange: exchange.answer_slowly(
        exchange.judge(), seconds_per_byte, headers_at_once=True
    )


def half_answer() -> Behaviour:
    """The headers and half of the body that they announce, then the end; nothing is accepted."""

    def behave(exchange: Exchange) -> None:
        reply = replace(exchange.judge(), accepted=())
        exchange.settle(reply)
        exchange.send(reply.head() + reply.body[: len(reply.body) // 2])
        exchange.close()

    return behave


def garbage() -> Behaviour:
    """Bytes that are not HTTP."""

    def behave(exchange: Exchange) -> None:
        exchange.read()
        exchange.send(b"\x00\xff\x16\x03 what is not HTTP \r\n\r\n\x00" * 8)
        exchange.close()

    return behave


def reset_mid_body() -> Behaviour:
    """Reads half of the request's body, then resets the connection."""

    def behave(exchange: Exchange) -> None:
        exchange.read(share=0.5)
        exchange.reset()

    return behave


def reset_after_accept() -> Behaviour:
    """Accepts the spans, then resets the connection instead of answering: a resend duplicates."""

    def behave(exchange: Exchange) -> None:
        exchange.settle(replace(exchange.judge(), status=0))
        exchange.reset()

    return behave


def sequence(behaviours: Iterable[Behaviour | None]) -> Behaviour:
    """Each for one request in turn, the last one for ever."""
    remaining = list(behaviours)
    turn = threading.Lock()

    def behave(exchange: Exchange) -> None:
        with turn:
            behaviour = remaining.pop(0) if len(remaining) > 1 else remaining[0]
        (behaviour or healthy)(exchange)

    return behave


def main() -> None:
    parser = argparse.ArgumentParser(description="A stand-in for Langfuse's OTLP endpoint.")
    parser.add_argument("--port", type=int, default=0, help="default: any free one")
    port = parser.parse_args().port
    with PrintingStandIn(port=port, manner=LANGFUSE_OF_ANY_PROJECT) as langfuse:
        print(langfuse.url, flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
