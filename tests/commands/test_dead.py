from __future__ import annotations

import json
from dataclasses import replace

import pytest
from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Link, Status, StatusCode

import standin
from spans import batch, span
from spool.otlp.batch import Batch, encode
from spool.settings.target import Target
from spool.store.store import Store
from standin import StandIn
from terminals import on_terminal
from users import invoke, spool

pytestmark = pytest.mark.once


def bury(store: Store, target: Target, dead: Batch, reason: str = "413 too large") -> None:
    """Make a dead letter of a batch."""
    store.append(target, dead, now=1_700_000_000.0)
    (route,) = [one for one in store.routes() if one.name == target.route]
    take = store.oldest(route.id, max_bytes=1 << 40, max_spans=1 << 40)
    assert take is not None
    store.settle(take, now=1_700_000_001.0, dead=dead.spans, reason=reason)


@pytest.fixture
def letters(store: Store, target: Target, langfuse: StandIn) -> Store:
    """Bury spans of two routes, for two reasons."""
    for number in range(3):
        bury(store, target, batch(f"s{number}"))
    bury(store, target, batch("a", "b"), "400 cannot take it")
    bury(store, target, batch("s4"))
    bury(store, Target.langfuse("pk-lf-theirs", "sk", langfuse.url), batch("t"))
    store.close()
    return store


def ids(*arguments: str) -> list[int]:
    return [one["id"] for one in json.loads(invoke("dead", "list", "--json", *arguments).stdout)]


def test_dead_letters_can_be_listed_shown_retried_and_purged(
    filled: Store, store: Store, langfuse: StandIn
) -> None:
    langfuse.behave(standin.reject_span("s3"))
    spool("drain", code=1)
    assert "400 cannot take the span s3" in invoke("dead", "list").stdout
    assert "span s3" in invoke("dead", "show", "1").stdout
    assert "1 span is pending again" in invoke("dead", "retry", "1").stdout
    # Alone it is no worse than the server.
    assert "400 cannot take the span s3" in spool("drain", code=1).stderr
    store.append(Target.langfuse("pk-lf-test", "sk-lf-test", langfuse.url), batch("s10"), now=1.0)
    store.close()
    spool("drain", code=1)
    assert "1 span was purged" in invoke("dead", "purge", "--all", "--yes").stdout
    ledger = store.ledger()
    assert (ledger.delivered, ledger.purged, ledger.dead, ledger.pending) == (10, 1, 0, 0)


def test_a_revived_dead_letter_is_delivered_when_the_server_takes_it(
    filled: Store, langfuse: StandIn
) -> None:
    langfuse.behave(standin.reject_span("s3"))
    spool("drain", code=1)
    langfuse.behave(None)
    invoke("dead", "retry", "--all")
    spool("drain")
    assert langfuse.accepted == 10


def test_what_stands_together_is_one_line_unless_each_is_wanted(letters: Store) -> None:
    header, *lines = invoke("dead", "list").stdout.splitlines()
    assert header.split() == ["IDS", "SPANS", "DIED", "ROUTE", "REASON"]
    assert [line.split("  ")[0] for line in lines] == ["1-3", "4", "5", "6"]
    assert "3 spans" in lines[0]
    assert lines[0].endswith("pk-lf-test    413 too large")
    assert len(invoke("dead", "list", "-v").stdout.splitlines()) == 7
    first, *others = json.loads(invoke("dead", "list", "--json").stdout)
    assert set(first) == {"id", "route", "reason", "spans", "bytes", "died", "accepted"}
    assert len(others) == 5


def test_those_that_are_meant_are_listed(letters: Store) -> None:
    assert ids("--route", "pk-lf-theirs") == [6]
    assert ids("--reason", "CANNOT") == ids("--name", "b") == [4]
    assert ids("--reason", "413", "--name", "s") == [1, 2, 3, 5]
    assert ids("--trace", "0" * 32) == []
    said = invoke("dead", "list", "--route", "pk-lf-nobody", code=2).stderr
    assert "no route is called pk-lf-nobody; there are: pk-lf-test, pk-lf-theirs" in said


@pytest.mark.parametrize("command", ["retry", "purge"])
def test_dead_letters_are_named_or_asked_for_or_all_are_meant(letters: Store, command: str) -> None:
    for wrong in ([], ["1", "--all"], ["--all", "--name", "x"], ["1", "--name", "x"]):
        said = invoke("dead", command, *wrong, code=2).stderr
        assert "name the IDs, or give filters, or give --all" in said
    assert "no dead letter has the ID 7" in invoke("dead", command, "7", code=2).stderr
    said = invoke("dead", command, "--name", "nobody's").stdout
    assert said == "there are no such dead letters\n"


