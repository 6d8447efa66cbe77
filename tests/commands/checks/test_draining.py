from __future__ import annotations

import pytest

from spool.commands.checks.draining import who_drains
from spool.store.drainers import SeenDrainer

pytestmark = pytest.mark.once


def said(pending: int, *seen: SeenDrainer) -> list[str]:
    return [str(finding) for finding in who_drains(pending, seen)]


def test_nobody_is_wrong_only_while_something_waits() -> None:
    assert not said(0)[1].startswith(("ok", "!"))
    assert "nobody drains, and 1 span waits; start the application" in said(1)[1]
    assert said(1)[1].startswith("!")


def test_who_drains_is_told_with_the_routes_that_it_can_send() -> None:
    routes = frozenset({"pk-lf-1", "pk-lf-2", "pk-lf-3", "pk-lf-4"})
    (line,) = said(2, SeenDrainer(7, "run", routes=routes))[1:]
    assert "`run`, pid 7, drains, with secrets of pk-lf-1, pk-lf-2, pk-lf-3 and 1 more" in line


def test_one_that_does_not_move_is_wrong() -> None:
    (line,) = said(2, SeenDrainer(7, "application", is_stopped=True))[1:]
    assert line.startswith("!")
    assert "an application, pid 7, drains, but does not move; `kill -CONT 7`; where that" in line
    (line,) = said(2, SeenDrainer(7, "application", is_stopped=True, is_here=False))[1:]
    assert "pid 7 of another container, drains, but does not move; resume or restart" in line
