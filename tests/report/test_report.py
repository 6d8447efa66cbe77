from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest

from made_reports import NOW, WELL, report
from spans import batch
from spool.delivery.drainer import Drainer
from spool.delivery.route_state import RouteState
from spool.journal import directory, reader
from spool.report.report import Report
from spool.settings.settings import Settings
from spool.settings.target import Target
from spool.store import operations, route_waits
from spool.store.records import Route, Trouble
from spool.store.store import Store
from spool.system.spool_files import beside

pytestmark = pytest.mark.once


def waiting(since: float, *, delivered: float | None) -> Route:
    last_success_at = None if delivered is None else NOW - delivered
    return replace(
        WELL,
        name="pk-lf-b",
        pending_spans=1,
        oldest_at=NOW - since,
        last_success_at=last_success_at,
    )


def test_where_nothing_is_wrong_there_is_no_concern() -> None:
    assert report(WELL, waiting(30, delivered=40)).concerns(3600) == []


@pytest.mark.parametrize("delivered", [None, 4000])
def test_a_route_that_is_stuck_shows_though_another_is_delivered(delivered: float | None) -> None:
    (concern,) = report(WELL, waiting(4000, delivered=delivered)).concerns(3600)
    assert concern.code == "stuck"
    assert concern.words.startswith("route pk-lf-b: nothing was delivered for 1 h")


def test_an_old_backlog_that_is_being_delivered_is_no_concern() -> None:
    assert report(waiting(4000, delivered=1)).concerns(3600) == []


def test_a_disk_that_is_almost_full_is_a_concern() -> None:
    (concern,) = replace(report(WELL), disk="almost-full").concerns()
    assert concern.code == "disk-full"


def test_a_journal_that_cannot_be_read_is_named_and_the_rest_is_reported(
    store: Store, settings: Settings, target: Target, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.open()
    store.accept(target, batch("a"), NOW)
    (bad,) = directory.paths(path)

    def unreadable(*_: int, **__: bool) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(reader, "read", unreadable)
    routes = Drainer(store, settings).routes
    concerns = Report.of(store, routes, 1 << 30, NOW).concerns(3600)
    assert any(f"{bad.name}: Permission denied" in concern.words for concern in concerns)


@pytest.mark.parametrize("which", ["evicted_at", "refused_at", "damaged_at"])
@pytest.mark.parametrize(("ago", "count"), [(-100, 1), (0, 1), (86_000, 1), (87_000, 0)])
def test_what_happened_within_a_day_is_a_concern(which: str, ago: float, count: int) -> None:
    trouble = replace(Trouble(None, None, None), **{which: NOW - ago})
    assert len(report(WELL, trouble=trouble).concerns(3600)) == count


def test_what_stands_in_place_of_the_spools_files_is_named_and_waited_for_by_nobody(
    store: Store, settings: Settings, path: Path
) -> None:
    store.append(settings.require_target(), batch("a"), now=NOW)
    store.close()
    for suffix in (".turn", ".drainer", ".inbox-1-0123456789ab"):
        beside(path, suffix).unlink(missing_ok=True)
        os.mkfifo(beside(path, suffix))
    beside(path, ".inbox-2-0123456789ab").symlink_to(path)
    found = Report.of(store, Drainer(store, settings).routes, 1 << 30, now=NOW)
    assert (found.is_running, found.ledger.pending) == (False, 1)
    (concern,) = [said for said in found.concerns() if said.code == "stranger"]
    names = ", ".join(f"{path.name}{suffix}" for suffix in STRANGERS[:3])
    assert concern.words == f"passed over, as none of the spool's: 4 files: {names}, …"
    for suffix in STRANGERS[1:]:
        beside(path, suffix).unlink()
    found = Report.of(store, Drainer(store, settings).routes, 1 << 30, now=NOW)
    (concern,) = [said for said in found.concerns() if said.code == "stranger"]
    assert concern.words.endswith(f": {path}{STRANGERS[0]}: it is not a regular file")


STRANGERS = (".drainer", ".inbox-1-0123456789ab", ".inbox-2-0123456789ab", ".turn")


def test_a_held_route_whose_spans_were_adopted_is_no_concern_any_more(
    store: Store, settings: Settings, target: Target
) -> None:
    old = Target.langfuse("pk-lf-old", "sk-lf-old", "https://langfuse.example")
    store.append(old, batch("stranded"), NOW)
    (route,) = store.routes()
    route_waits.hold(
        store.database, route, old.fingerprint(store.salt()), 330, NOW, "401 no such key"
    )
    drainer = Drainer(store, settings)
    drainer.routes.add(target)
    before = Report.of(store, drainer.routes, 1 << 30, NOW)
    assert before.states == (RouteState.HELD,)
    assert before.concerns()[0].words.startswith("route pk-lf-old is held")
    operations.adopt(store, route, target, sending=2)
    after = Report.of(store, drainer.routes, 1 << 30, NOW)
    assert after.states == (RouteState.OK, RouteState.OK)
    assert not any("pk-lf-old" in concern.words for concern in after.concerns())


def test_what_waits_in_a_journal_is_in_the_report(store: Store, settings: Settings) -> None:
    known, new = settings.require_target(), Target.otlp("https://new.example/v1/traces", {})
    store.append(known, batch("a", "b"), now=100.0)
    store.accept(known, batch("c"), now=50.0)
    store.accept(new, batch("d"), now=200.0)
    said = Report.of(store, Drainer(store, settings).routes, 1 << 30, now=210.0).as_json()
    assert (said["pending"]["spans"], said["pending"]["batches"]) == (4, 3)
    assert said["pending"]["oldest_seconds"] == 160.0
    assert (said["ledger"]["accepted"], said["ledger"]["pending"]) == (4, 4)
    spans = {route["route"]: route["pending_spans"] for route in said["routes"]}
    assert spans == {known.route: 3, new.route: 1}
    assert store.pending()[1:] == [], "nothing was moved"


def test_whose_secret_is_missing_is_not_searched_for_among_all_routes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    routes = [replace(WELL, name=f"pk-lf-{n}", pending_spans=1) for n in range(100)]
    found = report(*routes, state=RouteState.NO_SECRET, missing="its secret is not here; bring it")
    compared: list[object] = []
    monkeypatch.setattr(Route, "__eq__", lambda self, _: compared.append(self))
    assert len(found.concerns()) == 100
    assert compared == []