def test_what_is_purged_is_said_first_and_asked(letters: Store) -> None:
    said = invoke("dead", "purge", "--dry-run", "1", "2").stdout
    assert said == (
        "2 spans of route pk-lf-test (413 too large) will be deleted for good\n"
        "nothing was done: --dry-run\n"
    )
    done = invoke("dead", "purge", "--all", code=2)
    assert done.stdout == (
        "7 spans of 2 routes, for 2 reasons (see `dead list`), will be deleted for good\n"
    )
    assert "nothing was done: nobody can be asked here, so give --yes" in done.stderr
    assert "nothing was done" in on_terminal("dead", "purge", "--all", answer="n\n", code=1)
    assert letters.ledger().dead == 7
    letters.close()
    assert "2 spans were purged" in on_terminal("dead", "purge", "4", answer="y\n")
    invoke("dead", "purge", "--route", "pk-lf-theirs", "--yes")
    assert ids() == [1, 2, 3, 5]


def test_what_is_retried_is_said_first_and_needs_no_answer(letters: Store) -> None:
    assert "nothing was done" in invoke("dead", "retry", "--all", "--dry-run").stdout
    said = invoke("dead", "retry", "--reason", "413").stdout
    assert said == (
        "5 spans of 2 routes, for 1 reason (see `dead list`), will be pending again\n"
        "5 spans are pending again\n"
    )
    assert ids() == [4]


def large() -> Batch:
    """Encode one span with all that a span can have."""
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("tests", "1.0")
    linked = span("linked").get_span_context()
    assert linked is not None
    made = tracer.start_span("large", links=[Link(linked)])
    made.set_attributes({"long": "x" * 500, "evil": "\x1b[2J", "list": [1, 2], "yes": True})
    made.add_event("came", {"n": 1.5})
    made.set_status(Status(StatusCode.ERROR, "no good"))
    made.end()
    return encode([made])  # type: ignore[list-item]  # an SDK's span is readable


def test_show_is_readable(store: Store, target: Target) -> None:
    bury(store, target, large())
    store.close()
    said = invoke("dead", "show", "1").stdout
    (told,) = json.loads(invoke("dead", "show", "1", "--json").stdout)["resourceSpans"]
    (shown,) = told["scopeSpans"][0]["spans"]
    for words in (
        "dead letter 1: 1 span", "reason   413 too large", "span large", shown["traceId"],
        shown["spanId"], "status   error  no good", "scope    tests 1.0", "event came",
        f"link     {shown['links'][0]['traceId']}", "list = [1, 2]", "yes = true", "n = 1.5",
        "evil = \\x1b[2J", "(500 bytes in all; --full shows it)", "service.name = ",
    ):  # fmt: skip
        assert words in said, said
    assert "x" * 201 not in said
    assert "x" * 500 in invoke("dead", "show", "1", "--full").stdout


def test_show_gives_otlp_json(store: Store, target: Target) -> None:
    dead = large()
    bury(store, target, dead)
    store.close()
    said = json.loads(invoke("dead", "show", "1", "--json").stdout)
    (shown,) = said["resourceSpans"][0]["scopeSpans"][0]["spans"]
    assert len(shown["traceId"]) == 32
    assert len(shown["spanId"]) == 16
    assert isinstance(shown["startTimeUnixNano"], str)
    assert shown["status"] == {"message": "no good", "code": 2}
    # What a receiver of OTLP JSON reads in it is the span that it was.
    (read,) = standin.parse_json(json.dumps(said).encode())
    request = ExportTraceServiceRequest.FromString(dead.payload)
    assert MessageToDict(read) == MessageToDict(request.resource_spans[0])


def test_a_dead_letter_that_is_damaged_is_shown_as_far_as_it_can_be(
    store: Store, target: Target
) -> None:
    bury(store, target, replace(batch("x"), payload=b"\x0a\xff"), "a stored payload is damaged")
    store.close()
    said = invoke("dead", "show", "1").stdout
    assert "a stored payload is damaged" in said
    assert "its spans cannot be shown: a stored payload is no OTLP request" in said
    assert "no OTLP request" in invoke("dead", "show", "1", "--json", code=2).stderr
    assert ids("--name", "x") == []


@pytest.mark.parametrize("option", ["--reason", "--name", "--route", "--trace"])
def test_an_empty_filter_chooses_nothing(letters: Store, option: str) -> None:
    invoke("dead", "purge", option, "", "--yes", code=2)
    assert letters.ledger().dead == 7


def test_an_id_that_is_named_twice_counts_once(letters: Store) -> None:
    said = invoke("dead", "purge", "--dry-run", "1", "1", "1").stdout
    assert said.startswith("1 span of route pk-lf-test")
