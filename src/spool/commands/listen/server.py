"""The server: small, of the standard library; it knows of HTTP and not of spools.

Invariants:

- Nobody who asks can hold up the drain, or the end: there are so many connections at most, each of
  one request and for so many seconds in all. Where they are too many the longest goes.
- It only reads: GET and HEAD; a body is not looked at. Nothing is logged of a request.
"""

from __future__ import annotations

import contextlib
import http.server
import socket
import socketserver
import threading
import time
import urllib.parse
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from spool.commands.listen.address import is_this_machine, refusal, resolve, url_of
from spool.system.log import logger

if TYPE_CHECKING:
    from collections.abc import Callable

_CONNECTIONS: Final = 16
_SECONDS: Final = 5.0  # for a connection in all
_MOMENT: Final = 0.5  # in which what has to be cut is looked for

_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Connection": "close",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What is answered; `more` are headers beside those that all answers have."""

    status: int
    body: str
    content_type: str = "text/plain; charset=utf-8"
    more: tuple[tuple[str, str], ...] = ()


class HealthServer:
    """A server at an address, from `start` to `stop`; `url` is where it is.

    `answer` is called with a path and the Accept header, by any thread, and raises nothing. Raises
    SettingsError where the address is wrong or taken: it is bound at once.
    """

    def __init__(self, listen: str, answer: Callable[[str, str], Answer]) -> None:
        family, address = resolve(listen)
        try:
            self._server = _Server(family, address, answer)
        except OSError as error:
            raise refusal(listen, error) from error
        self.url = url_of(self._server.server_address)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_MOMENT,), name="spool-listen", daemon=True
        )

    def start(self) -> None:
        """Answer from now on."""
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """Cut off who is still there, and wait `timeout` seconds for what is under way."""
        deadline = time.monotonic() + timeout
        if self._thread.is_alive():
            self._server.shutdown()
        self._server.server_close()
        self._server.cut(0.0)
        self._server.wait_for_all(deadline)


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = _CONNECTIONS

    def __init__(
        self, family: socket.AddressFamily, address: Any, answer: Callable[[str, str], Answer]
    ) -> None:
        self.address_family = family
        self.answer = answer
        self.is_private = is_this_machine(url_of(address).partition("//")[2])
        self._slots = threading.Semaphore(_CONNECTIONS)
        self._since: dict[socket.socket, float] = {}
        super().__init__(address, _Handler)

    def get_request(self) -> tuple[socket.socket, Any]:
        try:
            return super().get_request()
        except OSError:
            time.sleep(_MOMENT)  # no descriptor is left: the next try is no better at once
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._slots.acquire(blocking=False):
            self._cut_the_longest()
            if not self._slots.acquire(timeout=_MOMENT):
                self.shutdown_request(request)
                return
        self._since[request] = time.monotonic()
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._leave(request)
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._leave(request)

    def service_actions(self) -> None:
        self.cut(_SECONDS)

    def cut(self, seconds: float) -> None:
        """Cut off who is there for so long."""
        for request, since in list(self._since.items()):
            if time.monotonic() - since >= seconds:
                _cut(request)

    def wait_for_all(self, deadline: float) -> None:
        for _ in range(_CONNECTIONS):
            self._slots.acquire(timeout=max(0.0, deadline - time.monotonic()))

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        logger.debug("langfuse-spool: a request was not answered", exc_info=True)

    def _cut_the_longest(self) -> None:
        if longest := min(list(self._since.items()), key=lambda one: one[1], default=None):
            _cut(longest[0])

    def _leave(self, request: socket.socket) -> None:
        self._since.pop(request, None)
        self._slots.release()


class _Handler(http.server.BaseHTTPRequestHandler):
    timeout = _SECONDS
    server: _Server

    def do_GET(self) -> None:
        host = self.headers.get("Host")
        if self.server.is_private and host is not None and not is_this_machine(host):
            words = "this address is for this machine alone: ask for it as localhost\n"
            return self._send(Answer(HTTPStatus.MISDIRECTED_REQUEST, words))
        path = urllib.parse.urlsplit(self.path).path
        return self._send(self.server.answer(path, self.headers.get("Accept", "")))

    do_HEAD = do_GET  # noqa: N815 - as the standard library names it

    def send_error(self, code: int, *_: object) -> None:
        """Answer what is no request, or of no method above, without repeating it."""
        if code == HTTPStatus.NOT_IMPLEMENTED:
            more = (("Allow", "GET, HEAD"),)
            self._send(Answer(HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD\n", more=more))
        else:
            self._send(Answer(code, f"{HTTPStatus(code).phrase}\n"))

    def version_string(self) -> str:
        return "langfuse-spool"

    def log_message(self, *_: object) -> None:
        pass

    def _send(self, answer: Answer) -> None:
        self.close_connection = True
        body = answer.body.encode()
        self.send_response(answer.status)
        headers = {"Content-Type": answer.content_type, "Content-Length": str(len(body))}
        for name, value in {**headers, **_HEADERS, **dict(answer.more)}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _cut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
