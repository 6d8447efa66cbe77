from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest

from spool import SettingsError, SpoolSpanExporter
from spool.settings.settings import Settings

pytestmark = pytest.mark.once

OTLP: Final = {
    "OTEL_EXPORTER_OTLP_ENDPOINT": "http://gateway:4318",
    "OTEL_EXPORTER_OTLP_HEADERS": "api-key=k",
}


def read(**given: Any) -> Settings:
    return Settings.from_env(environ=OTLP, **given)


def headers(said: Any) -> dict[str, str]:
    return dict(read(headers=said).require_target().headers)


@pytest.mark.parametrize(
    "said",
    [
        {"X-Team": "a b", "api-key": "k=,%"},
        [{"name": "X-Team", "value": "a b"}, {"name": "api-key", "value": "k=,%"}],
        "X-Team=a%20b, api-key=k%3D%2C%25",
    ],
    ids=["a mapping", "a list", "text"],
)
def test_headers_are_given_in_each_shape_that_opentelemetry_knows(said: object) -> None:
    assert headers(said) == {"x-team": "a b", "api-key": "k=,%"}


class _BytesPath:
    def __fspath__(self) -> bytes:
        return b"spool.db"


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("path", 5, "path: must be text, the path of a file, not int"),
        ("path", True, "path: must be text, the path of a file, not bool"),
        ("path", ["a"], "path: must be text, the path of a file, not list"),
        ("endpoint", 4318, "endpoint: must be text, a URL, not int"),
        ("endpoint", {"url": "x"}, "endpoint: must be text, a URL, not dict"),
        ("endpoint", "gateway:4318", "endpoint=gateway:4318: must be a URL such as"),
        ("drain", "off", "drain: must be true or false, without quotes, not str"),
        ("drain", 0, "drain: must be true or false, without quotes, not int"),
        ("headers", 7, "headers: must be a mapping of names to values, a list of mappings with"),
        ("headers", True, "headers: must be a mapping"),
        ("headers", "Bearer s3cret", "headers: must be a mapping"),
        ("headers", ["api-key=s3cret"], "headers: must be a mapping"),
        ("headers", [{"name": "api-key"}], "headers: must be a mapping"),
        ("headers", [{"api-key": "s3cret"}], "headers: must be a mapping"),
        (
            "headers",
            {"api-key": 1234567},
            "headers: the value of header 'api-key' must be text; put",
        ),
        ("headers", {"api-key": None}, "headers: the value of header 'api-key' has no value"),
        ("headers", {"api-key": ["s3cret"]}, "headers: the value of header 'api-key' must be text"),
        ("headers", {7: "s3cret"}, "headers: a name must be text; put it in quotes"),
        (
            "headers",
            {"api key": "s3cret"},
            "headers: the name or the value of header 1 has",
        ),
        ("headers", "Authorization: Bearer s3cret==", "headers: the name or the value of header 1"),
        ("headers", [{"name": "X: s3cret", "value": ""}], "headers: the name or the value of"),
        ("headers", {"a": "b", "api-key=s3cret": ""}, "headers: the name or the value of header 2"),
        ("headers", {"api-key=s3cret": None}, "headers: the value of header 1 has no value"),
        ("headers", [{"name": ["s3cret"], "value": ""}], "headers: a name must be text"),
        ("path", _BytesPath(), "path: must be text, the path of a file, not bytes"),
        ("headers", {"api-key": "s3cret\nx"}, "headers: the name or the value"),
    ],
)
def test_a_wrong_type_is_an_error_that_names_the_key_and_shows_no_secret(
    key: str, value: Any, words: str
) -> None:
    with pytest.raises(SettingsError) as raised:
        read(**{key: value})
    assert str(raised.value).startswith(words)
    assert "s3cret" not in str(raised.value)
    assert "1234567" not in str(raised.value)


def test_settings_are_no_mapping() -> None:
    with pytest.raises(SettingsError, match=r"^settings: must be a spool\.Settings"):
        SpoolSpanExporter(settings={"path": "x"})  # type: ignore[arg-type]


@pytest.mark.parametrize("nothing", [None, ""])
def test_what_is_empty_counts_as_not_given(tmp_path: Path, nothing: Any) -> None:
    environ = {**OTLP, "SPOOL_PATH": str(tmp_path / "spool.db"), "SPOOL_DRAIN": "off"}
    given = dict.fromkeys(["path", "endpoint", "headers", "drain"], nothing)
    assert Settings.from_env(environ=environ, **given) == Settings.from_env(environ=environ)


def test_no_headers_at_all_can_be_given() -> None:
    assert headers(None) == {"api-key": "k"}
    assert headers({}) == {}
