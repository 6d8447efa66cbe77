from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zlib
from base64 import b64encode
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

import pytest
import trustme
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

import standin
from standin import PATH, StandIn

pytestmark = pytest.mark.once

if TYPE_CHECKING:
    from collections.abc import Iterator

Answer = tuple[int, dict[str, str], bytes]


@pytest.fixture
def langfuse() -> Iterator[StandIn]:
    with StandIn() as started:
        yield started


def export(*names: str, span_id: bytes = b"") -> bytes:
    request = ExportTraceServiceRequest()
    spans = request.resource_spans.add().scope_spans.add().spans
    for name in names:
        spans.add(name=name, trace_id=b"t" * 16, span_id=span_id or name.encode().ljust(8)[:8])
    return bytes(request.SerializeToString())


def basic(public_key: str = "pk-lf-test", secret_key: str = "sk-lf-test") -> str:
    return "Basic " + b64encode(f"{public_key}:{secret_key}".encode()).decode()


def connect(langfuse: StandIn, timeout: float = 5) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", langfuse.port, timeout=timeout)


def exchange(
    connection: http.client.HTTPConnection,
    body: bytes,
    method: str = "POST",
    path: str = PATH,
    headers: dict[str, str] | None = None,
) -> Answer:
    sent = {"authorization": basic(), "content-type": "application/x-protobuf"}
    connection.request(method, path, body, sent | (headers or {}))
    response = connection.getresponse()
    received = {name.lower(): value for name, value in response.getheaders()}
    return response.status, received, response.read()


def post(
    langfuse: StandIn, body: bytes, headers: dict[str, str] | None = None, timeout: float = 5
) -> Answer:
    with closing(connect(langfuse, timeout)) as connection:
        return exchange(connection, body, headers=headers)


def test_an_export_is_accepted_with_a_json_job_even_for_protobuf(langfuse: StandIn) -> None:
    status, headers, body = post(langfuse, export("a", "b"))
    assert (status, headers["content-type"]) == (200, "application/json")
    assert json.loads(body)["name"]
    assert langfuse.names() == {"a": 1, "b": 1}
    assert langfuse.span_ids() == {b"a       ".hex(): 1, b"b       ".hex(): 1}
    assert [span.name for span in langfuse.spans] == ["a", "b"]
    assert len(langfuse.resource_spans) == 1
    (request,) = langfuse.requests
    assert (request.method, request.path, request.status) == ("POST", PATH, 200)
    assert request.body == export("a", "b")
    assert request.headers["content-type"] == "application/x-protobuf"


def test_one_connection_carries_many_requests(langfuse: StandIn) -> None:
    with closing(connect(langfuse)) as connection:
        for number in range(20):
            assert exchange(connection, export(str(number)))[0] == 200
    assert langfuse.connections == 1
    assert langfuse.accepted == 20


def test_an_empty_export_is_answered_with_an_empty_object(langfuse: StandIn) -> None:
    assert post(langfuse, b"")[::2] == (200, b"{}")


@pytest.mark.parametrize("authorization", ["", "Basic %%%", "Basic é", basic("pk", "sk-wrong")])
def test_a_missing_or_wrong_key_is_401(langfuse: StandIn, authorization: str) -> None:
    status, _, body = post(langfuse, export("a"), {"authorization": authorization})
    words = "Invalid credentials. Confirm that you've configured the correct host."
    assert (status, json.loads(body)) == (401, {"message": words})
    assert not langfuse.spans


def test_a_wrong_public_key_with_a_right_secret_is_accepted(langfuse: StandIn) -> None:
    assert post(langfuse, export("a"), {"authorization": basic("pk-other")})[0] == 200


def test_a_bearer_key_is_403(langfuse: StandIn) -> None:
    assert post(langfuse, export("a"), {"authorization": "Bearer pk-lf-test"})[0] == 403


def test_one_span_without_ids_rejects_the_whole_export(langfuse: StandIn) -> None:
    status, _, body = post(langfuse, export("good") + export("bad", span_id=b"short"))
    assert status == 400
    assert json.loads(body)["error"].startswith("Invalid OTLP trace export: 1 of 2 span(s)")
    assert "entire export was rejected" in json.loads(body)["error"]
    assert not langfuse.spans


