from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from reports import hold
from spans import batch
from spool.commands.listen import answers
from spool.commands.listen.answers import Answers
from spool.commands.open_spool import OpenSpool
from spool.report.page import CSP
from spool.report.report import Report
from spool.settings.target import Target
from spool.store.store import Store

pytestmark = pytest.mark.once


@pytest.fixture
def ask(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Answers]:
    monkeypatch.setattr(answers, "_SECONDS", -1.0)  # each answer is a new one
    spool = OpenSpool(str(path))
    spool.store.open()
    yield Answers(spool)
    spool.store.close()


def test_health_is_ok_where_all_is_well(ask: Answers) -> None:
    assert (ask("/healthz", "*/*").status, ask("/healthz", "*/*").body) == (200, "ok\n")
    assert json.loads(ask("/healthz", "application/json").body) == {"ok": True, "concerns": []}


def test_health_says_what_needs_a_person(ask: Answers, store: Store, target: Target) -> None:
    store.append(target, batch("a"), 1_700_000_000.0)
    hold(store, target, "401 no such\nkey", 1_700_000_000.0)
    answer = ask("/healthz", "text/html")
    assert (answer.status, answer.content_type) == (503, "text/plain; charset=utf-8")
    assert "401 no such\\nkey" in answer.body
    answer = ask("/healthz", "text/html, application/json;q=0.9")
    assert (answer.status, answer.content_type) == (503, "application/json")
    said = json.loads(answer.body)
    assert said["ok"] is False
    assert [list(one) for one in said["concerns"]] == [["code", "words", "remedy"]] * 2
    assert [one["code"] for one in said["concerns"]] == ["held", "nobody-drains"]


def test_the_page_may_load_nothing_and_comes_again(ask: Answers) -> None:
    answer = ask("/", "*/*")
    assert answer.body.startswith("<!doctype html>")
    assert dict(answer.more) == {
        "Refresh": "30", "Content-Security-Policy": f"{CSP}; frame-ancestors 'none'",
    }  # fmt: skip


def test_metrics_are_those_of_the_report(ask: Answers) -> None:
    pytest.importorskip("prometheus_client")
    answer = ask("/metrics", "*/*")
    assert (answer.status, answer.content_type) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert "\nlangfuse_spool_exists 1.0\n" in answer.body


def test_without_the_extra_only_metrics_are_missing(
    ask: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    answer = ask("/metrics", "*/*")
    assert answer.status == 501
    assert "pip install prometheus_client" in answer.body
    assert ask("/healthz", "*/*").status == 200
    assert ask("/", "*/*").status == 200


@pytest.mark.parametrize("path_", ["", "/healthz/", "/index.html", "//", "/../etc/passwd"])
def test_nothing_else_is_here(ask: Answers, path_: str) -> None:
    assert ask(path_, "*/*").status == 404


@pytest.mark.parametrize("path_", ["/", "/healthz", "/metrics"])
def test_a_spool_that_cannot_be_read_is_not_well_and_says_why(
    ask: Answers, path: Path, path_: str
) -> None:
    ask("/", "*/*")
    path.unlink()
    path.symlink_to("/elsewhere")
    answer = ask(path_, "*/*")
    assert answer.status == 503
    assert str(path) in answer.body
    said = json.loads(ask("/healthz", "application/json").body)
    assert [one["code"] for one in said["concerns"]] == ["unusable"]


def test_a_defect_is_logged_and_the_next_is_answered(
    ask: Answers, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(Report, "of", lambda *_: 1 / 0)
        assert ask("/healthz", "*/*").status == 500
    assert "a defect in what is answered to /healthz" in caplog.text
    assert ask("/healthz", "*/*").status == 200


def test_many_who_ask_are_answered_by_one_reading(
    ask: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "_SECONDS", 3600.0)
    read, of = [], Report.of

    def reading(*given: object) -> Report:
        read.append(given)
        return of(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(Report, "of", reading)
    assert len({ask("/healthz", "*/*").body for _ in range(100)}) == len(read) == 1
    ask("/healthz", "application/json")
    assert len(read) == 2, "what is accepted makes another answer"
