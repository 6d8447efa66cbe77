from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import pytest

import browsers
from reports import hold, report_of
from spans import batch
from spool.commands.listen.server import Answer, HealthServer
from spool.report.page import CSP, page_of
from spool.settings.settings import Settings
from spool.store.history import Event, Hour
from spool.store.store import Store

pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(browsers.browser() is None, reason="no Chromium on this machine"),
]

NOW: Final = time.time()
LONG: Final = "<script>alert(1)</script>" + "x" * 300
PHONE, DESK = 390, 1280


@pytest.fixture
def page(store: Store, settings: Settings) -> str:
    """Show a spool in trouble, whose names and words are long and hostile."""
    store.append(settings.require_target(), batch("a"), NOW - 7200)
    hold(store, settings.require_target(), LONG, NOW)
    report = report_of(store, settings, NOW)
    report = replace(report, routes=(replace(report.routes[0], name=LONG, endpoint=LONG),))
    hours = [
        Hour(NOW - 3600 * n - 3600, NOW - 3600 * n, 0, 10**9 * (n % 3), 10**9 * (n % 7), 0)
        for n in range(720, -1, -1)
    ]
    events = [
        Event(1, "down", "a", NOW - 200_000, NOW - 100_000, 1, 7, "503"),
        Event(2, "held", LONG, NOW - 7200, None, 1, 10**9, LONG),
    ]
    return page_of(report, events, hours)


@pytest.fixture
def url(page: str) -> Iterator[str]:
    """Serve it as `run --listen` does."""
    more = (("Content-Security-Policy", f"{CSP}; frame-ancestors 'none'"), ("Refresh", "30"))
    served = HealthServer(":0", lambda *_: Answer(200, page, "text/html; charset=utf-8", more))
    served.start()
    yield served.url
    served.stop(60)


def test_it_is_as_wide_as_the_window_and_can_be_read(page: str) -> None:
    for is_dark, ground in [(False, "rgb(251, 251, 249)"), (True, "rgb(21, 24, 27)")]:
        found = browsers.measure(page, [320, PHONE, DESK], is_dark=is_dark)
        assert [one["width"] for one in found] == [320, PHONE, DESK]
        for one in found:
            assert (one["scroll"], one["out"]) == (one["width"], [])
            assert one["smallest"] >= 10, "pixels, of the lines of text"
            assert one["ground"] == ground
        assert [one["columns"] for one in found] == [1, 1, 3]


@pytest.mark.parametrize("width", [PHONE, DESK])
def test_the_browser_has_nothing_to_complain_of(url: str, width: int) -> None:
    seen = browsers.look(url, width, 900)
    assert (seen.width, seen.height) == (width, 900)
    assert len(seen.image) > 20_000, "something is drawn"
    assert seen.complaints == []


def test_a_script_that_got_in_would_not_run(page: str) -> None:
    hostile = page.replace("</main>", "<script>document.title = 1</script></main>")
    served = HealthServer(":0", lambda *_: Answer(200, hostile, "text/html; charset=utf-8"))
    served.start()
    (complaint,) = browsers.look(served.url, DESK, 900).complaints
    served.stop(60)
    assert "Content Security Policy" in complaint
