from __future__ import annotations

import threading

import pytest

import standin
from drains import Clock, drainer_of
from spans import batch
from spool.settings.settings import Settings
from spool.settings.target import Target
from spool.store.store import Store
from standin import StandIn
from terminals import on_terminal
from users import invoke

pytestmark = pytest.mark.once


@pytest.fixture
def theirs(store: Store, langfuse: StandIn) -> Target:
    """Let a span of another's route wait."""
    theirs = Target.langfuse("pk-lf-theirs", "sk-lf-theirs", langfuse.url)
    store.append(theirs, batch("theirs"), now=1.0)
    store.close()
    return theirs


def test_adopt_says_what_it_does_and_gives_a_backlog_to_the_current_credentials(
    theirs: Target, langfuse: StandIn
) -> None:
    will_be, done = invoke("adopt", theirs.route, "--yes").stdout.splitlines()
    assert will_be == (
        f"1 span of pk-lf-theirs will go to pk-lf-test at {langfuse.endpoint}, as if made with its "
        "key"
    )
    assert done == "1 span of pk-lf-theirs now waits for pk-lf-test"
    invoke("drain")
    assert langfuse.names()["theirs"] == 1


def test_adopt_moves_nothing_that_nobody_has_agreed_to(
    theirs: Target, store: Store, langfuse: StandIn
) -> None:
    assert "nothing was done" in invoke("adopt", theirs.route, "--dry-run").stdout
    assert "give --yes" in invoke("adopt", theirs.route, code=2).stderr
    assert "Go on? [y/N]" in on_terminal("adopt", theirs.route, answer="n\n", code=1)
    (route,) = store.routes()
    assert (route.name, route.pending_spans) == ("pk-lf-theirs", 1)
    assert "now waits for pk-lf-test" in on_terminal("adopt", theirs.route, answer="y\n")


def test_adopt_names_the_routes_there_are(filled: Store, theirs: Target) -> None:
    said = invoke("adopt", "pk-lf-their", "--yes", code=2).stderr
    assert said == (
        "spool: no route is called pk-lf-their; there are: pk-lf-theirs; did you mean "
        "pk-lf-theirs?\n"
    )
    said = invoke("adopt", "pk-lf-test", "--yes", code=2).stderr
    assert "pk-lf-test is the route of your own credentials" in said


def test_what_is_adopted_while_another_process_sends_it_arrives_once(
    theirs: Target, other: Store, settings: Settings, langfuse: StandIn
) -> None:
    is_asked, may_answer = threading.Event(), threading.Event()
    langfuse.keys["pk-lf-theirs"] = "sk-lf-theirs"

    def hold(exchange: standin.Exchange) -> None:
        exchange.read()
        is_asked.set()
        may_answer.wait(60)
        exchange.answer(exchange.judge())

    langfuse.behave(hold)
    sender = threading.Thread(target=drainer_of(other, settings, theirs, Clock()).send_due)
    sender.start()
    assert is_asked.wait(60)
    threading.Timer(0.1, may_answer.set).start()
    assert "0 spans of pk-lf-theirs now wait" in invoke("adopt", theirs.route, "--yes").stdout
    sender.join(60)
    assert langfuse.names() == {"theirs": 1}
    assert other.ledger().delivered == 1
