from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from spans import batch
from spool.settings.target import Target
from spool.store.store import Store
from standin import StandIn
from users import invoke

pytestmark = pytest.mark.once


def names(*arguments: str) -> list[str]:
    return [one["name"] for one in json.loads(invoke("peek", "--json", *arguments).stdout)]


@pytest.fixture
def theirs(filled: Store, langfuse: StandIn) -> Target:
    """Let two spans of another's route wait behind those of the first, one in a journal."""
    theirs = Target.langfuse("pk-lf-theirs", "sk-lf-theirs", langfuse.url)
    filled.append(theirs, batch("Chat one"), now=1_700_000_000.0)
    filled.accept(theirs, batch("chat two"), now=1_700_000_000.0)
    filled.close()
    return theirs


def test_peek_shows_pending_spans_in_columns_and_leaves_them(filled: Store, store: Store) -> None:
    header, *lines = invoke("peek", "-n", "3").stdout.splitlines()
    assert re.split("  +", header) == ["TIME", "TRACE", "SPAN", "OWN SIZE", "ROUTE", "NAME"]
    assert [line.split()[-2:] for line in lines] == [["pk-lf-test", f"s{n}"] for n in range(3)]
    shown = json.loads(invoke("peek", "--json").stdout)
    assert len(shown) == 10
    assert set(shown[0]) == {"time", "route", "trace_id", "span_id", "name", "bytes"}
    assert len(shown[0]["trace_id"]) == 32
    assert store.ledger().pending == 10


def test_peek_shows_what_is_asked_for(filled: Store, theirs: Target) -> None:
    assert names("--route", theirs.route) == ["Chat one", "chat two"]
    assert names("--name", "CHAT") == ["Chat one", "chat two"]
    (one,) = json.loads(invoke("peek", "--json", "-n", "1", "--name", "two").stdout)
    assert names("--trace", one["trace_id"].upper()) == ["chat two"]
    assert names("--trace", "0" * 32) == []
    nothing = invoke("peek", "--name", "nothing of this")
    assert (nothing.stdout, nothing.stderr) == ("", "no such span waits\n")


def test_what_is_asked_for_wrongly_is_said(filled: Store, theirs: Target) -> None:
    said = invoke("peek", "--route", "pk-lf-their", code=2).stderr
    assert "no route is called pk-lf-their; there are: pk-lf-test, pk-lf-theirs" in said
    assert "did you mean pk-lf-theirs?" in said
    assert "32 hexadecimal digits" in invoke("peek", "--trace", "abc", code=2).stderr


def test_a_large_backlog_is_read_only_as_far_as_it_is_shown(
    filled: Store, theirs: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    pending = Store.pending

    def note(store: Store, *bounds: int) -> object:
        read.append(len(page := pending(store, *bounds)))
        return page

    monkeypatch.setattr(Store, "pending", note)
    assert names("-n", "1") == ["s0"]
    assert names("-n", "1", "--route", theirs.route) == ["Chat one"]
    assert read == [8, 1]


def test_a_payload_that_cannot_be_read_is_passed_over(filled: Store, target: Target) -> None:
    filled.append(target, replace(batch("x"), payload=b"\x0a\xff"), now=1.0)
    filled.append(target, batch("last"), now=1.0)
    filled.close()
    assert names("-n", "99")[-1] == "last"
