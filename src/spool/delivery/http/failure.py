"""A failure: why a request got no answer, in plain words; what an exception means at which step.

Invariant: no word of it is Python's: no class, no number of an error, no way of quoting.
"""

from __future__ import annotations

import errno
import http.client
import re
import ssl
import urllib.parse
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from spool.delivery.causes import Cause
from spool.delivery.http import proxy
from spool.delivery.http.deadline import Step

if TYPE_CHECKING:
    from collections.abc import Mapping

_PORTS: Final = {"http": 80, "https": 443}
_UP_TO_A_PROXY: Final = frozenset({Step.RESOLVE, Step.CONNECT, Step.TUNNEL})
# What a host says, or the system about the way there.
_NO_WAY: Final = frozenset(
    {
        errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN,
        errno.EADDRNOTAVAIL, errno.EACCES, errno.EPERM, errno.EAFNOSUPPORT,
    }
)  # fmt: skip
_CUT_OFF: Final = (ConnectionResetError, BrokenPipeError, ConnectionAbortedError, ssl.SSLEOFError)
_KINDS: Final = (
    (ConnectionRefusedError, Cause.NOBODY_LISTENS, "nobody listens at {}"),
    (_CUT_OFF, Cause.CUT_OFF, "{} ends the connection without an answer"),
    (http.client.IncompleteRead, Cause.CUT_OFF, "{} ends the connection within its answer"),
)
# What OpenSSL says to an answer that is no TLS, and of certificates (X509_V_ERR_…).
_NO_TLS: Final = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"})
_NOT_YET_VALID: Final = 9
_EXPIRED: Final = 10
_OTHER_NAMES: Final = frozenset({62, 64})
# Where in OpenSSL, and in Python, something was said.
_SOURCE: Final = re.compile(r"^\[[^]]*\] | \(_ssl.*\)$")
# How a TLS alert begins (RFC 8446, section 5.1), which a server of https says to http.
_ALERT: Final = "\x15\x03"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a request got no answer: its cause, and the words about this one."""

    cause: Cause
    words: str


def explain(
    error: Exception, step: Step, endpoint: str, proxies: Mapping[str, str], timeout: float
) -> Failure:
    """Say why a request to an endpoint failed in this step, with `timeout` in seconds."""
    url = urllib.parse.urlsplit(endpoint)
    peer = _peer(url)
    if isinstance(error, TimeoutError):
        return _late(step, peer, _proxy(url, proxies), timeout)
    if step is Step.PREPARE:
        is_of_a_file = isinstance(error, OSError) and error.errno is not None
        said = "a file of certificates cannot be used: " if is_of_a_file else ""
        return Failure(Cause.HERE, f"{said}{_plain(error)}")
    if step not in _UP_TO_A_PROXY or not (by := _proxy(url, proxies)):
        return _failed(error, step, peer)
    words = _failed(error, step, by).words
    return Failure(Cause.PROXY, words if by in words else f"{by}: {words}")


def _late(step: Step, peer: str, by: str, timeout: float) -> Failure:
    within = f"no complete answer within {timeout:g} s"
    if by and step in _UP_TO_A_PROXY:
        return Failure(Cause.PROXY, f"{within}: {by} does not answer")
    cause, why = {
        Step.RESOLVE: (Cause.UNRESOLVED, f"the name of {_host(peer)} is still not resolved"),
        Step.CONNECT: (Cause.NO_CONNECTION, f"{peer} takes no connection"),
        Step.SECURE: (Cause.NO_ANSWER, f"{peer} does not answer as TLS begins"),
        Step.SEND: (Cause.SLOW_LINE, f"the line to {peer} is too slow for the request"),
    }.get(step, (Cause.NO_ANSWER, f"{peer} does not answer"))
    return Failure(cause, f"{within}: {why}")


def _failed(error: Exception, step: Step, peer: str) -> Failure:
    if step is Step.RESOLVE:
        words = f"the name of {_host(peer)} cannot be resolved: {_plain(error)}"
        return Failure(Cause.UNRESOLVED, words)
    if step is Step.SECURE and isinstance(error, _CUT_OFF):
        return Failure(
            Cause.TLS, f"{peer} ends the connection as TLS begins: perhaps it speaks http"
        )
    for kinds, cause, words in _KINDS:
        if isinstance(error, kinds):
            return Failure(cause, words.format(peer))
    if isinstance(error, ssl.SSLError):
        return _insecure(error, peer)
    return _impossible(error, peer) if isinstance(error, OSError) else _not_http(error, peer)


def _not_http(error: Exception, peer: str) -> Failure:
    if str(error).startswith(_ALERT):
        return Failure(Cause.SPEAKS_HTTPS, f"{peer} speaks https, not http")
    return Failure(Cause.NOT_UNDERSTOOD, f"what {peer} answers is no HTTP")


def _impossible(error: OSError, peer: str) -> Failure:
    if error.errno in _NO_WAY:
        return Failure(Cause.UNREACHABLE, f"there is no way to {peer}: {_plain(error)}")
    return Failure(Cause.HERE, _plain(error))


def _insecure(error: ssl.SSLError, peer: str) -> Failure:
    if isinstance(error, ssl.SSLCertVerificationError):
        return _untrusted(error, f"the certificate of {peer}")
    reason = error.reason or ""
    if reason in _NO_TLS:
        return Failure(Cause.SPEAKS_HTTP, f"{peer} speaks http, not https")
    if "CERTIFICATE" in reason:
        words = f"{peer} wants a client certificate that it trusts"
        return Failure(Cause.CLIENT_CERTIFICATE, words)
    return Failure(Cause.TLS, f"TLS with {peer} fails: {_plain(error)}")


def _untrusted(error: ssl.SSLCertVerificationError, whose: str) -> Failure:
    if error.verify_code == _EXPIRED:
        return Failure(Cause.EXPIRED, f"{whose} has expired")
    if error.verify_code == _NOT_YET_VALID:
        return Failure(Cause.EXPIRED, f"{whose} is not valid yet, by this machine's clock")
    if error.verify_code in _OTHER_NAMES:
        return Failure(Cause.OTHER_NAME, f"{whose} is for another name")
    return Failure(Cause.UNTRUSTED, f"{whose} is not trusted: {error.verify_message}")


def _plain(error: Exception) -> str:
    """Give an exception's own words."""
    if isinstance(error, ssl.SSLError):
        return (error.reason or "").replace("_", " ").lower() or _SOURCE.sub("", str(error))
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


def _peer(url: urllib.parse.SplitResult) -> str:
    host = url.hostname or ""
    host = f"[{host}]" if ":" in host else host
    return f"{host}:{url.port or _PORTS.get(url.scheme, 80)}"


def _host(peer: str) -> str:
    return peer.rpartition(":")[0]


def _proxy(url: urllib.parse.SplitResult, proxies: Mapping[str, str]) -> str:
    """Name the proxy on the way; nothing where there is none."""
    try:
        found = proxy.proxy_for(url, proxies)
    except OSError:
        return ""
    return "" if found is None else f"the proxy {_peer(found)}"
