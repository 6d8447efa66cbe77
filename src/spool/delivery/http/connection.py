"""An HTTP connection whose every step ends by one deadline.

http.client does the protocol; here are only its socket, and the way through a proxy. A socket's
timeout alone would bound each read, and a server that sends a byte a second could go on for ever.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import socket
import ssl
import struct
import time
import urllib.parse
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from spool.delivery.http import tls
from spool.delivery.http.deadline import Deadline, Step
from spool.delivery.http.dial import dial
from spool.delivery.http.proxy import authorization, proxy_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from _typeshed import ReadableBuffer, WriteableBuffer

    from spool.settings.settings import Settings

# Node, which Langfuse runs on, closes a connection that was idle for 5 s.
_LONGEST_IDLE: Final = 4.0
_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end: an address, and with TLS its version and its certificate's end.

    `expires_at` is in seconds since 1970.
    """

    address: str
    protocol: str = ""
    expires_at: float = 0.0


class _Response(http.client.HTTPResponse):
    """An answer: what is said before it (1xx) is passed over, as RFC 9110, section 15.2 has it."""

    def _read_status(self) -> tuple[str, int, str]:
        version, status, reason = super()._read_status()  # type: ignore[misc]
        is_interim = 100 < status < 200 and status != http.client.SWITCHING_PROTOCOLS  # noqa: PLR2004
        return version, http.client.CONTINUE if is_interim else status, reason


class Connection(http.client.HTTPConnection):
    """One connection to an endpoint, through a proxy where the environment names one.

    `note_sent` is told how many bytes have just been sent.
    """

    response_class = _Response

    def __init__(
        self, endpoint: str, settings: Settings, note_sent: Callable[[int], None] = lambda _: None
    ) -> None:
        self.note_sent = note_sent
        url = urllib.parse.urlsplit(endpoint)
        host, port = url.hostname or "", url.port or _PORTS[url.scheme]
        self.deadline = Deadline(0)
        self.proxy_headers: dict[str, str] = {}
        self.target = urllib.parse.urlunsplit(("", "", url.path or "/", url.query, ""))
        self._context = tls.context(settings) if url.scheme == "https" else None
        self._tls_host = host
        self._used_at = 0.0
        self._is_tunnelled = False
        proxy = proxy_for(url, settings.proxies)
        if proxy is None:
            super().__init__(host, port)
            self.default_port = _PORTS[url.scheme]
            return
        headers = authorization(proxy)
        super().__init__(proxy.hostname or "", proxy.port or _PORTS["http"])
        if self._context is not None:
            self.set_tunnel(host, port, headers)
            self._is_tunnelled = True
        else:  # RFC 9112, section 3.2.2: a proxy gets the whole URL
            self.proxy_headers, self.target = headers, endpoint

    def is_usable(self) -> bool:
        """Say whether a kept connection can take a request: the server has not closed it."""
        if time.monotonic() - self._used_at > _LONGEST_IDLE:
            return False
        return isinstance(self.sock, _Socket) and not self.sock.has_input()

    def connect(self) -> None:
        """Connect, through the tunnel and with TLS where they are wanted. Raises OSError."""
        sock = dial(self.host, self.port, self.deadline)
        self.sock = _Socket(sock, self)  # all of it that is used
        with _closing_on_error(sock):
            if self._is_tunnelled:
                self.deadline.step = Step.TUNNEL
                self._tunnel()  # type: ignore[attr-defined]  # what http.client's own connect calls
            if self._context is not None:
                self.deadline.step = Step.SECURE
                sock.settimeout(self.deadline.left())
                secure = self._context.wrap_socket(sock, server_hostname=self._tls_host)
                self.sock = _Socket(secure, self)
        self.deadline.step = Step.SEND

    def peer(self) -> Peer:
        """Say whom it is connected to, which may be a proxy. Raises OSError."""
        return self.sock.peer() if isinstance(self.sock, _Socket) else Peer("")

    def keep(self) -> None:
        """Remember when the connection was used last."""
        self._used_at = time.monotonic()

    def abort(self) -> None:
        """Close with a reset, and drop what was not sent yet.

        Otherwise the kernel goes on with a body that was given up, for minutes on a thin uplink: it
        is in the way of the next request, and the server may accept it in the end.
        """
        if isinstance(self.sock, _Socket):
            self.sock.reset_on_close()
        self.close()


class _Socket:
    """The part of a socket that http.client uses, under the connection's deadline."""

    def __init__(self, sock: socket.socket, connection: Connection) -> None:
        self._sock = sock
        self._connection = connection
        self._users = 1

    def sendall(self, data: ReadableBuffer) -> None:
        view = memoryview(data).cast("B")
        while view:
            self._sock.settimeout(self._connection.deadline.left())
            sent = self._sock.send(view)
            self._connection.note_sent(sent)
            view = view[sent:]

    def recv_into(self, buffer: WriteableBuffer) -> int:
        self._sock.settimeout(self._connection.deadline.left())
        return self._sock.recv_into(buffer)

    def peer(self) -> Peer:
        host, port, *_ = self._sock.getpeername()
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        if not isinstance(self._sock, ssl.SSLSocket):
            return Peer(address)
        ends = str((self._sock.getpeercert() or {}).get("notAfter", ""))
        expires_at = ssl.cert_time_to_seconds(ends) if ends else 0.0
        return Peer(address, self._sock.version() or "", expires_at)

    def has_input(self) -> bool:
        """Whether there is something to read: on an idle connection, that it was closed."""
        self._sock.settimeout(0)
        try:
            self._sock.recv(1)
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        except OSError:
            return True
        return True

    def reset_on_close(self) -> None:
        """Let the kernel forget what it has not sent when the socket is closed (socket(7))."""
        with contextlib.suppress(OSError):  # it may be closed already
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def makefile(self, _mode: str) -> io.BufferedReader:
        self._users += 1
        return io.BufferedReader(_Stream(self))

    def close(self) -> None:
        """Close the socket when nobody reads from it any more, as a real one does."""
        self._users -= 1
        if self._users == 0:
            self._sock.close()


class _Stream(io.RawIOBase):
    """Reads an answer. Closing it leaves a kept connection open for the next request."""

    def __init__(self, sock: _Socket) -> None:
        self._sock = sock

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        return self._sock.recv_into(buffer)

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._sock.close()


@contextlib.contextmanager
def _closing_on_error(sock: socket.socket) -> Iterator[None]:
    try:
        yield
    except BaseException:
        sock.close()
        raise
