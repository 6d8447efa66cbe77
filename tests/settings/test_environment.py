from __future__ import annotations

from base64 import b64encode
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from environments import KEYS, TRACES, basic, read, target
from spool.errors import SettingsError
from spool.settings.environment import MISSING_KEYS
from spool.settings.settings import Settings
from spool.settings.target import Named, Target


@pytest.mark.parametrize("variable", ["LANGFUSE_OTEL_HOST", "LANGFUSE_BASE_URL", "LANGFUSE_HOST"])
def test_a_bad_host_is_an_error_that_names_its_variable(variable: str) -> None:
    with pytest.raises(SettingsError, match=f"^{variable}=ftp://h: must be a URL such as"):
        read({**KEYS, variable: "ftp://h"})


def test_a_bad_header_is_an_error_that_names_its_variable() -> None:
    environ = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://h",
        "OTEL_EXPORTER_OTLP_HEADERS": "a=%E2%98%83",
    }
    with pytest.raises(SettingsError, match=r"^OTEL_EXPORTER_OTLP_HEADERS: .* header 'a' has"):
        read(environ)


@pytest.mark.parametrize("variable", ["PROTOCOL", "TRACES_PROTOCOL"])
def test_a_protocol_that_is_not_spoken_is_refused_where_its_endpoint_counts(variable: str) -> None:
    variable = f"OTEL_EXPORTER_OTLP_{variable}"
    grpc = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4317", variable: "grpc"}
    with pytest.raises(SettingsError, match=f"^{variable}=grpc: must be http/protobuf "):
        read(grpc)
    # Other signals may go there.
    assert target({**KEYS, **grpc}).route == "pk-lf-1"
    given = Settings.from_env(endpoint="http://gateway/v1/traces", environ=grpc)
    assert given.require_target().endpoint == "http://gateway/v1/traces"
    assert target({**grpc, variable: "http/protobuf"}).endpoint == "http://collector:4317/v1/traces"


def test_opentelemetrys_timeout_is_not_looked_at_where_our_own_is_set() -> None:
    environ = {"OTEL_EXPORTER_OTLP_TIMEOUT": "600000", "SPOOL_TIMEOUT_SECONDS": "7"}
    assert read(environ).timeout_seconds == 7


def test_an_empty_variable_counts_as_unset() -> None:
    names = (
        "SPOOL_SYNC_SECONDS", "SPOOL_MAX_BYTES", "SPOOL_DRAIN", "SPOOL_BACKOFF_SECONDS",
        "SPOOL_CREDENTIALS_FILE", "LANGFUSE_PUBLIC_KEY", "OTEL_EXPORTER_OTLP_ENDPOINT",
        "OTEL_EXPORTER_OTLP_CERTIFICATE", "OTEL_EXPORTER_OTLP_TIMEOUT", "https_proxy",
    )  # fmt: skip
    assert read(dict.fromkeys(names, "")) == read(dict.fromkeys(names, "  ")) == read()


def test_a_mistyped_name_is_warned_of_once_and_who_shares_the_prefix_is_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    others = {"SPOOL_DIR": "/var/spool", "SPOOL_PORT": "1", "SPOOL_USER": "lp", "SPOOL_": "x"}
    settings = read({"SPOOL_MAX_BYTES": "2MiB", "SPOOL_TIMEOUT_SECONDS": "3", **others})
    assert (settings, caplog.messages) == (
        read({"SPOOL_MAX_BYTES": "2MiB", "SPOOL_TIMEOUT_SECONDS": "3"}),
        [],
    )
    mistyped = {"SPOOL_SYNC_SECOND": "0", "SPOOL_MAX_AGE": "60", "SPOOL_CREDENTIAL_FILE": "/secret"}
    for _ in range(2):
        read({**mistyped, **others})
    assert caplog.messages == [
        f"langfuse-spool: {wrong} is no setting of the spool; {right} is"
        for wrong, right in (
            ("SPOOL_SYNC_SECOND", "SPOOL_SYNC_SECONDS"),
            ("SPOOL_MAX_AGE", "SPOOL_MAX_AGE_SECONDS"),
            ("SPOOL_CREDENTIAL_FILE", "SPOOL_CREDENTIALS_FILE"),
        )
    ]


