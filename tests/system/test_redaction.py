from __future__ import annotations

import pytest

from spool.system.redaction import without_secrets


def test_nothing_secret_is_left_of_an_endpoint_that_is_stored() -> None:
    url = "https://user:s3cret@collector:4318/v1/traces?token=s3cret#s3cret"
    assert without_secrets(url) == "https://collector:4318/v1/traces"


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
