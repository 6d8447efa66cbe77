from __future__ import annotations

from pathlib import Path

import pytest

from environments import read
from spool.errors import SettingsError


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
        ("SPOOL_MAX_BYTES", "1G", 1 << 30),
        ("SPOOL_MAX_BYTES", "500m", 500 << 20),
        ("SPOOL_MAX_REQUEST_BYTES", "2KB", 2000),
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
        ("SPOOL_MAX_BYTES", "1KB", "1G is 1GiB, and 1GB is 1000 million"),
        ("SPOOL_MAX_BYTES", "5Mi", "such as 500MB or 2GiB"),
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


def test_deflate_is_refused_because_langfuse_cannot_read_it() -> None:
    with pytest.raises(SettingsError, match="Langfuse cannot read deflate"):
        read({"OTEL_EXPORTER_OTLP_COMPRESSION": "deflate"})