def test_concatenated_protobuf_requests_are_one_export(langfuse: StandIn) -> None:
    assert post(langfuse, export("a") + export("b"))[0] == 200
    assert langfuse.names() == {"a": 1, "b": 1}


def test_several_gzip_members_are_one_body(langfuse: StandIn) -> None:
    body = gzip.compress(export("a")) + gzip.compress(export("b"))
    assert post(langfuse, body, {"content-encoding": "gzip"})[0] == 200
    assert langfuse.names() == {"a": 1, "b": 1}
    assert langfuse.requests[0].body == body


def test_otlp_json_is_accepted_with_ids_in_hex(langfuse: StandIn) -> None:
    span = {"name": "a", "traceId": "0a" * 16, "spanId": "0b" * 8}
    body = json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}).encode()
    assert post(langfuse, body, {"content-type": "application/json"})[0] == 200
    assert langfuse.span_ids() == {"0b" * 8: 1}


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "text/plain"},
        {"content-encoding": "gzip"},
        {"content-type": "application/json"},
        {"x-langfuse-ingestion-version": "5"},
    ],
)
def test_what_cannot_be_read_is_400(langfuse: StandIn, headers: dict[str, str]) -> None:
    status, _, body = post(langfuse, export("a"), headers)
    assert status == 400
    assert json.loads(body)["error"]


def test_other_content_encodings_are_taken_for_broken_protobuf(langfuse: StandIn) -> None:
    status, _, body = post(langfuse, zlib.compress(export("a")), {"content-encoding": "deflate"})
    assert (status, json.loads(body)["error"]) == (400, "Failed to parse OTel Protobuf Trace")


def test_a_wrong_path_is_404_in_html_and_a_wrong_method_405(langfuse: StandIn) -> None:
    with closing(connect(langfuse)) as connection:
        status, headers, _ = exchange(connection, b"", path="/v1/traces")
        assert (status, headers["content-type"]) == (404, "text/html; charset=utf-8")
        assert exchange(connection, b"", method="HEAD")[::2] == (405, b"")
        assert exchange(connection, b"", method="GET")[0] == 405


def test_a_stopped_server_refuses_and_starts_again_on_its_port(langfuse: StandIn) -> None:
    with closing(connect(langfuse)) as connection:
        assert exchange(connection, export("a"))[0] == 200
        langfuse.stop()
        with pytest.raises(ConnectionRefusedError):
            post(langfuse, export("b"))
        with pytest.raises((ConnectionError, http.client.HTTPException)):
            exchange(connection, export("c"))
    with StandIn(port=langfuse.port) as other:
        assert post(other, export("d"))[0] == 200
    langfuse.start()
    assert post(langfuse, export("e"))[0] == 200
    assert langfuse.names() == {"a": 1, "e": 1}


@pytest.mark.parametrize(
    "hanging", [standin.mute(), standin.deaf(), standin.delay(60), standin.slow_headers(60)]
)
def test_a_hanging_behaviour_does_not_block_stop(
    langfuse: StandIn, hanging: standin.Behaviour
) -> None:
    langfuse.behave(hanging)
    with closing(connect(langfuse)) as connection:
        connection.request("POST", PATH, export("a"), {"authorization": basic()})
        langfuse.wait_for(lambda s: s.connections == 1)
        started = time.monotonic()
        langfuse.stop()
        assert time.monotonic() - started < 30
        with pytest.raises((ConnectionError, http.client.HTTPException)):
            connection.getresponse()
    assert [request.status for request in langfuse.requests] in ([0], [])


def test_a_mute_server_has_the_request_and_a_healthy_one_answers_again(
    langfuse: StandIn,
) -> None:
    langfuse.behave(standin.mute())
    with pytest.raises(TimeoutError):
        post(langfuse, export("a"), timeout=0.1)
    assert [request.status for request in langfuse.requests] == [0]
    langfuse.behave(None)
    assert post(langfuse, export("a"))[0] == 200
    assert langfuse.names() == {"a": 1}


