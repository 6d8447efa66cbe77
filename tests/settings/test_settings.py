from __future__ import annotations

import dataclasses
import os
import re
import shutil
import tempfile
from base64 import b64encode
from pathlib import Path
from typing import NoReturn

import pytest

from owners import as_user, only_root
from spool.errors import SettingsError
from spool.settings.durability import Durability
from spool.settings.environment import MISSING_KEYS
from spool.settings.settings import Settings
from spool.settings.target import Named, Target
from spool.system.redaction import without_secrets

KEYS = {"LANGFUSE_PUBLIC_KEY": "pk-lf-1", "LANGFUSE_SECRET_KEY": "sk-lf-1"}
TRACES = "/api/public/otel/v1/traces"


def basic(text: str) -> str:
    return "Basic " + b64encode(text.encode()).decode()


def read(environ: dict[str, str] | None = None) -> Settings:
    return Settings.from_env(environ={"SPOOL_PATH": "/spool/file.db", **(environ or {})})


def target(environ: dict[str, str]) -> Target:
    return read(environ).require_target()


# Values


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


@pytest.mark.parametrize(
    ("variable", "text", "value"),
    [
        ("SPOOL_PATH", "/var/lib/app/spans.db", Path("/var/lib/app/spans.db")),
        ("SPOOL_SYNC_SECONDS", "0", 0.0),
        ("SPOOL_SYNC_SECONDS", "2.5", 2.5),
        ("SPOOL_MAX_BYTES", "500MB", 500_000_000),
        ("SPOOL_MAX_BYTES", "2GiB", 2 << 30),
        ("SPOOL_MAX_BYTES", "2gib", 2 << 30),
        ("SPOOL_MAX_BYTES", "3 GB", 3_000_000_000),
        ("SPOOL_MAX_BYTES", "1TiB", 1 << 40),
        ("SPOOL_MAX_BYTES", "2000000B", 2_000_000),
        ("SPOOL_MAX_BYTES", "1048576", 1 << 20),
        ("SPOOL_WHEN_FULL", "drop-newest", "drop-newest"),
        ("SPOOL_WHEN_FULL", "DROP-OLDEST", "drop-oldest"),
        ("SPOOL_DRAIN", "off", False),
        ("SPOOL_DRAIN", "On", True),
        ("SPOOL_MAX_REQUEST_BYTES", "1KiB", 1024),
        ("SPOOL_BACKOFF_SECONDS", "1..60", (1.0, 60.0)),
        ("SPOOL_BACKOFF_SECONDS", "0.5..0.5", (0.5, 0.5)),
        ("SPOOL_TIMEOUT_SECONDS", "0.25", 0.25),
        ("SPOOL_SHUTDOWN_SECONDS", "0", 0.0),
        ("SPOOL_CREDENTIALS_FILE", "/etc/spool.keys", Path("/etc/spool.keys")),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "7", 7.0),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "none", "none"),
        ("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "GZIP", "gzip"),
    ],
)
def test_a_good_value_is_taken(variable: str, text: str, value: object) -> None:
    field = variable.removeprefix("SPOOL_").removeprefix("OTEL_EXPORTER_OTLP_")
    field = {"TIMEOUT": "timeout_seconds"}.get(field, field).removeprefix("TRACES_").lower()
    assert getattr(read({variable: f" {text} "}), field) == value


