from __future__ import annotations

import pytest

from environments import KEYS
from spool.settings.environment import variables
from spool.settings.origins import Origin, defaults, origins

pytestmark = pytest.mark.once


def said(environ: dict[str, str], path: str | None = None) -> dict[str, Origin]:
    return {origin.name: origin for origin in origins(variables(environ), path)}


def test_a_secret_is_only_said_to_be_set() -> None:
    secrets = {
        "LANGFUSE_SECRET_KEY": "sk-lf-0123456789",
        "LANGFUSE_HOST": "https://user:hidden@h",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "https://user:hidden@h?key=hidden",
        "OTEL_EXPORTER_OTLP_HEADERS": "hidden=hidden, more=hidden",
        "HTTPS_PROXY": "http://user:hidden@proxy:3128",
        "SPOOL_SECRET": "hidden",
    }
    found = said(secrets)
    assert not any("hidden" in f"{one.value}{one.ignored}" for one in found.values())
    assert found["LANGFUSE_SECRET_KEY"].value == "set, 16 characters"
    assert found["OTEL_EXPORTER_OTLP_HEADERS"].value == "set, 2 headers"
    assert found["HTTPS_PROXY"].value == "http://proxy:3128"


def test_what_gives_way_is_said_with_what_goes_before_it() -> None:
    found = said(
        {
            **KEYS,
            "SPOOL_PATH": "/spool/file.db",
            "LANGFUSE_BASE_URL": "http://one",
            "LANGFUSE_HOST": "http://two",
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://three",
            "OTEL_EXPORTER_OTLP_TIMEOUT": "4",
            "SPOOL_TIMEOUT_SECONDS": "5",
        },
        path="/other.db",
    )
    assert found["--path"].value == "/other.db"
    assert {name: one.ignored for name, one in found.items() if one.ignored} == {
        "SPOOL_PATH": "--path goes before it",
        "LANGFUSE_HOST": "LANGFUSE_BASE_URL goes before it",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "spans go to Langfuse, whose keys are set",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "SPOOL_TIMEOUT_SECONDS goes before it",
    }


def test_a_mistyped_name_is_wrong_and_another_programs_is_not() -> None:
    found = said({"SPOOL_SINC_SECONDS": "1", "SPOOL_OF_THREAD": "red"})
    assert "SPOOL_SYNC_SECONDS is one" in found["SPOOL_SINC_SECONDS"].remedy
    assert found["SPOOL_OF_THREAD"].ignored == "it is no setting of the spool"
    assert not found["SPOOL_OF_THREAD"].remedy


@pytest.mark.parametrize(
    ("name", "meant"),
    [("LANGFUSE_HOSTS", "LANGFUSE_HOST"), ("LANGFUSE_PUBLICKEY", "LANGFUSE_PUBLIC_KEY")],
)
def test_a_mistyped_name_of_langfuses_is_wrong_and_what_its_sdk_reads_is_not(
    name: str, meant: str
) -> None:
    found = said({name: "hidden", "LANGFUSE_DEBUG": "1", "LANGFUSE_OTEL": "1", **KEYS})
    assert found[name].remedy == f"write {meant}"
    assert found[name].value == "set, 6 characters"
    assert not {"LANGFUSE_DEBUG", "LANGFUSE_OTEL"} & found.keys()


def test_a_public_key_that_looks_like_a_secret_is_not_shown() -> None:
    found = said({"LANGFUSE_PUBLIC_KEY": "sk-lf-hidden"})
    assert found["LANGFUSE_PUBLIC_KEY"].value == "set, 12 characters"


def test_what_is_not_set_has_its_default() -> None:
    found = defaults(variables({"SPOOL_DRAIN": "off", "OTEL_EXPORTER_OTLP_TIMEOUT": "4"}))
    assert found["SPOOL_MAX_BYTES"] == "1.0 GiB"
    assert found["SPOOL_BACKOFF_SECONDS"] == "1..60"
    assert found["SPOOL_MAX_AGE_SECONDS"] == "none"
    assert not {"SPOOL_PATH", "SPOOL_DRAIN", "SPOOL_TIMEOUT_SECONDS"} & found.keys()
