from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from spans import batch
from spool.commands.checks.secrets import known_targets
from spool.delivery.client import Client
from spool.delivery.routes import Routes
from spool.settings.settings import Settings
from spool.settings.target import Target
from spool.store.drainers import SeenDrainer
from spool.store.store import Store
from targets import MINE, OTHERS

pytestmark = pytest.mark.once


def find(
    settings: Settings, store: Store, seen: Sequence[SeenDrainer] = ()
) -> tuple[list[Target], list[str]]:
    routes = Routes(store, settings, Client(settings, time.time), time.time)
    if settings.target is not None:
        routes.add(settings.target)
    known = store.routes() if store.exists() else []
    targets, findings = known_targets(settings, routes, known, seen)
    return targets, [str(finding) for finding in findings]


def test_a_target_goes_where_its_spans_went_while_nobody_names_a_host(
    settings: Settings, store: Store
) -> None:
    store.register(MINE)
    unnamed = Target.langfuse("pk-lf-mine", "sk-lf-mine")
    (target,), said = find(replace(settings, target=unnamed), store)
    assert target.endpoint == MINE.endpoint
    assert "no host is named" in said[0]


def test_a_missing_secret_is_wrong_unless_who_drains_has_it(
    settings: Settings, store: Store
) -> None:
    store.append(OTHERS, batch("s"), now=1.0)
    mine = replace(settings, target=MINE)
    targets, (line,) = find(mine, store)
    assert targets == [MINE]
    assert line.startswith("!")
    assert "pk-lf-others, of which 1 span wait" in line
    has_another = SeenDrainer(6, "run", routes=frozenset({"pk-lf-mine"}))
    assert find(mine, store, [has_another])[1] == [line]
    has_it = SeenDrainer(7, "run", routes=frozenset({"pk-lf-others"}))
    _, (line,) = find(mine, store, [has_another, has_it])
    assert not line.startswith(("ok", "!"))
    assert line.endswith("pid 7 can send it")


def test_without_any_secret_that_is_wrong_unless_who_drains_has_one(
    settings: Settings, store: Store
) -> None:
    nothing = replace(settings, target=None)
    assert find(nothing, store)[1][-1].startswith("!")
    seen = [SeenDrainer(7, "run", routes=frozenset({"pk-lf-mine"}))]
    assert not find(nothing, store, seen)[1][-1].startswith(("ok", "!"))


def test_a_credentials_file_that_others_can_read_is_wrong(
    settings: Settings, store: Store, tmp_path: Path
) -> None:
    file = tmp_path / "credentials"
    file.write_text("pk-lf-2: sk-lf-2 https://langfuse.example\n")
    file.chmod(0o644)
    targets, said = find(replace(settings, target=None, credentials_file=file), store)
    assert not targets
    assert "others can read it; chmod 600 it" in said[0]


def test_a_line_without_a_host_where_none_is_named_waits(
    settings: Settings, store: Store, tmp_path: Path
) -> None:
    file = tmp_path / "credentials"
    file.write_text("pk-lf-2: sk-lf-2\npk-lf-3: sk-lf-3 https://langfuse.example\n")
    file.chmod(0o600)
    targets, said = find(replace(settings, target=None, credentials_file=file), store)
    assert [target.route for target in targets] == ["pk-lf-3"]
    assert said[0].endswith(f"2 routes in {file}")
    assert "pk-lf-2: SPOOL_CREDENTIALS_FILE has its secret, but nothing names the host" in said[1]
    assert not any("sk-lf" in line for line in said)