@pytest.mark.parametrize(
    ("variable", "text", "allowed"),
    [
        ("SPOOL_SYNC_SECONDS", "-1", "seconds, 0 or more"),
        ("SPOOL_SYNC_SECONDS", "often", "seconds, 0 or more"),
        ("SPOOL_SYNC_SECONDS", "nan", "seconds, 0 or more"),
        ("SPOOL_SYNC_SECONDS", "inf", "seconds, 0 or more"),
        ("SPOOL_MAX_BYTES", "1000", "such as 500MB or 2GiB"),
        ("SPOOL_MAX_BYTES", "-5MB", "such as 500MB or 2GiB"),
        ("SPOOL_MAX_BYTES", "1.5GB", "such as 500MB or 2GiB"),
        ("SPOOL_MAX_BYTES", "5 parsecs", "such as 500MB or 2GiB"),
        ("SPOOL_WHEN_FULL", "panic", "drop-oldest or drop-newest"),
        ("SPOOL_DRAIN", "perhaps", "on or off"),
        ("SPOOL_MAX_REQUEST_BYTES", "100", "a size of 1KiB or more"),
        ("SPOOL_BACKOFF_SECONDS", "60", "such as 1..60"),
        ("SPOOL_BACKOFF_SECONDS", "60..1", "such as 1..60"),
        ("SPOOL_BACKOFF_SECONDS", "0..60", "such as 1..60"),
        ("SPOOL_BACKOFF_SECONDS", "1..inf", "such as 1..60"),
        ("SPOOL_BACKOFF_SECONDS", "1..2..3", "such as 1..60"),
        ("SPOOL_TIMEOUT_SECONDS", "0", "seconds, more than 0"),
        ("SPOOL_TIMEOUT_SECONDS", "10s", "seconds, more than 0"),
        ("SPOOL_SHUTDOWN_SECONDS", "-2", "seconds, 0 or more"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "0", "seconds, more than 0"),
        ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "nan", "seconds, more than 0"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "deflate", "gzip or none"),
        ("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "zstd", "gzip or none"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/no/such/ca.pem", "a file"),
        ("OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE", "/no/such/client.pem", "a file"),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/no/such/client.key", "a file"),
        ("SPOOL_PATH", "~no-such-user/spool.db", "a file, or a directory to hold spool.db"),
        ("SPOOL_CREDENTIALS_FILE", "~no-such-user/keys", "a file"),
        ("SPOOL_TIMEOUT_SECONDS", "600000", "seconds, more than 0, 86400 at most"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "600000", "seconds, more than 0, 86400 at most"),
        ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "600000", "seconds, more than 0, 86400 at most"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317", "a URL such as https://host"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "ftp://collector/x", "a URL such as https://host"),
        ("SPOOL_PATH", "/tmp/" + "x" * 201, "200 bytes for its name"),
        ("SPOOL_PATH", "/tmp/" + "x" * 199 + "é", "200 bytes for its name"),
        ("SPOOL_PATH", "/tmp" + "/x" * 240, "470 in all at most"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "~no-such-user/ca.pem", "a file"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/tmp/" + "x" * 300, "a file"),
    ],
)
def test_a_bad_value_is_an_error_that_names_variable_value_and_what_is_allowed(
    variable: str, text: str, allowed: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        read({variable: text})
    said = str(caught.value)
    assert said.startswith(f"{variable}={text}: ")
    assert allowed in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/tmp/caf\udce9/spool.db", r"/tmp/caf\udce9/spool.db"),
        ("/tmp/two\nlines.db", r"/tmp/two\nlines.db"),
        ("/tmp/\x1b[31mred.db", r"/tmp/\x1b[31mred.db"),
    ],
)
def test_a_path_that_cannot_be_used_everywhere_is_refused_and_shown_harmlessly(
    path: str, shown: str
) -> None:
    for given in ({"environ": {"SPOOL_PATH": path}}, {"path": path, "environ": {}}):
        with pytest.raises(SettingsError, match="in UTF-8 without control characters") as caught:
            Settings.from_env(**given)
        assert str(caught.value).startswith(f"SPOOL_PATH={shown}: must be ")


def test_a_path_may_be_of_any_language_and_as_long_as_is_said(tmp_path: Path) -> None:
    for name in ("café spans.db", "x" * 200):
        assert read({"SPOOL_PATH": str(tmp_path / name)}).path == tmp_path / name


