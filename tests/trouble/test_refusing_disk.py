"""Disks that refuse from the start: a program goes on, and what is there can be read and sent."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from opentelemetry.sdk.trace.export import SpanExportResult

from disks import can_mount, fill_disk, small_disk
from spans import span
from spool import Settings, SpoolSpanExporter
from spool.store.store import Store
from spool.system.spool_files import beside
from standin import StandIn
from users import SHORT_WAITS, environment_of, shut_down
from waits import wait_until

pytestmark = pytest.mark.once

needs_mounts = pytest.mark.skipif(not can_mount(), reason="only root mounts a small disk")

SUCCESS, FAILURE = SpanExportResult.SUCCESS, SpanExportResult.FAILURE


@contextlib.contextmanager
def refusing_disk(trouble: str, path: Path, *, is_there: bool) -> Iterator[None]:
    """Mount a disk that takes nothing new, with a spool on it that holds one span, or none."""
    directory = path.parent
    with small_disk(directory, 4 << 20):
        if is_there:
            command = [sys.executable, "-c", WRITER]
            with subprocess.Popen(command, env={**os.environ, "SPOOL_PATH": str(path)}) as writer:
                pass
            assert writer.returncode == -signal.SIGKILL  # its WAL and its journal stay
            beside(path, "-shm").unlink()
        if trouble == "read-only":
            subprocess.run(["mount", "-o", "remount,ro", directory], check=True)
        elif trouble == "no inodes":
            used = 1 + len(list(directory.iterdir()))
            options = f"remount,nr_inodes={used}"
            subprocess.run(["mount", "-o", options, directory], check=True)
        else:
            fill_disk(directory / "ballast")
        yield


WRITER = """
import os, signal
from spans import batch
from spool.settings.target import Target
from spool.store.store import Store
from pathlib import Path
store = Store(Path(os.environ["SPOOL_PATH"]))
target = Target.langfuse("pk-lf-test", "sk-lf-test", os.environ["LANGFUSE_HOST"])
store.append(target, batch("a row"), 1.0)
store.accept(target, batch("in the journal"), 2.0)
store.drain_lock.prepare()
os.kill(os.getpid(), signal.SIGKILL)
"""
WORDS = {
    "read-only": "Read-only file system",
    "no inodes": "no inodes are left",
    "full": "make room there",
}


@pytest.fixture
def environment(path: Path, langfuse: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """Name spool and stand-in as a user would."""
    for name, value in environment_of(path, langfuse.url, **SHORT_WAITS).items():
        monkeypatch.setenv(name, value)


@needs_mounts
@pytest.mark.parametrize("is_there", [True, False], ids=["a spool", "no spool"])
@pytest.mark.parametrize("trouble", WORDS)
def test_a_program_that_starts_on_a_disk_that_refuses_goes_on_and_its_spans_are_sent(
    environment: None,
    settings: Settings,
    path: Path,
    langfuse: StandIn,
    caplog: pytest.LogCaptureFixture,
    trouble: str,
    is_there: bool,
) -> None:
    with refusing_disk(trouble, path, is_there=is_there):
        with shut_down(SpoolSpanExporter(settings=settings)) as exporter:
            assert exporter.export([span("held")]) is FAILURE
            langfuse.wait_for(lambda server: "held" in server.names())
            if is_there:  # it can be read, and what was sent is not sent again
                langfuse.wait_for(lambda server: "a row" in server.names())
        assert WORDS[trouble] in caplog.text
    assert langfuse.names()["held"] == 1


@needs_mounts
@pytest.mark.parametrize("trouble", WORDS)
def test_a_spool_on_a_disk_that_refuses_can_be_read(
    environment: None, path: Path, trouble: str
) -> None:
    with refusing_disk(trouble, path, is_there=True):
        before = {file.name: file.stat().st_size for file in path.parent.iterdir()}
        command = [sys.executable, "-m", "spool", "--path", str(path)]
        status = subprocess.run([*command, "status", "--json"], capture_output=True, check=False)
        peek = subprocess.run([*command, "peek", "--json"], capture_output=True, check=False)
        after = {file.name: file.stat().st_size for file in path.parent.iterdir()}
    assert status.stdout, status.stderr
    assert json.loads(status.stdout)["pending"]["spans"] == 2
    assert {shown["name"] for shown in json.loads(peek.stdout)} == {"a row", "in the journal"}
    assert after.items() >= before.items()


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.EDQUOT, "raise the quota"),
        (errno.EROFS, "mount it for writing"),
        (errno.EMFILE, "raise the limit of open files"),
        (errno.EIO, "see to the disk"),
    ],
)
def test_what_the_disk_has_against_us_is_said_and_no_error_of_the_constructor(
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    code: int,
    words: str,
) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("spool.system.spool_files.create", refuse)
    with shut_down(SpoolSpanExporter(settings=replace(settings, drain=False))):
        assert words in caplog.text
        assert os.strerror(code) in caplog.text


@needs_mounts
@pytest.mark.parametrize("trouble", ["full", "read-only"])
def test_a_drain_on_a_disk_that_takes_nothing_sends_what_it_can_and_says_so(
    environment: None, path: Path, langfuse: StandIn, trouble: str
) -> None:
    command = [sys.executable, "-m", "spool", "--path", str(path), "drain", "--json"]
    with refusing_disk(trouble, path, is_there=True):
        drained = subprocess.run(command, capture_output=True, text=True, check=False)
        assert drained.stdout, drained.stderr
        result = json.loads(drained.stdout)
        assert (drained.returncode, result["delivered"], result["pending"]) == (1, 2, 2)
        assert langfuse.names() == {"a row": 1, "in the journal": 1}
        assert "not settled" in drained.stderr
        assert WORDS[trouble] in drained.stderr
        if trouble == "full":
            (path.parent / "ballast").unlink()
        else:
            subprocess.run(["mount", "-o", "remount,rw", path.parent], check=True)
        again = subprocess.run(command, capture_output=True, text=True, check=True)
        assert json.loads(again.stdout)["pending"] == 0


@needs_mounts
@pytest.mark.parametrize("is_there", [True, False], ids=["a spool", "no spool"])
@pytest.mark.parametrize("trouble", ["full", "read-only"])
def test_a_run_begins_on_a_disk_that_takes_nothing_and_says_when_it_is_well(
    environment: None, path: Path, langfuse: StandIn, tmp_path: Path, trouble: str, is_there: bool
) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-m", "spool", "run"]
    with (
        refusing_disk(trouble, path, is_there=is_there),
        log.open("w") as errors,
        subprocess.Popen(command, stderr=errors) as sidecar,
    ):
        try:
            wait_until(lambda: "what waits is sent all the same" in log.read_text())
            assert WORDS[trouble] in log.read_text().splitlines()[0]
            wait_until(lambda: "INFO draining" in log.read_text())
            if is_there and trouble == "full":
                langfuse.wait_for(lambda server: {"a row", "in the journal"} <= {*server.names()})
            if trouble == "full":
                (path.parent / "ballast").unlink()
            else:
                subprocess.run(["mount", "-o", "remount,rw", path.parent], check=True)
            wait_until(lambda: "the disk takes spans again" in log.read_text())
            with contextlib.closing(Store(path)) as store:
                wait_until(lambda: store.exists() and store.ledger().pending == 0)
                assert store.ledger().delivered == (2 if is_there else 0)
            sidecar.send_signal(signal.SIGTERM)
            assert sidecar.wait(120) == 0
        finally:
            sidecar.kill()
            sidecar.wait(60)
    assert log.read_text().count("the disk takes spans again") == 1
    assert langfuse.names()["a row"] == is_there  # it was sent once
    assert is_there <= langfuse.names()["in the journal"] <= 2 * is_there
