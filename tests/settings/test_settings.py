from __future__ import annotations

import dataclasses
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest

from environments import KEYS, read
from spool.errors import SettingsError
from spool.settings.durability import Durability
from spool.settings.settings import Settings
from spool.settings.target import Target


def test_without_any_variable_the_documented_defaults_count() -> None:
    settings = Settings.from_env(environ={})
    assert settings.path.parts[-2:] == ("langfuse-spool", "spool.db")
    assert dataclasses.replace(settings, path=Path("/x")) == Settings(
        path=Path("/x"),
        target=None,
        sync_seconds=1,
        max_bytes=1024**3,
        when_full="drop-oldest",
        drain=True,
        max_request_bytes=4 * 1024**2,
        backoff_seconds=(1, 60),
        timeout_seconds=10,
        shutdown_seconds=2,
        credentials_file=None,
        host=None,
        compression="gzip",
        certificate=None,
        client_certificate=None,
        client_key=None,
        proxies={},
    )


@pytest.mark.parametrize(
    ("sync_seconds", "durability"),
    [(0, Durability.POWER_CUT), (0.1, Durability.PROCESS_DEATH), (1, Durability.PROCESS_DEATH)],
)
def test_a_window_of_zero_seconds_is_the_durability_that_survives_a_power_cut(
    sync_seconds: float, durability: Durability
) -> None:
    assert Settings(path=Path("/spool.db"), sync_seconds=sync_seconds).durability is durability


def test_a_given_value_goes_before_the_environment_and_none_does_not() -> None:
    environ = {"SPOOL_DRAIN": "off", "SPOOL_TIMEOUT_SECONDS": "3"}
    settings = Settings.from_env(path="/a/b", timeout_seconds=4, drain=None, environ=environ)
    assert (settings.path, settings.timeout_seconds, settings.drain) == (Path("/a/b"), 4, False)


def test_a_given_value_is_checked_like_the_variables(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"SPOOL_TIMEOUT_SECONDS=-1: must be seconds"):
        Settings(path=tmp_path / "spool.db", timeout_seconds=-1)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("path", b"spool.db", "must be a file, .*; in code Path, not bytes"),
        ("sync_seconds", "1", "must be seconds, 0 or more, .*; in code int or float, not str"),
        ("max_bytes", "2GiB", "must be a size of 1MiB .*; in code int or float, not str"),
        ("max_request_bytes", None, "must be a size of 1KiB .*, not NoneType"),
        ("max_age_seconds", "5", "must be seconds, .*; in code int or float or NoneType, not str"),
        ("when_full", 1, "must be drop-oldest or drop-newest; in code str, not int"),
        ("when_full", "drop-it", "=drop-it: must be drop-oldest or drop-newest"),
        ("drain", "off", "must be on or off; in code bool, not str"),
        ("backoff_seconds", 5, "=5: must be the first and the largest in seconds"),
        ("backoff_seconds", (1,), "=1: must be the first and the largest in seconds"),
        ("backoff_seconds", ("1", "60"), r"=1\.\.60: must be the first and the largest in seconds"),
        ("timeout_seconds", [], "must be seconds, more than 0, .*, not list"),
        ("credentials_file", 5, "must be a file; in code Path or NoneType, not int"),
    ],
)
def test_a_value_of_the_wrong_type_is_an_error_that_names_the_field(
    field: str, value: Any, words: str
) -> None:
    given = {"path": Path("/spool.db"), field: value}
    with pytest.raises(SettingsError, match=f"^SPOOL_{field.upper()}(: )?{words}"):
        Settings(**given)


def test_paths_may_be_given_as_text() -> None:
    assert Settings(path="/a/b", credentials_file="/keys") == Settings(  # type: ignore[arg-type]
        path=Path("/a/b"), credentials_file=Path("/keys")
    )


def test_settings_and_targets_cannot_be_changed() -> None:
    settings = read(KEYS)
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.drain = False  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.require_target().route = "other"  # type: ignore[misc]


def test_no_target_is_said_in_the_words_that_litellms_users_know() -> None:
    settings = read({"LANGFUSE_HOST": "https://langfuse.example"})
    assert settings.target is None
    words = "LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY must be set"
    with pytest.raises(SettingsError, match=words):
        settings.require_target()


def test_a_given_target_is_taken_as_it_is() -> None:
    given = Target.langfuse("pk-lf-2", "sk-lf-2")
    assert Settings.from_env(target=given, environ=KEYS).target is given
    half = {"LANGFUSE_PUBLIC_KEY": "pk-lf-1"}
    assert Settings.from_env(target=given, environ=half).target is given


@pytest.mark.parametrize(
    "environ",
    [
        {"LANGFUSE_PUBLIC_KEY": "pk-lf-1", "LANGFUSE_SECRET_KEY": "s3cret"},
        {
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://u:s3cret@h/v1/traces",
            "OTEL_EXPORTER_OTLP_HEADERS": "api-key=s3cret",
        },
        {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://h/v1/traces?token=s3cret"},
        {"HTTPS_PROXY": "http://user:s3cret@proxy"},
        {"LANGFUSE_HOST": "https://user:s3cret@host"},
    ],
)
def test_no_secret_is_in_the_repr_of_settings_and_target(environ: dict[str, str]) -> None:
    settings = read(environ)
    for text in (repr(settings), str(settings), repr(settings.target)):
        assert "s3cret" not in text
        assert b64encode(b"pk-lf-1:s3cret").decode() not in text
