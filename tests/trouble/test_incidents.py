"""Twenty incidents, and what `status` says to who looks: the cause, and what to do.

Each is really caused. What is printed stands in tests/README.md; `--rewrite` writes it there anew.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme

import standin
from boxes import CLOCK, NO_SUCH_NAME, Box, a_box
from certificates import tls_of
from damaged_files import ruin_root_page
from disks import can_mount, fill_disk, read_only, small_disk
from spans import batch
from spool.store.store import Store
from targets import MINE
from transcripts import Transcript, blurred
from waits import wait_until

pytestmark = pytest.mark.once

# What nobody has sent for a while: an application that ended ten minutes ago wrote it.
EARLIER = CLOCK.format(ahead=-600)

# Counts of spans, where they depend on how fast this machine is.
COUNTS = (
    r"[\d,]+(?= spans| in all)|((?<=delivered )|(?<=pending )|(?<=evicted )|(?<=oldest ))[\d,]+"
)

needs_mounts = pytest.mark.skipif(not can_mount(), reason="only root mounts a small disk")

Shows = Callable[..., None]


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    with a_box(tmp_path) as box:
        yield box


@pytest.fixture
def shows(box: Box, pytestconfig: pytest.Config) -> Shows:
    def look(
        title: str, *sentences: str, code: int = 1, minds: str = "", varies: str = "$^"
    ) -> None:
        """Look once at the box: the code, the sentences, the concerns, and the transcript."""
        found, said = box.status()
        transcript, shown = Transcript(title), f"$ python -m spool status\n{said}"
        if pytestconfig.getoption("--rewrite"):
            transcript.write(shown)
        assert found == code, said
        for sentence in sentences:
            assert sentence in " ".join(said.split())
        assert blurred(transcript.kept(), varies) == blurred(shown, varies)
        assert_json(box, code, minds.split())

    return look


def assert_json(box: Box, code: int, minds: list[str]) -> None:
    found, said = box.as_json()
    assert (found, said["ok"]) == (code, code == 0)
    assert [concern["code"] for concern in said["concerns"]] == minds
    assert all(concern["words"] and concern["remedy"] for concern in said["concerns"])


# The receiver, and the way to it


def test_nobody_listens(box: Box, shows: Shows) -> None:
    box.langfuse.stop()
    box.end(box.app(), "one", "two")
    box.wait_for_trouble()
    shows(
        "Nobody listens there",
        "nobody listens at 10.0.0.5:3000 — start the server, or correct the host",
        code=0,
    )


def test_the_name_is_not_known(box: Box, shows: Shows) -> None:
    box.end(box.app("http://langfuse.example", NO_SUCH_NAME), "one", "two")
    box.wait_for_trouble()
    shows(
        "The name is not known",
        "the name of langfuse.example cannot be resolved",
        "correct the host's name, or see to the network and its DNS",
        code=0,
    )


def test_the_certificate_is_not_trusted(box: Box, shows: Shows) -> None:
    box.langfuse.tls = tls_of(trustme.CA())
    box.end(box.app(), "one", "two")
    box.wait_for_trouble()
    shows(
        "The certificate is not trusted",
        "the certificate of 10.0.0.5:3000 is not trusted",
        "name the file of its CA by",
        code=0,
    )


def test_the_keys_are_wrong(box: Box, shows: Shows) -> None:
    box.end(box.app(LANGFUSE_SECRET_KEY="sk-lf-old"), "one", "two")
    box.wait_for_trouble()
    shows(
        "The keys are wrong (401)",
        "the receiver refuses the keys (401 Invalid credentials.",
        "correct the keys or headers, or the host",
        minds="held",
    )


def test_the_plan_is_suspended(box: Box, shows: Shows) -> None:
    box.langfuse.behave(standin.suspended())
    box.end(box.app(), "one", "two")
    box.wait_for_trouble()
    shows(
        "The plan is suspended (403)",
        "403 Ingestion suspended: Usage threshold exceeded. Please upgrade your plan.",
        "a suspended plan goes on by itself when that ends",
        minds="held",
    )


def test_nothing_is_at_that_path(box: Box, shows: Shows) -> None:
    box.end(box.app(f"{box.langfuse.url}/langfuse"), "one", "two")
    box.wait_for_trouble()
    shows(
        "Nothing is at that path (404)",
        "host or path is wrong (404 Not Found)",
        "correct the host, or the path of the endpoint",
        minds="held",
    )


def test_a_captive_portal_answers(box: Box, shows: Shows) -> None:
    box.langfuse.behave(standin.html_200())
    box.end(box.app(), "one", "two")
    box.wait_for_trouble()
    shows(
        "A captive portal answers",
        "200 with a web page",
        "a captive portal?",
        "sign in to that network",
        code=0,
    )


def test_the_server_wants_to_be_left_alone_for_ten_minutes(box: Box, shows: Shows) -> None:
    body = '{"message": "Service Unavailable"}'
    box.langfuse.behave(standin.status(503, {"Retry-After": "600"}, body))
    box.end(box.app(), "one", "two")
    box.wait_for_trouble()
    shows(
        "The server asks for ten minutes (503)",
        "asks to come back later (503 Service Unavailable) — no need to act: it is tried again",
        ", as the receiver asked",
        code=0,
    )
    assert 500 < box.as_json()[1]["routes"][0]["next_attempt_seconds"] <= 600


def test_everything_is_too_large(box: Box, shows: Shows) -> None:
    box.langfuse.behave(standin.too_large(0))
    box.end(box.app(), "one", "two", "three")
    box.wait_for_trouble()
    shows(
        "Everything is too large (413)",
        "every span is too large (413",
        "raise the limit of the server, or of the proxy before it",
        minds="held",
    )


def test_everything_is_a_bad_request(box: Box, shows: Shows) -> None:
    page = "<html><head><title>400 Bad Request</title></head></html>"
    box.langfuse.behave(standin.status(400, body=page, content_type=standin.HTML))
    box.end(box.app(), "one", "two", "three")
    box.wait_for_trouble()
    shows(
        "Everything is a bad request (400)",
        "every span is refused (400",
        "check the host, the headers, and any proxy on the way",
        minds="held",
    )


def test_one_span_is_refused(box: Box, shows: Shows) -> None:
    box.langfuse.behave(standin.reject_span("bad"))
    app = box.app()
    box.end(app, "one", "bad", "two", "three")
    box.wait_for_ledger(lambda ledger: (ledger.dead, ledger.delivered) == (1, 3))
    shows(
        "One span is refused, others are taken",
        "1 span is a dead letter: refused, where others were taken",
        "see `python -m spool dead list`",
        minds="dead-letters",
    )


# This machine


@needs_mounts
def test_the_disk_is_full(box: Box, shows: Shows) -> None:
    with small_disk(box.path.parent, 4 << 20), contextlib.closing(box):
        box.langfuse.stop()
        app = box.app()
        box.end(app, "one")
        box.wait_for_trouble()
        fill_disk(box.path.with_name("ballast"))
        box.end(app, *["more"] * 5, size=20_000)
        shows(
            "The disk is full",
            "the disk is full, or almost",
            "make room at /var/lib/app",
            minds="disk-full",
        )


@needs_mounts
def test_the_disk_is_read_only(box: Box, shows: Shows) -> None:
    box.langfuse.stop()
    app = box.app()
    box.end(app, "one", "two")
    box.wait_for_trouble()
    box.kill(app)
    with read_only(box.path.parent), contextlib.closing(box):
        box.end(box.app(), "three")
        shows(
            "The disk is read-only",
            "the disk is read-only",
            "mount /var/lib/app for writing",
            minds="read-only",
        )


@pytest.mark.parametrize(
    ("ahead", "title"),
    [
        (300 - round(time.time()), "The clock was in 1970"),
        (365 * 86_400, "The clock was a year ahead"),
    ],
    ids=["1970", "ahead"],
)
def test_the_clock_was_wrong(box: Box, shows: Shows, ahead: int, title: str) -> None:
    box.langfuse.behave(standin.too_many(600))
    app = box.app(before=CLOCK.format(ahead=ahead), SPOOL_DRAIN="off")
    box.end(app, "one", "two")
    box.kill(app)
    box.sidecar()
    box.wait_for_trouble()
    shows(
        title,
        "the clock was wrong",
        "let NTP set it; these spans are delivered all the same",
        minds="clock",
    )


def test_the_drainer_is_stopped(box: Box, shows: Shows) -> None:
    sidecar = box.sidecar()
    box.end(box.app(SPOOL_DRAIN="off"), "one", "two")
    box.wait_for_ledger(lambda ledger: ledger.delivered == 2)
    box.stop(sidecar)
    box.end(box.app(SPOOL_DRAIN="off"), "three")
    shows(
        "The drainer is stopped",
        "the drainer does not move: `run` (pid 4711) is stopped, frozen or hangs",
        "`kill -CONT 4711`; where that does not help end it",
        minds="drainer-stopped",
    )


def test_nobody_drains(box: Box, shows: Shows) -> None:
    box.end(box.app(SPOOL_DRAIN="off"), "one", "two")
    shows(
        "Nobody drains",
        "2 spans wait and no process drains",
        "send them by `python -m spool drain` or `run` with their keys",
        minds="nobody-drains",
    )


def test_a_tenants_secret_is_missing(box: Box, shows: Shows, tmp_path: Path) -> None:
    secrets = tmp_path / "credentials"
    secrets.write_text("pk-lf-chat: sk-lf-chat\n")
    secrets.chmod(0o600)
    app = box.app(before=EARLIER, SPOOL_DRAIN="off")
    box.end(app, "one", owner="team")
    box.kill(app)
    box.sidecar(SPOOL_CREDENTIALS_FILE=str(secrets))
    shows(
        "A tenant's secret is missing",
        "route pk-lf-team: 1 span waits: its secret is not known",
        "run a drainer with its keys, or with a SPOOL_CREDENTIALS_FILE that has them",
        minds="no-secret",
    )


def test_the_file_was_damaged(box: Box, shows: Shows) -> None:
    box.langfuse.stop()
    app = box.app()
    box.end(app, *["before"] * 3)
    box.wait_for_trouble()
    box.kill(app)
    ruin_root_page(box.path)
    box.langfuse.start()
    app = box.app()
    box.end(app, "after")
    box.wait_for_ledger(lambda ledger: ledger.pending == 0)
    shows(
        "The file was damaged",
        "the file was damaged and salvaged",
        "see to the disk",
        minds="damaged",
    )


def test_the_limit_is_reached(box: Box, shows: Shows) -> None:
    box.langfuse.stop()
    box.end(box.app(SPOOL_MAX_BYTES="1MiB"), *["large"] * 40, size=100_000)
    box.wait_for_ledger(lambda ledger: ledger.evicted > 0)
    shows(
        "The limit is reached",
        "which are lost: a program has reached a limit of its own",
        "end the outage, or raise the programs' SPOOL_MAX_BYTES",
        minds="evicted",
        varies=COUNTS,
    )


def test_a_newer_version_wrote_it(box: Box, shows: Shows) -> None:
    app = box.app(SPOOL_DRAIN="off")
    box.end(app, "one")
    box.kill(app)
    Store(box.path).append(MINE, batch("late"), now=1.0)
    with sqlite3.connect(box.path) as file:
        file.execute("PRAGMA user_version = 200")
    shows(
        "A newer version wrote it",
        "a newer langfuse-spool wrote it (schema 200,",
        "upgrade langfuse-spool",
        code=2,
        minds="unusable",
    )


def test_the_line_is_thin(box: Box, shows: Shows) -> None:
    app = box.app(SPOOL_DRAIN="off")
    box.end(app, *["large"] * 1000, size=2_000)
    box.kill(app)
    box.langfuse.behave(standin.thin(50_000))
    box.sidecar(SPOOL_MAX_REQUEST_BYTES="16KiB")
    # So many requests end in the moment that `status` takes, whatever else this machine does.
    wait_until(lambda: " spans a second" in box.status()[1])
    shows(
        "The line is thin",
        "spans a second: more the line or the receiver does not take; done in about",
        code=0,
        varies=COUNTS,
    )


def test_two_programs_have_other_keys(box: Box, shows: Shows) -> None:
    box.langfuse.stop()
    app = box.app(before=EARLIER)
    box.end(app, "one", "two")
    box.wait_for_trouble()
    box.kill(app)
    box.langfuse.start()
    box.end(box.app(owner="chat"), "three")
    box.wait_for_ledger(lambda ledger: ledger.delivered == 1)
    shows(
        "Two programs have other keys",
        "route pk-lf-shop: 2 spans wait: its secret is not known",
        "or give its spans to the project of your keys by `python -m spool adopt pk-lf-shop`",
        minds="no-secret",
    )
