"""What can be read of a response, whatever a server says."""

from __future__ import annotations

import json

import pytest
from freezegun import freeze_time

from spool.delivery.http.response import Response
from standin import HTML, JSON, PROTOBUF


def response(status: int, body: str = "", kind: str = JSON, **headers: str) -> Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(status, {"content-type": kind, **named}, body.encode())


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"message": "Ingestion suspended: upgrade.", "error": "ForbiddenError"},
         "Ingestion suspended: upgrade. (ForbiddenError)"),
        ({"message": "Internal Server Error", "error": "Failed to upload JSON to S3"},
         "Failed to upload JSON to S3 (Internal Server Error)"),
        ({"message": "no", "error": "no"}, "no"),
        ({"error": "Failed to parse"}, "Failed to parse"),
        ({"message": ["spans[0] has no id", "spans[1] has no id"]},
         "spans[0] has no id; spans[1] has no id"),
        ({"error": {"message": "too many", "type": "rate_limit"}}, "too many"),
        ({"detail": [{"loc": ["body"], "msg": "field required", "type": "missing"}]},
         "field required"),
        ({"code": 3, "message": "bad span", "details": []}, "bad span"),
        (["one", "two", None], "one; two; null"),
        ({"why": ["one"]}, '{"why": ["one"]}'),
        ("said so", "said so"),
        ({}, "Internal Server Error"),
        ("", "Internal Server Error"),
        ("500", "Internal Server Error"),
        ("500 Internal Server Error", "Internal Server Error"),
    ],
)  # fmt: skip
def test_the_words_of_an_answer_come_first_and_as_a_person_reads_them(
    said: object, words: str
) -> None:
    assert response(500, json.dumps(said)).words() == words


@pytest.mark.parametrize("kind", [PROTOBUF, "application/protobuf"])
def test_the_words_of_a_collector_are_those_of_its_status(kind: str) -> None:
    words = "failed to unmarshal the body: proto: wrong wireType = 7"
    body = b"\x08\x03\x12" + bytes([len(words)]) + words.encode()
    assert Response(400, {"content-type": kind}, body).words() == words
    assert Response(400, {"content-type": kind}, b"no protobuf").words() == "no protobuf"
    assert Response(400, {"content-type": kind}, b"").words() == "Bad Request"


def test_the_words_of_a_page_are_given_without_its_tags_scripts_and_styles() -> None:
    page = """<html><head><style>b {color: red}</style><script>
        alert("x<y")</script></head><body class="x"><h1>Bad  Gateway</h1>\n<p>nginx</p></body>"""
    assert response(502, page, HTML).words() == "Bad Gateway nginx"


@pytest.mark.parametrize(
    ("partial", "rejected"),
    [
        ({"rejectedSpans": "3"}, 3),
        ({"rejectedSpans": 3}, 3),
        ({"rejectedSpans": -3}, -3),
        ({"errorMessage": "slow down"}, 0),
        (None, 0),
    ],
)
def test_partial_success_in_json_is_read_as_otlp_writes_it(partial: object, rejected: int) -> None:
    found, _ = response(200, json.dumps({"partialSuccess": partial})).partial_success()
    assert found == rejected


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("2", 2.0),
        (" 7 ", 7.0),
        ("3600", 3600.0),
        ("86400", 3600.0),
        ("9" * 400, 3600.0),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
        ("Mon, 23 Nov 2026 10:00:30 GMT", 30.0),
        ("Monday, 23-Nov-26 10:00:30 GMT", 30.0),
        ("Mon Nov 23 10:00:30 2026", 30.0),
        ("Mon, 23 Nov 2026 11:00:30 +0100", 30.0),
        ("Mon, 23 Nov 2026 09:59:00 GMT", 0.0),
        ("Tue, 24 Nov 2026 10:00:00 GMT", 3600.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 3600.0),
        ("Mon, 01 Jan 0001 00:00:00 GMT", 0.0),
        ("Mon, 32 Nov 2026 10:00:30 GMT", None),
        ("Mon, 23 Nov 99999999999999999999 10:00:30 GMT", None),
        ("Mon, 23 Nov 2026 10:00:30 +99999999999999999999", None),
    ],
)
def test_retry_after_is_seconds_or_a_date_and_an_hour_at_most(
    value: str, seconds: float | None
) -> None:
    date = "Mon, 23 Nov 2026 10:00:00 GMT"
    assert response(429, retry_after=value, date=date).retry_after() == seconds


@freeze_time("2026-11-23 10:00:00")
def test_a_date_to_wait_for_is_measured_from_our_clock_where_the_server_names_no_time() -> None:
    value = "Mon, 23 Nov 2026 10:00:45 GMT"
    assert response(503, retry_after=value).retry_after() == 45
    assert response(503, retry_after=value, date="yesterday").retry_after() == 45