def test_a_deaf_server_does_not_take_in_a_large_request(langfuse: StandIn) -> None:
    langfuse.behave(standin.deaf())
    with pytest.raises(TimeoutError):
        post(langfuse, bytes(16 << 20), timeout=0.2)
    assert langfuse.connections == 1
    assert not langfuse.requests


@pytest.mark.parametrize(
    ("behaviour", "error"),
    [
        (standin.half_answer(), http.client.IncompleteRead),
        (standin.garbage(), http.client.BadStatusLine),
        (standin.reset_mid_body(), ConnectionError),
        (standin.slow_headers(5), TimeoutError),
        (standin.slow_body(5), TimeoutError),
    ],
)
def test_without_a_whole_answer_nothing_counts_as_accepted(
    langfuse: StandIn, behaviour: standin.Behaviour, error: type[Exception]
) -> None:
    langfuse.behave(behaviour)
    with pytest.raises(error):
        post(langfuse, export("a"), timeout=0.2)
    assert langfuse.accepted == 0


def test_a_slow_answer_that_arrives_counts(langfuse: StandIn) -> None:
    langfuse.behave(standin.slow_body(0.001))
    assert post(langfuse, export("a"))[0] == 200
    langfuse.behave(standin.slow_headers(0.001))
    assert post(langfuse, export("a"))[0] == 200
    assert langfuse.names() == {"a": 2}


def test_a_reset_after_accepting_leads_to_duplicates(langfuse: StandIn) -> None:
    langfuse.behave(standin.sequence([standin.reset_after_accept(), None]))
    with pytest.raises(ConnectionError):
        post(langfuse, export("a"))
    assert post(langfuse, export("a"))[0] == 200
    assert langfuse.names() == {"a": 2}
    assert [request.status for request in langfuse.requests] == [0, 200]


@pytest.mark.parametrize(
    ("behaviour", "status", "content_type"),
    [
        (standin.status(418, {"x-tea": "1"}), 418, "application/json"),
        (standin.unavailable(), 503, "application/json"),
        (standin.busy(), 503, "application/json"),
        (standin.server_error(), 500, "application/json"),
        (standin.suspended(), 403, "application/json"),
        (standin.too_many(2), 429, "application/json"),
        (standin.html_200(), 200, "text/html; charset=utf-8"),
        (standin.redirect_302(), 302, "text/html; charset=utf-8"),
        (standin.too_large(4), 413, "text/html; charset=utf-8"),
        (standin.poison("a", 502), 502, "application/json"),
        (standin.reject_span("a"), 400, "application/json"),
    ],
)
def test_a_refusal_accepts_nothing(
    langfuse: StandIn, behaviour: standin.Behaviour, status: int, content_type: str
) -> None:
    langfuse.behave(behaviour)
    answered, headers, _ = post(langfuse, export("a"))
    assert (answered, headers["content-type"]) == (status, content_type)
    assert langfuse.requests[0].status == status
    assert langfuse.accepted == 0


def test_poison_and_size_limits_let_other_requests_pass(langfuse: StandIn) -> None:
    langfuse.behave(standin.poison("a"))
    assert post(langfuse, export("b"))[0] == 200
    langfuse.behave(standin.too_large(10_000))
    assert post(langfuse, export("c"))[0] == 200
    bomb = gzip.compress(bytes(20_000))
    assert post(langfuse, bomb, {"content-encoding": "gzip"})[0] == 413


def test_a_busy_worker_closes_the_connection(langfuse: StandIn) -> None:
    langfuse.behave(standin.sequence([standin.busy(), None]))
    with closing(connect(langfuse)) as connection:
        assert exchange(connection, export("a"))[1]["retry-after"] == "1"
        assert exchange(connection, export("a"))[0] == 200
    assert langfuse.connections == 2


