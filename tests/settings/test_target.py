from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from environments import basic
from spool.errors import SettingsError
from spool.settings.target import Target


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


@pytest.mark.once
@pytest.mark.parametrize("pair", [("sk-lf-aa", "pk-lf-bb"), ("sk-aa", "bb"), ("aa", "pk-lf-bb")])
def test_keys_that_look_swapped_are_refused_and_not_shown(pair: tuple[str, str]) -> None:
    public, secret = pair
    url = "https://h.example/api/public/otel/v1/traces"
    ways: tuple[Callable[[], Target], ...] = (
        lambda: Target.langfuse(public, secret, "https://h.example"),
        lambda: Target.otlp(url.replace("//", f"//{public}:{secret}@"), {}),
        lambda: Target.otlp(url, {"Authorization": basic(f"{public}:{secret}")}),
    )
    for name in ways:
        with pytest.raises(SettingsError, match="are the two swapped") as refused:
            name()
        assert not any(key in str(refused.value) for key in (f"{public}:", "lf-aa", "lf-bb"))
