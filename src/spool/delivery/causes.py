"""The causes: why requests of a route fail, in plain words, and what a person can do about it.

A cause is kept with the route's wait, beside the words of that one failure (`last_error`), and
outlives the process. So its values are stored and public, and none ever changes its meaning.
"""

from __future__ import annotations

from enum import Enum
from typing import Final


class Cause(Enum):
    """Why a request failed."""

    NOBODY_LISTENS = "nobody-listens"
    UNRESOLVED = "unresolved"
    UNREACHABLE = "unreachable"
    NO_CONNECTION = "no-connection"  # in time
    NO_ANSWER = "no-answer"  # in time
    SLOW_LINE = "slow-line"
    CUT_OFF = "cut-off"
    UNTRUSTED = "untrusted"
    EXPIRED = "expired"
    OTHER_NAME = "other-name"
    CLIENT_CERTIFICATE = "client-certificate"
    TLS = "tls"
    SPEAKS_HTTP = "speaks-http"
    SPEAKS_HTTPS = "speaks-https"
    PROXY = "proxy"
    HERE = "here"
    KEYS = "keys"
    FORBIDDEN = "forbidden"
    WRONG_ADDRESS = "wrong-address"
    PORTAL = "portal"
    ASKED_TO_WAIT = "asked-to-wait"
    SERVER = "server"
    TOO_LARGE = "too-large"
    SPANS = "spans"
    REQUEST = "request"
    NOT_UNDERSTOOD = "not-understood"
    UNKNOWN = ""

    @classmethod
    def of(cls, value: str) -> Cause:
        """Give the cause that was stored; UNKNOWN for one of another version."""
        return next((one for one in cls if one.value == value), cls.UNKNOWN)

    @property
    def remedy(self) -> str:
        """What to do about it."""
        return _REMEDIES[self]

    def explain(self, said: str) -> str:
        """Say what is the matter, given the words of one failure."""
        meaning = _MEANINGS.get(self)
        if meaning is None:
            return said or "the last request failed"
        return f"{meaning} ({said})" if said else meaning


# What a status means, said before the server's own words. Other failures are in plain words.
_MEANINGS: Final = {
    Cause.KEYS: "the receiver refuses the keys",
    Cause.FORBIDDEN: "the receiver forbids it",
    Cause.WRONG_ADDRESS: "nothing there takes spans: host or path is wrong",
    Cause.ASKED_TO_WAIT: "the receiver asks to come back later",
    Cause.SERVER: "the server is in trouble",
    Cause.TOO_LARGE: "even one span is too large for it",
    Cause.SPANS: "check the host, the headers, and any proxy on the way",
    Cause.REQUEST: "check the host, the headers, and any proxy on the way",
}
_WAIT: Final = "it is tried again by itself"
_REMEDIES: Final = {
    Cause.NOBODY_LISTENS: "start the server, or correct the host and its port",
    Cause.UNRESOLVED: "correct the host's name, or see to the network and its DNS",
    Cause.UNREACHABLE: "see to the network, or correct the host",
    Cause.NO_CONNECTION: "see to the network and its firewall, or correct the host",
    Cause.NO_ANSWER: "see to the server and the line, or raise SPOOL_TIMEOUT_SECONDS",
    Cause.SLOW_LINE: "see to the line, or raise SPOOL_TIMEOUT_SECONDS; requests get smaller",
    Cause.CUT_OFF: "see to the server; it may want https://, or a client certificate of ours",
    Cause.UNTRUSTED: (
        "name the file of its CA by OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE or REQUESTS_CA_BUNDLE"
    ),
    Cause.EXPIRED: "renew the certificate, or set this machine's clock where that is wrong",
    Cause.OTHER_NAME: "correct the host, or the certificate",
    Cause.CLIENT_CERTIFICATE: (
        "set OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE and …_CLIENT_KEY to one that it trusts"
    ),
    Cause.TLS: "begin the host with http:// where it speaks no https; else see to the server's TLS",
    Cause.SPEAKS_HTTP: "begin the host with http://",
    Cause.SPEAKS_HTTPS: "begin the host with https://",
    Cause.PROXY: "see to the proxy, or correct HTTPS_PROXY, HTTP_PROXY and NO_PROXY",
    Cause.HERE: "correct that on this machine",
    Cause.KEYS: "correct the keys or headers, or the host: keys hold on one host, in one region",
    Cause.FORBIDDEN: (
        "do what its words say: a suspended plan goes on by itself when that ends; else correct "
        "the keys or the host"
    ),
    Cause.WRONG_ADDRESS: "correct the host, or the path of the endpoint",
    Cause.PORTAL: "sign in to that network, or correct the host",
    Cause.ASKED_TO_WAIT: f"no need to act: {_WAIT}",
    Cause.SERVER: f"see to the server; {_WAIT}",
    Cause.TOO_LARGE: (
        "raise the limit of the server, or of the proxy before it (nginx: client_max_body_size)"
    ),
    Cause.SPANS: "check the host, the headers, and any proxy on the way",
    Cause.REQUEST: "check the host, the headers, and any proxy on the way",
    Cause.NOT_UNDERSTOOD: "correct the host, or see to what answers there",
    Cause.UNKNOWN: f"see to the receiver and the way there; {_WAIT}",
}