def test_without_a_home_and_with_an_unknown_user_spool_path_must_be_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unknown(uid: int) -> NoReturn:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr("pwd.getpwuid", unknown)
    for name in ("HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    words = f"SPOOL_PATH must be set: the home directory of user {os.getuid()} is not known"
    with pytest.raises(SettingsError, match=f"^{words}$"):
        Settings.from_env(environ={})
    assert read().path == Path("/spool/file.db")


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
    with pytest.raises(SettingsError, match=f"^{variable}=grpc: must be http/protobuf$"):
        read(grpc)
    # Other signals may go there.
    assert target({**KEYS, **grpc}).route == "pk-lf-1"
    given = Settings.from_env(endpoint="http://gateway/v1/traces", environ=grpc)
    assert given.require_target().endpoint == "http://gateway/v1/traces"
    assert target({**grpc, variable: "http/protobuf"}).endpoint == "http://collector:4317/v1/traces"


def test_opentelemetrys_timeout_is_not_looked_at_where_our_own_is_set() -> None:
    environ = {"OTEL_EXPORTER_OTLP_TIMEOUT": "600000", "SPOOL_TIMEOUT_SECONDS": "7"}
    assert read(environ).timeout_seconds == 7


def test_deflate_is_refused_because_langfuse_cannot_read_it() -> None:
    with pytest.raises(SettingsError, match="Langfuse cannot read deflate"):
        read({"OTEL_EXPORTER_OTLP_COMPRESSION": "deflate"})


def test_an_empty_variable_counts_as_unset() -> None:
    names = (
        "SPOOL_SYNC_SECONDS", "SPOOL_MAX_BYTES", "SPOOL_DRAIN", "SPOOL_BACKOFF_SECONDS",
        "SPOOL_CREDENTIALS_FILE", "LANGFUSE_PUBLIC_KEY", "OTEL_EXPORTER_OTLP_ENDPOINT",
        "OTEL_EXPORTER_OTLP_CERTIFICATE", "OTEL_EXPORTER_OTLP_TIMEOUT", "https_proxy",
    )  # fmt: skip
    assert read(dict.fromkeys(names, "")) == read(dict.fromkeys(names, "  ")) == read()


def test_a_given_value_goes_before_the_environment_and_none_does_not() -> None:
    environ = {"SPOOL_DRAIN": "off", "SPOOL_TIMEOUT_SECONDS": "3"}
    settings = Settings.from_env(path="/a/b", timeout_seconds=4, drain=None, environ=environ)
    assert (settings.path, settings.timeout_seconds, settings.drain) == (Path("/a/b"), 4, False)


def test_a_given_value_is_checked_like_the_variables(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"SPOOL_TIMEOUT_SECONDS=-1: must be seconds"):
        Settings(path=tmp_path / "spool.db", timeout_seconds=-1)


def test_settings_and_targets_cannot_be_changed() -> None:
    settings = read(KEYS)
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.drain = False  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.require_target().route = "other"  # type: ignore[misc]


# The path


def test_a_directory_means_the_file_spool_db_in_it(tmp_path: Path) -> None:
    assert read({"SPOOL_PATH": str(tmp_path)}).path == tmp_path / "spool.db"
    assert read({"SPOOL_PATH": str(tmp_path / "x")}).path == tmp_path / "x"


def test_a_relative_path_is_made_absolute_so_that_a_chdir_does_not_move_the_spool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert read({"SPOOL_PATH": "spans.db"}).path == tmp_path / "spans.db"
    assert read({"SPOOL_CREDENTIALS_FILE": "keys"}).credentials_file == tmp_path / "keys"


def test_a_tilde_is_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read({"SPOOL_PATH": "~/spans.db"}).path == tmp_path / "spans.db"


def test_the_default_path_is_in_the_users_state_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    assert Settings.from_env(environ={}).path == tmp_path / "xdg" / "langfuse-spool" / "spool.db"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    path = Settings.from_env(environ={}).path
    assert path.is_relative_to(tmp_path / "home")
    assert path.parts[-2:] == ("langfuse-spool", "spool.db")


@only_root
def test_a_file_in_a_directory_without_rights_is_no_traceback() -> None:
    directory = Path(tempfile.mkdtemp())  # tmp_path's parents are closed to others
    directory.chmod(0o700)
    file = directory / "file"
    variable = "OTEL_EXPORTER_OTLP_CERTIFICATE"
    try:
        with as_user(12345):
            # That it cannot be used is said by whoever opens it.
            assert read({"SPOOL_PATH": str(file)}).path == file
            with pytest.raises(SettingsError, match=f"^{variable}={file}: must be a file"):
                read({variable: str(file)})
    finally:
        shutil.rmtree(directory)


# The target: Langfuse


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


@pytest.mark.parametrize(
    ("host", "endpoint"),
    [
        ("langfuse.example", "https://langfuse.example"),
        ("langfuse.example:3000", "https://langfuse.example:3000"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("https://langfuse.example/", "https://langfuse.example"),
        ("https://example.org/langfuse/", "https://example.org/langfuse"),
        ("http://[::1]:3000", "http://[::1]:3000"),
    ],
)
def test_a_host_may_lack_its_scheme_and_may_have_a_path(host: str, endpoint: str) -> None:
    assert target({**KEYS, "LANGFUSE_HOST": host}).endpoint == endpoint + TRACES


@pytest.mark.parametrize("host", ["ftp://h", "https://", "http://h:0", "h:99999", "h:x", "a b"])
def test_a_host_that_is_none_is_refused(host: str) -> None:
    with pytest.raises(SettingsError, match="must be a URL such as https://host/api/public"):
        read({**KEYS, "LANGFUSE_HOST": host})


@pytest.mark.parametrize("name", sorted(KEYS))
def test_one_key_alone_is_an_error(name: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read({name: "some-key", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector"})
    assert str(caught.value).startswith(MISSING_KEYS)
    assert "some-key" not in str(caught.value)


def test_no_target_is_said_in_the_words_that_litellms_users_know() -> None:
    settings = read({"LANGFUSE_HOST": "https://langfuse.example"})
    assert settings.target is None
    words = "LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY must be set"
    with pytest.raises(SettingsError, match=words):
        settings.require_target()


# The target: OpenTelemetry's variables


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


@pytest.mark.parametrize(
    "value", ["Bearer abc", "Basic %%%", "Basic", basic("user:pw"), "Basic /w=="]
)
def test_other_authorization_makes_a_marked_route_of_the_endpoint(value: str) -> None:
    found = Target.otlp("http://collector/v1/traces", {"Authorization": value})
    assert re.fullmatch(r"http://collector/v1/traces#[0-9a-f]{8}", found.route)
    assert found.public_key is None
    assert "x-langfuse-ingestion-version" not in found.headers


def test_the_route_of_a_plain_receiver_is_its_endpoint_and_a_mark_of_headers_and_query() -> None:
    url = "https://collector/v1/traces"
    targets = [
        Target.otlp(url, {}),
        Target.otlp(url, {"x-api-key": "a"}),
        Target.otlp(url, {"x-api-key": "b"}),
        Target.otlp(url, {"x-tenant": "a"}),
        Target.otlp(url + "?token=a", {}),
        Target.otlp(url + "?token=b", {}),
        Target.otlp(url.replace("//", "//user:pw@"), {}),
    ]
    assert targets[0].route == url
    assert len({target.route for target in targets}) == len(targets)
    assert all(target.route.partition("#")[0] == url for target in targets)
    assert Target.otlp(url, {"X-API-Key": "a "}).route == targets[1].route


def test_the_mark_of_a_route_is_salted_with_it() -> None:
    one, other = (
        Target.otlp(f"https://{host}/v1/traces", {"x-api-key": "a"}).route for host in "ab"
    )
    assert one.partition("#")[2] != other.partition("#")[2]


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


# The target: what the program gives


def test_a_given_target_is_taken_as_it_is() -> None:
    given = Target.langfuse("pk-lf-2", "sk-lf-2")
    assert Settings.from_env(target=given, environ=KEYS).target is given
    half = {"LANGFUSE_PUBLIC_KEY": "pk-lf-1"}
    assert Settings.from_env(target=given, environ=half).target is given


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


def test_given_headers_without_any_endpoint_are_an_error() -> None:
    with pytest.raises(SettingsError, match="no endpoint"):
        Settings.from_env(headers={"api-key": "k"}, environ={})


@pytest.mark.parametrize(
    ("name", "value"), [("bad name", "x"), ("", "x"), ("x", "one\r\ntwo: three"), ("x", "\u2603")]
)
def test_a_header_that_http_forbids_is_refused_without_its_value(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match="HTTP forbids") as caught:
        Target.otlp("http://collector", {name: f"s3cret{value}"})
    assert "s3cret" not in str(caught.value)


# Secrets


def test_user_information_in_an_endpoint_becomes_basic_auth() -> None:
    found = Target.otlp("https://user:p%40ss@collector:4318/v1/traces", {})
    assert found.endpoint == "https://collector:4318/v1/traces"
    assert found.headers == {"authorization": basic("user:p@ss")}


def test_an_authorization_header_goes_before_user_information() -> None:
    found = Target.otlp("https://user:pw@collector/", {"Authorization": "Bearer x"})
    assert found.headers == {"authorization": "Bearer x"}
    assert found.endpoint == "https://collector/"


def test_a_query_is_sent_but_only_its_mark_is_part_of_the_route() -> None:
    found = Target.otlp("https://collector/v1/traces?token=s3cret#part", {})
    assert found.route.startswith("https://collector/v1/traces#")
    assert "s3cret" not in found.route
    assert "?token=s3cret" in found.endpoint


def test_nothing_secret_is_left_of_an_endpoint_that_is_stored() -> None:
    url = "https://user:s3cret@collector:4318/v1/traces?token=s3cret#s3cret"
    assert without_secrets(url) == "https://collector:4318/v1/traces"


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


@pytest.mark.parametrize(
    "endpoint",
    [
        "ftp://user:s3cret@host/",
        "https://user:s3cret@ho st/",
        "https://user:s3cret@host:99999/",
        "https://ho st/?token=s3cret",
        "//user:s3cret@host/",
        "https://user:s3cret?more@host/v1/traces",
        "https://user:1/s3cret@host/v1/traces",
        "https://user:1?s3cret@host/v1/traces",
        "https://user:1#s3cret@host/v1/traces",
        "https://user:more/s3cret@host/v1/traces",
    ],
)
def test_no_secret_is_in_the_error_about_a_bad_endpoint(endpoint: str) -> None:
    with pytest.raises(SettingsError, match="must be a URL") as caught:
        Target.otlp(endpoint, {})
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://user:Pa55/w0rd@proxy:3128", "http://proxy:3128"),
        ("https://user:hunter?2secret@host/path", "https://host/path"),
        ("https://user:a#b@c://d@host/path?x=y", "https://host/path"),
        ("user:pw@host", "host"),
        ("https://[::1/path?token=s", "https://[::1/path"),
        ("", ""),
    ],
)
def test_nothing_secret_is_left_of_a_url_that_is_none(url: str, shown: str) -> None:
    assert without_secrets(url) == shown


@pytest.mark.parametrize("at", ["more/s3cret", "more?s3cret", "1/s3cret", "1?s3cret", "1#s3cret"])
def test_a_password_that_should_be_encoded_is_told_so(at: str) -> None:
    with pytest.raises(SettingsError, match="must be a URL with %40, %2F and %3F for the @, / and"):
        Target.otlp(f"https://user:{at}@host/v1/traces", {})


def test_the_fingerprint_changes_with_secret_and_endpoint_and_salt_only() -> None:
    langfuse = Target.langfuse("pk", "sk", "https://a.example")
    same = Target.langfuse("pk", "sk", "a.example")
    others = [
        Target.langfuse("pk", "rotated", "https://a.example"),
        Target.langfuse("pk", "sk", "https://b.example"),
        Target.otlp(langfuse.endpoint, {"authorization": "Bearer sk"}),
        Target.otlp(langfuse.endpoint, {}),
        Target.otlp(langfuse.endpoint + "?token=one", {}),
        Target.otlp(langfuse.endpoint + "?token=two", {}),
    ]
    assert langfuse.fingerprint(b"salt") == same.fingerprint(b"salt")
    assert langfuse.fingerprint(b"salt") != langfuse.fingerprint(b"other salt")
    assert len({found.fingerprint(b"salt") for found in [langfuse, *others]}) == len(others) + 1


def test_the_fingerprint_is_too_short_to_find_the_secret_by_trying() -> None:
    assert len(bytes.fromhex(Target.langfuse("pk", "sk").fingerprint(b"salt"))) == 4


# Proxies


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
