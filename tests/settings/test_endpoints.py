from __future__ import annotations

import pytest

from environments import KEYS, TRACES, read, target
from spool.errors import SettingsError
from spool.settings.target import Target


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


@pytest.mark.parametrize(
    "host", ["ftp://h", "https://", "http://h:0", "h:99999", "h:x", "a b", "http:/h:1", "https//h"]
)
def test_a_host_that_is_none_is_refused(host: str) -> None:
    with pytest.raises(SettingsError, match=r"must be a URL such as https://host$"):
        read({**KEYS, "LANGFUSE_HOST": host})


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


@pytest.mark.parametrize("at", ["more/s3cret", "more?s3cret", "1/s3cret", "1?s3cret", "1#s3cret"])
def test_a_password_that_should_be_encoded_is_told_so(at: str) -> None:
    with pytest.raises(SettingsError, match="must be a URL with %40, %2F and %3F for the @, / and"):
        Target.otlp(f"https://user:{at}@host/v1/traces", {})
