"""The README's commands, what `status` says, and the symptoms: the code says the same."""

from __future__ import annotations

import ast
import inspect
import json
import re
import signal
import subprocess
from pathlib import Path
from typing import Final

import pytest
import requests

import ports
import standin
from pages import README, ROOT, block, quoted, run, table
from sources import text_of, texts
from spans import batch
from spool.delivery.http.classification import Verdict, classify
from spool.delivery.http.response import Response
from spool.delivery.route_state import RouteState
from spool.report import concerns, sentences
from spool.settings.target import Target
from spool.store.store import Store
from standin import StandIn

pytestmark = pytest.mark.once


def test_each_command_of_the_readme_does_its_work(filled: Store, langfuse: StandIn) -> None:
    checked, told, happened, drained, peeked, listed, adopted, ran = block(
        "Commands", "sh"
    ).splitlines()
    one, rest = ["bash", "-c"], "1 span of pk-lf-old now waits for pk-lf-test\n"
    assert "nobody drains" in run(*one, checked, code=1).stdout
    assert "delivered 1 span" in run(*one, drained, code=1).stdout  # the other one's key is missing
    assert "drain" in run(*one, happened).stdout
    assert "no-secret" in run(*one, told, code=1).stdout
    assert "  old\n" in run(*one, peeked).stdout
    assert run(*one, listed).stdout == ""
    assert run(*one, adopted).stdout.endswith(rest)
    with subprocess.Popen(["bash", "-c", f"exec {ran}"], stderr=subprocess.PIPE) as sidecar:
        langfuse.wait_for(lambda server: server.accepted == 2)
        sidecar.send_signal(signal.SIGTERM)
        assert sidecar.wait(60) == 0
    run(*one, told)
    assert "Usage" in run("python", "-m", "spool", "no-such-command", code=2).stderr
    assert "SPOOL_DRAIN" in run("python", "-m", "spool", "status", code=2, SPOOL_DRAIN="?").stderr


def test_the_commands_that_print_json_are_those_that_the_readme_names(filled: Store) -> None:
    (sentence,) = re.findall(r"[^.]+take `--json`", README.read_text().replace("\n", " "))
    assert quoted(sentence)[:-1] == ["check", "status", "history", "drain", "peek", "dead list"]
    run("python", "-m", "spool", "drain", "--json", code=1)
    json.loads(run("python", "-m", "spool", "status", "--json", code=1).stdout)
    json.loads(run("python", "-m", "spool", "check", "--json", code=1).stdout)
    for command in ("history", "peek", "dead list"):
        json.loads(run("python", "-m", "spool", *command.split(), "--json").stdout)


def test_what_nobody_looks_at_is_watched_as_the_readme_says(
    filled: Store, langfuse: StandIn, tmp_path: Path
) -> None:
    said = README.read_text()
    port = ports.free_port()
    (command,) = re.findall(r"`(python -m spool run --listen [^`]+)`", said)
    command = command.replace("9464", f"{port}")
    with subprocess.Popen(["bash", "-c", f"exec {command}"]) as sidecar:
        try:
            langfuse.wait_for(lambda server: server.accepted == 1)
            for path, status, words in (("healthz", 503, "secret"), ("", 200, "<svg")):
                answer = requests.get(f"http://127.0.0.1:{port}/{path}", timeout=60)
                assert (answer.status_code, words in answer.text) == (status, True), answer.text
        finally:
            sidecar.send_signal(signal.SIGTERM)
        assert sidecar.wait(60) == 0
    (command,) = re.findall(r"`(python -m spool history --html FILE)`", said)
    run("bash", "-c", command.replace("FILE", f"{tmp_path / 'page.html'}"))
    assert "<svg" in (tmp_path / "page.html").read_text()


def test_dead_letters_are_looked_after_as_the_readme_says(filled: Store, langfuse: StandIn) -> None:
    langfuse.behave(standin.reject_span("new"))
    (line,) = [row[2] for row in table(README, "it says") if "dead letters" in row[0]]
    commands = [c for c in quoted(line) if c.startswith("dead")]
    assert commands == ["dead list", "dead show ID", "dead retry", "dead purge"]
    for command in commands:
        assert "Usage" in run("python", "-m", "spool", *command.split()[:2], "--help").stdout


# The table of answers

VERDICTS: Final = {
    "are delivered": Verdict.DELIVERED,
    "wait": Verdict.WAIT,
    "are held": Verdict.HOLD,
    "are split": Verdict.SPLIT,
}


def statuses_in(answers: str) -> list[int]:
    return [int(status) for status in re.findall(r"\d{3}", answers)]


@pytest.mark.parametrize("row", table(README, "the receiver answers"), ids=lambda row: row[1][:9])
def test_an_answer_means_what_the_readme_says(row: list[str]) -> None:
    answers, becomes = row
    (verdict,) = [verdict for words, verdict in VERDICTS.items() if becomes.startswith(words)]
    statuses = statuses_in(answers) or [200, 202]
    if "every 4xx that stands in no other row" in answers:
        named = {s for row in table(README, "the receiver answers") for s in statuses_in(row[0])}
        statuses += sorted({*range(400, 500)} - named)
    for status in statuses:
        response = Response(status, {"content-type": "application/json"}, b"{}")
        assert classify(response).verdict is verdict


# The table of `status`


def shown_by_status() -> list[str]:
    return [said for row in table(README, "it says") for said in quoted(row[0])]


def codes() -> set[str]:
    """Give the codes of all concerns that there are."""
    nodes = ast.walk(ast.parse(inspect.getsource(concerns)))
    calls = [one for one in nodes if isinstance(one, ast.Call) and one.args]
    return {text_of(one.args[0]) or "" for one in calls if ast.unparse(one.func) == "Concern"}


def test_the_states_and_the_codes_of_concerns_are_those_of_the_code() -> None:
    shown = set(filter(re.compile(r"[a-z-]+").fullmatch, shown_by_status()))
    assert shown == {state.value for state in RouteState} | codes()


def test_the_words_of_concerns_are_those_of_the_code() -> None:
    said = " ".join((*texts(concerns), *texts(sentences)))
    assert [words for words in shown_by_status() if " " in words and words not in said] == []


def test_status_says_no_secret_held_and_waiting_where_the_readme_says_so(
    environment: None, store: Store, target: Target, langfuse: StandIn
) -> None:
    store.append(target, batch("one"), now=1_700_000_000.0)
    store.close()
    command = ["python", "-m", "spool"]
    other = {"LANGFUSE_PUBLIC_KEY": "pk-lf-other"}
    assert "no-secret" in run(*command, "status", code=1, **other).stdout
    langfuse.behave(standin.unavailable())
    run(*command, "drain", code=1)
    assert "waiting" in run(*command, "status", code=1).stdout
    langfuse.behave(standin.status(401))
    run(*command, "drain", code=1)
    assert "held" in run(*command, "status", code=1).stdout
    langfuse.behave(None)
    run(*command, "drain")
    assert "         ok, nothing waits" in run(*command, "status").stdout


def test_the_symptoms_that_are_our_words_are_those_of_the_code() -> None:
    package = ROOT / "src" / "spool"
    said = " ".join("".join(re.findall(r'"([^"]*)"', f.read_text())) for f in package.rglob("*.py"))
    for row in table(README, "symptom"):
        for symptom in quoted(row[0]):
            if symptom.count(" ") > 1:
                assert symptom in said, symptom
