from __future__ import annotations

from typing import Final

import pytest

from spool.errors import SettingsError
from spool.settings.headers import _warn_once, basic_credentials, read_headers, read_usable_headers
from spool.settings.target import Target


@pytest.mark.parametrize(
    ("name", "value"), [("bad name", "x"), ("", "x"), ("x", "one\r\ntwo: three"), ("x", "\u2603")]
)
def test_a_header_that_http_forbids_is_refused_without_its_value(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match="HTTP forbids") as caught:
        Target.otlp("http://collector", {name: f"s3cret{value}"})
    assert "s3cret" not in str(caught.value)


VARIABLE: Final = "OTEL_EXPORTER_OTLP_HEADERS"


@pytest.mark.parametrize(
    ("text", "headers"),
    [
        ("", {}),
        (" , ", {}),
        ("a=1", {"a": "1"}),
        (" X-Team = t , x-team=u ,", {"x-team": "u"}),
        ("authorization=Basic%20YWI%3D", {"authorization": "Basic YWI="}),
        ("authorization=Basic YWI=", {"authorization": "Basic YWI="}),
        ("a=%C3%A9", {"a": "\u00e9"}),
        ("a=", {"a": ""}),
    ],
)
def test_headers_are_read_as_opentelemetry_reads_them(text: str, headers: dict[str, str]) -> None:
    assert read_headers(VARIABLE, text) == headers


@pytest.mark.parametrize(
    "text",
    [
        "s3cret",
        "Authorization: Bearer s3cret",
        "a=s3cret;b",
        'a="s3cret"',
        "=s3cret",
        "a=s3cret\u00e9",
    ],
)
def test_what_opentelemetry_would_pass_over_is_an_error_that_shows_no_value(
    text: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(SettingsError, match=f"^{VARIABLE}: header 2 must be name=value") as caught:
        read_headers(VARIABLE, f"first=1,{text}")
    assert "s3cret" not in str(caught.value) + caplog.text


@pytest.mark.parametrize("value", ["one%0D%0Atwo%3A%20three", "%E2%98%83", "%00"])
def test_what_http_forbids_is_refused_also_where_it_was_percent_encoded(value: str) -> None:
    with pytest.raises(SettingsError, match=f"^{VARIABLE}: .*header 'a'.* HTTP forbids"):
        read_headers(VARIABLE, f"a=s3cret{value}")


@pytest.mark.parametrize(
    "text",
    ["s3cret", "a=s3cret;b", 'a="s3cret"', "Authorization: s3cret==", "a=s3cret%0D%0Ab:c"],
)
def test_what_cannot_be_read_is_passed_over_and_said_once_without_its_value(
    text: str, caplog: pytest.LogCaptureFixture
) -> None:
    _warn_once.cache_clear()
    said = f"first=1,{text},Content-Length=3,last=a%20b"
    for _ in range(2):
        assert read_usable_headers(VARIABLE, said) == {"first": "1", "last": "a b"}
    words = [record.getMessage() for record in caplog.records]
    assert len(words) == 2
    assert "header 2 must be" in words[0] or "header 'a'" in words[0]
    assert "header 'content-length' must be left out" in words[1]
    assert "s3cret" not in caplog.text


@pytest.mark.parametrize(
    "name", ["Content-Length", "content-encoding", "Transfer-Encoding", "Accept-Encoding"]
)
def test_what_each_request_says_for_itself_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match=f"^headers: header '{name.lower()}' must be left out"):
        Target.otlp("http://collector", {name: "1"})


def test_a_basic_authorization_that_is_no_ascii_has_no_user() -> None:
    assert basic_credentials({"authorization": "Basic \xe9"}) is None
