"""A receiver as cheap as Python allows, in a process of its own: reads a body, answers 200 `{}`.

It counts requests and bytes. Spans are counted only when they are asked for, after the timed part:
so it keeps the bodies, if it is told to. `POST` takes traces, `GET` gives the counts and starts
over.
"""

from __future__ import annotations

import gzip
import importlib
import json
import socketserver
import subprocess
import sys
import urllib.request
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from typing_extensions import Self


class Receiver:
    """The receiver's process, as the others see it."""

    def __init__(self, environment: Mapping[str, str], *, keeps: bool) -> None:
        command = [sys.executable, "-m", "benchmarks.receiver", *(["--keep"] if keeps else [])]
        self._process = subprocess.Popen(
            command, env=dict(environment), stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self.endpoint = f"http://127.0.0.1:{self._process.stdout.readline().strip()}/v1/traces"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.communicate()

    def counts(self) -> dict[str, int]:
        """Give requests, bytes and (if bodies are kept) spans since the last time."""
        with urllib.request.urlopen(self.endpoint) as answer:
            counts: dict[str, int] = json.load(answer)
        return counts


class _Connection(socketserver.StreamRequestHandler):
    """One connection, kept alive; only what HTTP/1.1 clients with a Content-Length need."""

    rbufsize = 1 << 16
    disable_nagle_algorithm = True
    server: _Server

    def handle(self) -> None:
        room = bytearray(1 << 16)
        while line := self.rfile.readline():
            length = self._length()
            if line.startswith(b"GET"):
                self._answer(self.server.counts())
                continue
            if len(room) < length:
                room = bytearray(length)
            view = memoryview(room)[:length]
            got = 0
            while got < length:
                got += self.rfile.readinto(view[got:])
            self.server.take(view)
            self._answer({})

    def _length(self) -> int:
        length = 0
        while (line := self.rfile.readline()) not in (b"\r\n", b""):
            if line[:15].lower() == b"content-length:":
                length = int(line[15:])
        return length

    def _answer(self, value: Any) -> None:
        body = json.dumps(value).encode()
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        self.wfile.write(head % len(body) + body)


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True

    def __init__(self, *, keeps: bool) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self._bodies: list[bytes] | None = [] if keeps else None
        self._requests = self._bytes = 0

    def take(self, body: memoryview) -> None:
        self._requests += 1
        self._bytes += len(body)
        if self._bodies is not None:
            self._bodies.append(bytes(body))

    def counts(self) -> dict[str, int]:
        counts = {"requests": self._requests, "bytes": self._bytes}
        if self._bodies is not None:
            counts["spans"] = sum(map(_spans, self._bodies))
            self._bodies = []
        self._requests = self._bytes = 0
        return counts


def _spans(body: bytes) -> int:
    """Count the spans of a request."""
    service = importlib.import_module("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
    if body[:2] == b"\x1f\x8b":
        body = gzip.decompress(body)
    request = service.ExportTraceServiceRequest.FromString(body)
    return sum(len(s.spans) for resource in request.resource_spans for s in resource.scope_spans)


if __name__ == "__main__":
    with _Server(keeps="--keep" in sys.argv) as server:
        print(server.server_address[1], flush=True)
        server.serve_forever()
