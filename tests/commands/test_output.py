from __future__ import annotations

import json

import pytest

from spans import batch
from spool.settings.target import Target
from spool.store import route_waits
from spool.store.store import Store
from standin import StandIn
from users import spool

pytestmark = pytest.mark.once

EVIL = "\x1b]0;owned\x07\x9b2J\r\nline two \u202e"


def test_nothing_that_spans_keys_and_servers_say_reaches_the_terminal_raw(
    store: Store, target: Target, langfuse: StandIn
) -> None:
    theirs = Target.langfuse(f"pk{EVIL}", "sk-lf-theirs", langfuse.url)
    store.append(theirs, batch(f"span{EVIL}"), now=1_700_000_000.0)
    store.append(target, batch(f"dead{EVIL}"), now=1_700_000_000.0)
    take = store.oldest(2, max_bytes=1 << 20, max_spans=8)
    assert take is not None
    store.settle(take, now=1.0, dead=1, reason=f"400{EVIL}")
    route_waits.wait(store.database, store.routes()[0], 3600, now=1e12, reason=f"503{EVIL}")
    store.close()
    commands = [
        ["status"], ["peek"], ["dead", "list"], ["dead", "show", "1"], ["adopt", f"no{EVIL}"],
        ["drain"], ["adopt", "--yes", theirs.route], ["dead", "retry", "1"],
    ]  # fmt: skip
    said = ""
    for command in commands:
        code = {"status": 1, "drain": 1, f"no{EVIL}": 2}.get(command[-1], 0)
        done = spool(*command, code=code)
        said += done.stdout + done.stderr
    assert {c for c in said if not c.isprintable()} == {"\n"}
    assert not any(line.startswith("line two") for line in said.splitlines())
    assert r"span\x1b]0;owned\x07\x9b2J\r\nline two \u202e" in said


def test_json_tells_everything_as_it_is(store: Store, langfuse: StandIn) -> None:
    theirs = Target.langfuse(f"pk{EVIL}", "sk-lf-theirs", langfuse.url)
    store.append(theirs, batch(f"span{EVIL}"), now=1_700_000_000.0)
    store.close()
    (shown,) = json.loads(spool("peek", "--json").stdout)
    assert shown["name"] == f"span{EVIL}"
    status = spool("status", "--json", code=1).stdout
    assert json.loads(status)["routes"][0]["route"] == theirs.route
    assert {c for c in status if not c.isprintable()} == {"\n"}
