"""The Langfuse SDK's programs end, are killed, fork, and serve two projects; nothing is lost.

Its BatchSpanProcessor is in front of the exporter: what that holds in memory is nobody's.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import langfuse_scenarios
from langfuse_scenarios import needs_langfuse, run
from programs import line_of, talking
from projects import OWN_KEY, PROJECTS, TEAM_KEY
from standin import PATH, StandIn, parse, spans_of
from users import spool, status
from waits import wait_until

pytestmark = needs_langfuse


def pending() -> int:
    spans: int = status()["pending"]["spans"]
    return spans


def killed(scenario: str, spooled: int = 0) -> None:
    """Run a program until it says that it waits, and so many spans are on disk; kill it."""
    with talking(sys.executable, langfuse_scenarios.__file__, scenario, "spool") as program:
        assert line_of(program) == scenario
        wait_until(lambda: pending() >= spooled, every=0.2)
        program.kill()


def test_what_was_flushed_survives_an_outage_and_a_kill(
    environment: None, langfuse: StandIn
) -> None:
    langfuse.stop()
    killed("flushed")
    assert pending() == 5
    langfuse.start()
    spool("drain")
    assert langfuse.names() == {str(number): 1 for number in range(5)}


def test_with_a_batch_of_one_spans_go_to_disk_without_a_flush(
    environment: None, langfuse: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not flush_at=1, which 4.2 to 4.7 do not heed.
    monkeypatch.setenv("LANGFUSE_FLUSH_AT", "1")
    monkeypatch.setenv("LANGFUSE_FLUSH_INTERVAL", "3600")
    langfuse.stop()
    killed("ended", spooled=5)
    assert pending() == 5


def test_what_the_sdk_holds_is_lost_at_a_kill(
    environment: None, langfuse: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANGFUSE_FLUSH_INTERVAL", "3600")
    killed("ended")
    assert pending() == 0
    assert langfuse.requests == []


def test_a_short_script_delivers_before_it_ends(environment: None, langfuse: StandIn) -> None:
    run("short")
    assert langfuse.names() == {"short": 1}


def test_a_short_script_in_an_outage_leaves_its_spans_on_disk(
    environment: None, langfuse: StandIn
) -> None:
    langfuse.stop()
    run("short")
    langfuse.start()
    spool("drain")
    assert langfuse.names() == {"short": 1}


def test_both_sides_of_a_fork_spool(environment: None, langfuse: StandIn) -> None:
    run("forked")
    spool("drain")
    names = ("before", "after in the parent", "after in the child")
    assert langfuse.names() == dict.fromkeys(names, 1)


def test_two_projects_in_one_process_get_their_own_spans_each(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPOOL_PATH", str(path))
    with StandIn(PROJECTS) as langfuse:
        run("two_projects", HOST=langfuse.url.removeprefix("http://"))
        got = {
            (request.headers["authorization"], span.name)
            for request in langfuse.requests
            if request.path == PATH
            for span in spans_of(parse(request))
        }
    assert got == {(OWN_KEY, "of test"), (TEAM_KEY, "of team")}


def test_keys_that_only_the_sdk_was_given_are_missed_with_words_that_say_what_to_do(
    path: Path,
) -> None:
    with pytest.raises(AssertionError, match=r"KEY must be set .*SpoolSpanExporter\(endpoint="):
        run("short", SPOOL_PATH=str(path))


# What goes past any exporter


@pytest.mark.parametrize("scenario", ["media", "scored"])
def test_media_and_scores_of_an_outage_are_lost_and_the_span_is_not(
    environment: None, langfuse: StandIn, scenario: str
) -> None:
    langfuse.stop()
    run(scenario)
    langfuse.start()
    spool("drain")
    (span,) = langfuse.spans
    assert {request.path for request in langfuse.requests} == {PATH}
    said = {one.key: one.value.string_value for one in span.attributes}
    if scenario == "media":
        assert "@@@langfuseMedia:" in said["langfuse.observation.input"]
        assert "base64," not in said["langfuse.observation.input"]


@pytest.mark.parametrize(
    ("scenario", "path"), [("media", "/api/public/media"), ("scored", "/api/public/")]
)
def test_media_and_scores_go_to_the_api_by_themselves(
    environment: None, langfuse: StandIn, scenario: str, path: str
) -> None:
    run(scenario)
    paths = {request.path for request in langfuse.requests} - {PATH}
    assert any(one.startswith(path) for one in paths), paths