def test_langfuse_keys_alone_mean_the_eu_cloud_which_nobody_named() -> None:
    found = target(KEYS)
    assert found.endpoint == "https://cloud.langfuse.com" + TRACES
    assert found.named is Named.BY_NOBODY
    assert (found.route, found.public_key) == ("pk-lf-1", "pk-lf-1")
    assert found.headers["authorization"] == basic("pk-lf-1:sk-lf-1")
    assert found.headers["x-langfuse-ingestion-version"] == "4"


def test_the_first_host_variable_that_is_set_counts() -> None:
    hosts = ["LANGFUSE_OTEL_HOST", "LANGFUSE_BASE_URL", "LANGFUSE_HOST"]
    environ = {name: f"https://{name.lower()}.example" for name in hosts}
    for name in hosts:
        found = target({**KEYS, **environ})
        assert found.endpoint == f"https://{name.lower()}.example{TRACES}"
        assert found.named is Named.BY_OWNER
        environ[name] = ""


@pytest.mark.parametrize("name", sorted(KEYS))
def test_one_key_alone_is_an_error(name: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read({name: "some-key", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector"})
    assert str(caught.value).startswith(MISSING_KEYS)
    assert "some-key" not in str(caught.value)


def test_the_general_endpoint_gets_the_path_of_traces() -> None:
    for endpoint in ("http://collector:4318", "http://collector:4318/"):
        found = target({"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint})
        assert found.endpoint == found.route == "http://collector:4318/v1/traces"
        assert found.public_key is None
        assert found.named is Named.BY_OWNER
        assert found.headers == {}


def test_the_endpoint_for_traces_is_used_as_it_is_and_goes_before_the_general_one() -> None:
    found = target(
        {
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector/ingest",
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://other",
        }
    )
    assert found.endpoint == "http://collector/ingest"


def test_the_headers_for_traces_go_before_the_general_ones() -> None:
    environ = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector",
        "OTEL_EXPORTER_OTLP_HEADERS": "Api-Key=one%20two, x-tenant = t ",
    }
    assert target(environ).headers == {"api-key": "one two", "x-tenant": "t"}
    environ["OTEL_EXPORTER_OTLP_TRACES_HEADERS"] = "api-key=three"
    assert target(environ).headers == {"api-key": "three"}


def test_langfuses_basic_auth_in_the_headers_gives_the_route_of_the_public_key() -> None:
    token = b64encode(b"pk-lf-9:sk-lf-9").decode()
    found = target(
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": "https://langfuse.example/api/public/otel",
            "OTEL_EXPORTER_OTLP_HEADERS": f"Authorization=Basic%20{token}",
        }
    )
    assert (found.route, found.public_key) == ("pk-lf-9", "pk-lf-9")
    assert found.endpoint == "https://langfuse.example" + TRACES
    assert found.headers["x-langfuse-ingestion-version"] == "4"
    assert found.headers == Target.langfuse("pk-lf-9", "sk-lf-9").headers


def test_langfuse_keys_go_before_an_otlp_endpoint() -> None:
    found = target({**KEYS, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector"})
    assert found.route == "pk-lf-1"
    assert found.endpoint == "https://cloud.langfuse.com" + TRACES


def test_our_own_timeout_goes_before_opentelemetrys_and_its_traces_one_before_the_general() -> None:
    environ = {"OTEL_EXPORTER_OTLP_TIMEOUT": "5"}
    assert read(environ).timeout_seconds == 5
    environ["OTEL_EXPORTER_OTLP_TRACES_TIMEOUT"] = "6"
    assert read(environ).timeout_seconds == 6
    environ["SPOOL_TIMEOUT_SECONDS"] = "7"
    assert read(environ).timeout_seconds == 7


def test_the_bundles_of_requests_and_curl_are_taken_where_opentelemetry_names_none(
    tmp_path: Path,
) -> None:
    environ = {"CURL_CA_BUNDLE": "/curl.pem"}
    assert read(environ).certificate == Path("/curl.pem")
    environ["REQUESTS_CA_BUNDLE"] = "/requests.pem"
    assert read(environ).certificate == Path("/requests.pem")
    own = tmp_path / "own.pem"
    own.touch()
    environ["OTEL_EXPORTER_OTLP_CERTIFICATE"] = str(own)
    assert read(environ).certificate == own


def test_the_certificates_variables_are_taken(tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in ("CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY")}
    for file in files.values():
        file.touch()
    settings = read({f"OTEL_EXPORTER_OTLP_{name}": str(file) for name, file in files.items()})
    assert settings.certificate == files["CERTIFICATE"]
    assert settings.client_certificate == files["CLIENT_CERTIFICATE"]
    assert settings.client_key == files["CLIENT_KEY"]


def test_a_given_endpoint_keeps_the_headers_that_the_environment_names() -> None:
    environ = {**KEYS, "LANGFUSE_HOST": "https://langfuse.example"}
    settings = Settings.from_env(endpoint="http://gateway/v1/traces", environ=environ)
    found = settings.require_target()
    assert (found.endpoint, found.route) == ("http://gateway/v1/traces", "pk-lf-1")
    assert found.headers == target(environ).headers
    assert found.named is Named.BY_OWNER
    environ = {"OTEL_EXPORTER_OTLP_HEADERS": "api-key=k"}
    settings = Settings.from_env(endpoint="http://gateway/v1/traces", environ=environ)
    assert settings.require_target().headers == {"api-key": "k"}


def test_given_headers_keep_the_endpoint_that_the_environment_names() -> None:
    environ = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector",
        "OTEL_EXPORTER_OTLP_HEADERS": "api-key=k",
    }
    found = Settings.from_env(headers={"x-tenant": "t"}, environ=environ).require_target()
    assert found.endpoint == "http://collector/v1/traces"
    assert found.headers == {"x-tenant": "t"}


@pytest.mark.parametrize("host", ["", "https://langfuse.example"])
def test_given_headers_come_to_those_of_the_langfuse_keys(host: str) -> None:
    environ = {**KEYS, "LANGFUSE_HOST": host}
    found = Settings.from_env(headers={"X-Team": "t"}, environ=environ).require_target()
    keys = target(environ)
    assert found.headers == {**keys.headers, "x-team": "t"}
    assert (found.route, found.endpoint, found.named) == ("pk-lf-1", keys.endpoint, keys.named)
    theirs = {"Authorization": basic("pk-lf-9:sk-lf-9")}
    found = Settings.from_env(headers=theirs, environ=environ).require_target()
    assert found.headers["authorization"] == theirs["Authorization"]
    assert found.route == "pk-lf-9"


def test_given_headers_leave_the_route_to_the_keys_whatever_these_look_like() -> None:
    environ = {"LANGFUSE_PUBLIC_KEY": "of-the-headless-setup", "LANGFUSE_SECRET_KEY": "s"}
    gateway, more = "http://gateway/v1/traces", {"x-team": "t"}
    settings = Settings.from_env(endpoint=gateway, headers=more, environ=environ)
    found = settings.require_target()
    assert (found.route, found.public_key) == ("of-the-headless-setup", "of-the-headless-setup")
    assert found.endpoint == gateway
    assert found.headers == {**target(environ).headers, "x-team": "t"}


def test_a_user_in_a_given_endpoint_goes_before_the_langfuse_keys() -> None:
    given = f"https://pk-lf-9:sk-lf-9@langfuse.example{TRACES}"
    found = Settings.from_env(endpoint=given, environ=KEYS).require_target()
    assert found == Target.langfuse("pk-lf-9", "sk-lf-9", "https://langfuse.example")


EXTRA: Final = {"OTEL_EXPORTER_OTLP_HEADERS": "x-gateway=in"}
HOST: Final = {"LANGFUSE_HOST": "https://langfuse.example"}


@pytest.mark.parametrize("host", [{}, HOST])
@pytest.mark.parametrize("variable", ["HEADERS", "TRACES_HEADERS"])
def test_otlp_headers_come_to_those_of_the_langfuse_keys(
    host: dict[str, str], variable: str
) -> None:
    said = "x-gateway=in,Authorization=Bearer%20x,x-langfuse-ingestion-version=1"
    keys, found = (
        target({**KEYS, **host}),
        target({**KEYS, **host, f"OTEL_EXPORTER_OTLP_{variable}": said}),
    )
    assert found == replace(keys, headers={**keys.headers, "x-gateway": "in"})


def test_given_headers_go_before_otlp_headers_of_the_same_name() -> None:
    environ = {**KEYS, "OTEL_EXPORTER_OTLP_HEADERS": "x-gateway=in,x-team=theirs"}
    found = Settings.from_env(headers={"X-Team": "ours"}, environ=environ).require_target()
    assert found.headers == {**target(KEYS).headers, "x-gateway": "in", "x-team": "ours"}
    assert found.route == "pk-lf-1"


@pytest.mark.parametrize(
    "named",
    [
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "https://other.example"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "https://langfuse.example:8443"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://langfuse.example"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "langfuse.example:443"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://[bad"},
        {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://other.example/v1/traces"},
        {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "https://other.example/v1/metrics"},
        {"OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": "https://other.example/v1/logs"},
        {"OTEL_ENDPOINT": "https://other.example/v1/traces"},
        {"OTEL_ENDPOINT": "other.example:4317"},
        {"OTEL_TRACES_ENDPOINT": "https://other.example/v1/traces"},
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": "https://langfuse.example",
            "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": "https://other.example/v1/logs",
        },
    ],
)
def test_otlp_headers_of_a_receiver_on_another_host_are_not_sent_to_langfuse(
    named: dict[str, str],
) -> None:
    assert target({**KEYS, **HOST, **EXTRA, **named}) == target({**KEYS, **HOST})
    broken = {"OTEL_EXPORTER_OTLP_HEADERS": "theirs to read"}
    assert target({**KEYS, **HOST, **broken, **named}) == target({**KEYS, **HOST})


@pytest.mark.parametrize("key", ["ARIZE_API_KEY", "PHOENIX_API_KEY"])
def test_the_keys_that_litellm_writes_into_the_variable_are_not_sent_to_langfuse(key: str) -> None:
    theirs = {"OTEL_EXPORTER_OTLP_TRACES_HEADERS": "space_id=1,api_key=s3cret", key: "s3cret"}
    assert target({**KEYS, **HOST, **theirs}) == target({**KEYS, **HOST})


@pytest.mark.parametrize(
    "named",
    [
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "https://langfuse.example/api/public/otel"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "https://LANGFUSE.example:443"},
        {
            "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "x-gateway=in",
            "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "https://other.example/v1/metrics",
        },
        {"OTEL_ENDPOINT": "https://langfuse.example/api/public/otel", "ARIZE_API_KEY": "theirs"},
    ],
)
def test_otlp_headers_for_the_same_host_or_for_traces_alone_are_sent(named: dict[str, str]) -> None:
    assert target({**KEYS, **HOST, **EXTRA, **named}).headers["x-gateway"] == "in"


def test_otlp_headers_of_a_plain_receiver_are_not_for_langfuse() -> None:
    plain = {"OTEL_EXPORTER_OTLP_ENDPOINT": "https://collector.example", **EXTRA}
    found = read({**plain, **HOST})
    assert found.require_target().headers == {"x-gateway": "in"}
    assert found.extra_headers == {}


def test_extra_headers_come_to_every_project_on_their_host_and_leave_the_route() -> None:
    settings = read({**KEYS, **HOST, **EXTRA})
    here = Target.langfuse("pk-lf-2", "sk-lf-2", "https://langfuse.example").marked()
    found = settings.with_extra_headers(here)
    assert found == replace(here, headers={**here.headers, "x-gateway": "in"})
    for other in (
        Target.langfuse("pk-lf-2", "sk-lf-2", "https://other.example"),
        Target.otlp("https://langfuse.example/v1/traces", {}),
    ):
        assert settings.with_extra_headers(other) == other
    without_keys = read({**HOST, **EXTRA})
    assert without_keys.with_extra_headers(here) == found
    assert read(EXTRA).with_extra_headers(here) == here


def test_otlp_headers_stay_on_the_host_that_the_environment_names() -> None:
    other = "https://pk-lf-2:sk-lf-2@other.example/v1/traces"
    found = Settings.from_env(environ={**KEYS, **HOST, **EXTRA}, endpoint=other)
    assert "x-gateway" not in found.require_target().headers
    found = Settings.from_env(environ={**KEYS, **EXTRA}, endpoint=other)  # the only one named
    assert found.require_target().headers["x-gateway"] == "in"


def test_otlp_headers_that_cannot_be_read_are_an_error_only_where_they_are_the_receivers() -> None:
    broken = {"OTEL_EXPORTER_OTLP_HEADERS": 'x-gateway=in,a=b;c=d,x="y",foo,content-length=3'}
    assert target({**KEYS, **HOST, **broken}) == target({**KEYS, **HOST, **EXTRA})
    with pytest.raises(SettingsError, match="OTEL_EXPORTER_OTLP_HEADERS: header 2 must be"):
        target({"OTEL_EXPORTER_OTLP_ENDPOINT": "https://collector.example", **broken})


def test_extra_headers_are_in_no_words_about_settings() -> None:
    assert "s3cret" not in repr(read({**KEYS, "OTEL_EXPORTER_OTLP_HEADERS": "a=s3cret"}))


def test_given_headers_without_any_endpoint_are_an_error() -> None:
    with pytest.raises(SettingsError, match="no endpoint"):
        Settings.from_env(headers={"api-key": "k"}, environ={})


def test_proxies_are_read_as_curl_reads_them() -> None:
    environ = {
        "http_proxy": "http://lower:1",
        "HTTP_PROXY": "http://upper:1",
        "HTTPS_PROXY": "http://secure:2",
        "ALL_PROXY": "http://all:3",
        "no_proxy": "localhost,.internal",
    }
    assert read(environ).proxies == {
        "http": "http://lower:1",
        "https": "http://secure:2",
        "all": "http://all:3",
        "no": "localhost,.internal",
    }


@pytest.mark.once
@pytest.mark.parametrize(
    ("environ", "named"),
    [
        (
            {"LANGFUSE_PUBLIC_KEY": "sk-lf-aa", "LANGFUSE_SECRET_KEY": "pk-lf-bb"},
            "LANGFUSE_PUBLIC_KEY, LANGFUSE_SECRET_KEY",
        ),
        (
            {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"https://sk-lf-aa:pk-lf-bb@h.example{TRACES}"},
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        ),
    ],
)
def test_swapped_keys_are_refused_by_the_name_of_their_variable(
    environ: dict[str, str], named: str
) -> None:
    with pytest.raises(SettingsError, match="swapped") as refused:
        read(environ)
    assert str(refused.value).startswith(f"{named}: ")
    assert not any(key in str(refused.value) for key in ("lf-aa", "lf-bb"))
