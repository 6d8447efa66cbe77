from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

import standin
from ports import free_port
from spans import span
from spool import SpoolSpanExporter
from spool.settings.target import Target
from spool.store.store import Store
from standin import StandIn
from users import invoke, shut_down

pytestmark = pytest.mark.once


def findings(code: int = 0) -> dict[str, dict[str, Any]]:
    """Give the last finding of each name."""
    said = json.loads(invoke("check", "--json", code=code).stdout)
    assert list(said) == ["ok", "checks"]
    assert said["ok"] is (code == 0)
    for one in said["checks"]:
        assert list(one) == ["name", "ok", "words", "remedy"]
        assert bool(one["remedy"]) is (one["ok"] is False), one
    return {one["name"]: one for one in said["checks"]}


def test_all_is_well_before_there_is_a_spool_and_none_is_made(
    path: Path, langfuse: StandIn
) -> None:
    said = invoke("check").stdout
    assert f"ok  path           {path} is not there yet" in said
    assert f"ok  export         {langfuse.endpoint} takes spans of pk-lf-test (200)" in said
    assert said.endswith("all is well\n")
    assert not path.parent.exists()
    assert [request.status for request in langfuse.requests] == [200]
    assert langfuse.accepted == 0


def test_it_changes_nothing_of_a_spool_and_sends_no_span(filled: Store, langfuse: StandIn) -> None:
    before = filled.ledger()
    found = findings(code=1)
    assert "10 spans wait" in found["spool"]["words"]
    assert "nobody drains" in found["drainer"]["words"]
    assert filled.ledger() == before
    assert langfuse.accepted == 0


def test_no_secret_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://user:hidden@127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    said = invoke("check").stdout
    assert "LANGFUSE_SECRET_KEY=set, 10 characters" in said
    assert "sk-lf-test" not in said
    assert "hidden" not in said


def test_wrong_settings_are_2_all_of_them_are_named_and_nobody_is_asked(
    langfuse: StandIn, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPOOL_MAX_BYTES", "much")
    monkeypatch.setenv("SPOOL_DRAIN", "perhaps")
    said = invoke("check", code=2).stdout
    assert "SPOOL_MAX_BYTES=much: must be a size" in said
    assert "SPOOL_DRAIN=perhaps: must be on or off" in said
    assert f"{path} is not there yet" in said
    assert "no receiver is asked while the settings are wrong" in said
    assert not langfuse.requests


def test_a_secret_does_not_go_elsewhere_where_the_host_is_mistyped(
    langfuse: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANGFUSE_OTEL_HOST", "ftp://typo")
    assert "no receiver" in findings(code=2)["export"]["words"]
    assert not langfuse.requests


def test_a_path_that_cannot_be_is_said_beside_all_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPOOL_PATH", "/spool\n.db")
    found = findings(code=2)
    assert "path" not in found
    assert found["opentelemetry"]["ok"]


def test_a_host_that_nobody_listens_at_is_asked_once_for_all_its_routes(
    store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    host = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("LANGFUSE_HOST", host)
    secrets = tmp_path / "secrets"
    secrets.write_text(f"pk-lf-2: sk-lf-2 {host}\n")
    secrets.chmod(0o600)
    monkeypatch.setenv("SPOOL_CREDENTIALS_FILE", str(secrets))
    found = findings(code=1)
    assert "nobody listens at" in found["connection"]["words"]
    assert found["connection"]["remedy"].startswith("start the server")
    assert found["export"]["words"] == "pk-lf-2 is not tried: see above"


def test_each_route_whose_secret_is_known_is_asked_where_it_would_be_sent(
    store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, target: Target
) -> None:
    with StandIn(keys={"pk-lf-2": "sk-lf-2"}) as second:
        secrets = tmp_path / "secrets"
        secrets.write_text(f"pk-lf-2: sk-lf-2 {second.url}\npk-lf-3: sk-lf-3 {second.url}\n")
        secrets.chmod(0o600)
        monkeypatch.setenv("SPOOL_CREDENTIALS_FILE", str(secrets))
        said = invoke("check", code=1).stdout
        assert "takes spans of pk-lf-test (200)" in said
        assert f"{second.endpoint} takes spans of pk-lf-2 (200)" in said
        assert (
            f"!   export         {second.endpoint}, pk-lf-3: the receiver refuses the key" in said
        )
        assert [request.status for request in second.requests] == [200, 401]


def test_a_spool_that_cannot_be_read_is_said(path: Path, filled: Store, langfuse: StandIn) -> None:
    with path.open("r+b") as file:
        file.truncate(8192)
    found = findings(code=1)
    assert "SQLite says" in found["spool"]["words"]
    assert found["export"]["ok"]


def test_a_server_that_answers_nothing_is_waited_for_once(
    langfuse: StandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    secrets = tmp_path / "secrets"
    secrets.write_text("pk-lf-2: sk-lf-2\n")
    secrets.chmod(0o600)
    monkeypatch.setenv("SPOOL_CREDENTIALS_FILE", str(secrets))
    monkeypatch.setenv("SPOOL_TIMEOUT_SECONDS", "0.3")
    langfuse.behave(standin.mute())
    said = invoke("check", code=1).stdout
    assert "no complete answer within 0.3 s" in said
    assert "–   export         pk-lf-2 is not tried: see above" in said  # noqa: RUF001 - a dash
    assert len(langfuse.requests) == 1


def test_a_path_that_is_refused_is_said_once(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"no spool" * 1000)
    found = findings(code=1)
    assert found["path"]["remedy"] == "set SPOOL_PATH to another file"
    assert "spool" not in found


def test_a_drainer_that_works_is_named(langfuse: StandIn) -> None:
    with shut_down(SpoolSpanExporter()) as exporter:
        exporter.export([span("s")])
        langfuse.wait_for(lambda server: server.accepted == 1)
        assert exporter.force_flush(60_000)
        found = findings()
    said = f"an application, pid {os.getpid()}, drains, with secrets of pk-lf-test"
    assert found["drainer"]["words"] == said