def test_a_retry_after_date_is_relative_to_the_servers_clock(langfuse: StandIn) -> None:
    langfuse.behave(standin.retry_after_date(30, clock_offset=-86_400))
    status, headers, _ = post(langfuse, export("a"))
    date, until = (parsedate_to_datetime(headers[name]) for name in ("date", "retry-after"))
    assert (status, (until - date).total_seconds()) == (429, 30)
    assert date.timestamp() < time.time() - 86_000


def test_a_partial_success_names_and_drops_what_it_rejects(langfuse: StandIn) -> None:
    langfuse.behave(standin.partial_success(2, "too old"))
    status, headers, body = post(langfuse, export("a") + export("b", "c"))
    response = ExportTraceServiceResponse.FromString(body)
    assert (status, headers["content-type"]) == (200, "application/x-protobuf")
    assert response.partial_success.rejected_spans == 2
    assert response.partial_success.error_message == "too old"
    assert langfuse.names() == {"a": 1}
    langfuse.behave(standin.partial_success(1, "too old", as_json=True))
    assert json.loads(post(langfuse, export("d"))[2])["partialSuccess"]["rejectedSpans"] == "1"


def test_a_collector_answers_in_protobuf(langfuse: StandIn) -> None:
    langfuse.behave(standin.protobuf_ok())
    status, headers, body = post(langfuse, export("a"))
    assert (status, headers["content-type"], body) == (200, "application/x-protobuf", b"")
    assert langfuse.accepted == 1


def test_waiting_in_vain_says_what_was_seen(langfuse: StandIn) -> None:
    post(langfuse, export("a"))
    with pytest.raises(AssertionError, match=r"1 requests, answered \{200: 1\}.*1 spans"):
        langfuse.wait_for(lambda s: s.accepted == 2, timeout=0.05)


def test_many_clients_are_served_at_once(langfuse: StandIn) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: post(langfuse, export(str(number))), range(200)))
    assert langfuse.names() == Counter(str(number) for number in range(200))


def test_a_client_that_gives_up_leaves_a_request_without_an_answer(langfuse: StandIn) -> None:
    with socket.create_connection(("127.0.0.1", langfuse.port)) as client:
        client.sendall(f"POST {PATH} HTTP/1.1\r\nContent-Length: 9\r\n\r\nhalf".encode())
    langfuse.wait_for(lambda s: len(s.requests) == 1)
    assert (langfuse.requests[0].body, langfuse.requests[0].status) == (b"half", 0)


def test_https_is_served_to_those_who_trust_its_certificate() -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with StandIn(tls=context) as langfuse:
        with pytest.raises(ssl.SSLError):
            https(langfuse, ssl.create_default_context())
        trusting = ssl.create_default_context()
        authority.configure_trust(trusting)
        assert https(langfuse, trusting)[0] == 200
        assert langfuse.url.startswith("https://")
        assert langfuse.names() == {"a": 1}


def https(langfuse: StandIn, context: ssl.SSLContext) -> Answer:
    connection = http.client.HTTPSConnection("127.0.0.1", langfuse.port, context=context)
    with closing(connection):
        return exchange(connection, export("a"))


def test_it_runs_as_a_program_that_prints_its_url_and_the_spans_of_any_project() -> None:
    command = [sys.executable, standin.__file__, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        url = program.stdout.readline().strip()
        for keys, said in {
            ("pk-lf-one", "sk-lf-one"): ["pk-lf-one: a\n", "pk-lf-one: b\n"],
            ("pk-lf-one", "one"): [],
            ("pk-lf-two", "sk-lf-2"): ["pk-lf-two: a\n", "pk-lf-two: b\n"],
        }.items():
            headers = {"Authorization": basic(*keys), "Content-Type": "application/x-protobuf"}
            request = urllib.request.Request(url + PATH, export("a", "b"), headers)
            with contextlib.ExitStack() as stack:
                if not said:
                    stack.enter_context(pytest.raises(urllib.error.HTTPError, match="401"))
                with urllib.request.urlopen(request, timeout=60) as response:
                    assert response.status == 200
            assert [program.stdout.readline() for _ in said] == said
        program.terminate()
