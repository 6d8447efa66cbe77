"""The manners of other OTLP receivers: what they read, and what they answer when all is well.

Each was seen in the wild: rotel and older aiohttp read the first gzip member, agents and test
servers know no gzip, many answer 202 or 204, or 200 in whatever content type their framework has.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import pytest

import standin
from decoders import first_member
from spool.settings.target import Target
from standin import JSON, LANGFUSE, PROTOBUF, MalformedError, Manner, Reply, Request, StandIn

OTLP_PATH = "/v1/traces"
TEXT = "text/plain; charset=utf-8"
# Every span of the tests fits, as do some of their batches.
LIMIT = 20_000


class UnsupportedError(Exception):
    """The request is in an encoding that the receiver does not know."""


def first_member_only(request: Request) -> bytes:
    if request.headers.get("content-encoding") != "gzip":
        return request.body
    try:
        return first_member(request.body)
    except (AssertionError, zlib.error):
        raise MalformedError("corrupt gzip stream") from None


def no_encoding(request: Request) -> bytes:
    if request.headers.get("content-encoding"):
        raise UnsupportedError
    return request.body


def as_it_is(request: Request) -> bytes:
    """It has never heard of encodings, and finds no protobuf."""
    return request.body


def receiver(
    name: str,
    reply: Reply,
    decode: Callable[[Request], bytes] = standin.decode,
    max_bytes: float = float("inf"),
) -> Manner:
    """Make a receiver that knows no keys: it takes bodies of up to `max_bytes` once decoded."""

    def judge(request: Request, _keys: Mapping[str, str]) -> Reply:
        if (request.method, request.path.partition("?")[0]) != ("POST", OTLP_PATH):
            return Reply(404, b"404 page not found", TEXT)
        try:
            body = decode(request)
            if len(body) > max_bytes:
                return Reply(413, b"payload too large", TEXT)
            accepted = standin.parse_body(request, body)
        except UnsupportedError:
            return Reply(415, b"unsupported content encoding", TEXT)
        except MalformedError as error:
            return Reply(400, str(error).encode(), TEXT)
        return replace(reply, accepted=tuple(accepted))

    return Manner(name, OTLP_PATH, judge)


OTLP_OK = Reply(200, b"", PROTOBUF)

MANNERS = [
    LANGFUSE,
    receiver("reads the first member only", OTLP_OK, first_member_only),
    receiver("415 to gzip", OTLP_OK, no_encoding),
    receiver("400 to gzip", OTLP_OK, as_it_is),
    receiver("413 above a limit", OTLP_OK, max_bytes=LIMIT),
    receiver("202 and nothing", Reply(202, b"", "")),
    receiver("204", Reply(204, b"", "")),
    receiver("empty JSON", Reply(200, b"", JSON)),
    receiver("application/protobuf", Reply(200, b"", "application/protobuf")),
    receiver("octets", Reply(200, b"", "application/octet-stream")),
    receiver("OK as text", Reply(200, b"OK", TEXT)),
]

NO_GZIP = [manner for manner in MANNERS if manner.name.endswith("to gzip")]


def _each(manners: Iterable[Manner]) -> pytest.MarkDecorator:
    """Try a test with each; what is not Langfuse's does not depend on the Python."""
    parameters = [
        pytest.param(manner, marks=[] if manner is LANGFUSE else [pytest.mark.trust])
        for manner in manners
    ]
    return pytest.mark.parametrize("manner", parameters, ids=lambda manner: manner.name)


# For tests of delivery, whoever receives; the second for those that count requests, of which one
# more goes to who knows no gzip.
each_manner = _each(MANNERS)
each_manner_with_gzip = _each(manner for manner in MANNERS if manner not in NO_GZIP)


def target_of(server: StandIn) -> Target:
    """Name a stand-in, with what it wants of its clients."""
    if server.manner is LANGFUSE:
        return Target.langfuse("pk-lf-test", "sk-lf-test", server.url)
    return Target.otlp(server.endpoint, {"x-api-key": "k"})
