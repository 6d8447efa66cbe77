"""A spool that more than one user meets: root and a worker's user, or a stranger in /tmp."""

from __future__ import annotations

import encodings.idna
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tenacity
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

from spans import batch, span
from spool import Settings, SpoolSpanExporter
from spool.commands.main import main
from spool.journal import frames
from spool.journal.identity import Identity
from spool.settings.target import Target
from spool.store import migrations
from spool.store.store import Store
from spool.system.log import logger
from spool.system.spool_files import beside
from spool.system.words import user_of
from standin import StandIn
from trials import Trial

pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user"),
    pytest.mark.usefixtures("environment"),
]

# What is imported late elsewhere: another user may not be able to read where Python is installed.
_PRELOADED = (encodings.idna, migrations, tenacity, trace_service_pb2)

WORKER = 65534
STRANGER = 12345


@pytest.fixture
def directory() -> Iterator[Path]:
    """The worker's directory, where others can look; tmp_path's parents are closed to them."""
    directory = Path(tempfile.mkdtemp())
    directory.chmod(0o755)
    os.chown(directory, WORKER, WORKER)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def path(directory: Path) -> Path:
    return directory / "spool.db"


def run_as(uid: int, work: Callable[[], object]) -> tuple[int, str]:
    """Do something as another user, within 60 s; give the exit code and what was printed."""
    with tempfile.TemporaryFile("w+") as said:
        pid = os.fork()
        if pid == 0:
            try:
                os.dup2(said.fileno(), 1)
                os.dup2(said.fileno(), 2)
                sys.stdout, sys.stderr = (os.fdopen(os.dup(said.fileno()), "w") for _ in range(2))
                logger.addHandler(logging.StreamHandler())
                os.setgroups([])
                os.setgid(uid)
                os.setuid(uid)
                code = int(not work())
            except SystemExit as exiting:
                code = int(exiting.code or 0)
            except BaseException as error:  # noqa: BLE001 - it is the child's end
                print(repr(error), flush=True)
                code = 99
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        end = time.monotonic() + 60
        while not (found := os.waitpid(pid, os.WNOHANG))[0]:
            if time.monotonic() > end:
                os.kill(pid, 9)
            time.sleep(0.01)
        said.seek(0)
        return os.waitstatus_to_exitcode(found[1]), said.read()


def command(*arguments: str) -> Callable[[], object]:
    def run() -> None:
        sys.argv = ["spool", *arguments]
        main()

    return run


def owners(directory: Path) -> set[int]:
    return {file.lstat().st_uid for file in directory.iterdir()}


def write_as(uid: int, path: Path, target: Target, name: str) -> None:
    def write() -> bool:
        exporter = SpoolSpanExporter(settings=Settings(path=path, target=target, drain=False))
        is_spooled = exporter.export([span(name)]).name == "SUCCESS"
        exporter.shutdown()
        return is_spooled

    assert run_as(uid, write) == (0, "")


@pytest.fixture
def assert_counted(report: Callable[[Trial], None]) -> Callable[[Path, int], None]:
    """Report spans that have all arrived."""

    def report_all(path: Path, spans: int) -> None:
        store = Store(path)
        ledger = store.ledger()
        store.close()
        name, lost = "root and its workers as different users", spans - ledger.delivered
        report(Trial(name, 1, spans, ledger.accepted, ledger.refused, 0, lost, 0))

    return report_all


def test_where_root_makes_the_exporter_workers_change_their_user_and_all_is_durable(
    directory: Path,
    path: Path,
    target: Target,
    langfuse: StandIn,
    assert_counted: Callable[[Path, int], None],
) -> None:
    exporter = SpoolSpanExporter(settings=Settings(path=path, target=target, drain=False))
    exporter.export([span("master")])
    for _ in range(2):
        code, said = run_as(WORKER, lambda: exporter.export([span("worker")]).name == "SUCCESS")
        assert (code, said) == (0, "")
    exporter.shutdown()
    assert owners(directory) == {WORKER}
    assert run_as(WORKER, command("drain"))[0] == 0
    assert langfuse.names() == {"master": 1, "worker": 2}
    assert_counted(path, 3)


def test_root_may_look_after_a_users_spool_and_locks_nobody_out(
    directory: Path,
    path: Path,
    target: Target,
    langfuse: StandIn,
    assert_counted: Callable[[Path, int], None],
) -> None:
    write_as(WORKER, path, target, "before")
    assert run_as(0, command("status"))[0] == 1
    write_as(0, path, target, "by root")
    assert run_as(0, command("drain"))[0] == 0
    assert owners(directory) == {WORKER}
    write_as(WORKER, path, target, "after")
    assert run_as(WORKER, command("drain"))[0] == 0
    assert langfuse.names() == {"before": 1, "by root": 1, "after": 1}
    assert_counted(path, 3)


def test_a_worker_that_may_not_use_roots_spool_is_told_so(
    directory: Path, path: Path, target: Target
) -> None:
    os.chown(directory, 0, 0)
    exporter = SpoolSpanExporter(settings=Settings(path=path, target=target, drain=False))
    code, said = run_as(WORKER, lambda: exporter.export([span("worker")]).name == "SUCCESS")
    exporter.shutdown()
    assert code == 1
    assert f"{path}: it belongs to {user_of(0)}, not to {user_of(WORKER)}; run as its owner" in said


# A stranger, where every user may make files


@pytest.fixture
def everybodys(directory: Path) -> Path:
    os.chown(directory, 0, 0)
    directory.chmod(0o1777)
    return directory


def test_a_stranger_can_forge_no_span(
    everybodys: Path, path: Path, target: Target, langfuse: StandIn
) -> None:
    write_as(WORKER, path, target, "true")
    forged = beside(path, ".inbox-1-0123456789ab")
    forged.write_bytes(b"".join(frames.make(Identity.of(target).encode(), batch("forged"), 1.0)))
    forged.chmod(0o666)
    os.chown(forged, STRANGER, STRANGER)
    assert run_as(WORKER, command("drain"))[0] == 0
    assert langfuse.names() == {"true": 1}
    code, said = run_as(WORKER, command("status"))
    assert code == 1
    assert f"{forged}: it belongs to user {STRANGER}, not to user {WORKER}" in said
    assert forged.exists()


@pytest.mark.parametrize("suffix", [".lock", ".turn", ".deputy", ".drainer"])
def test_a_pipe_in_place_of_a_lock_hangs_nothing_and_is_named(
    everybodys: Path, path: Path, target: Target, suffix: str
) -> None:
    write_as(WORKER, path, target, "true")
    beside(path, suffix).unlink(missing_ok=True)
    os.mkfifo(beside(path, suffix), 0o666)
    os.chown(beside(path, suffix), STRANGER, STRANGER)
    for arguments in (["status"], ["drain"]):
        code, said = run_as(WORKER, command(*arguments))
        assert code in (0, 1, 2)
        assert f"{path}{suffix}: it is not a regular file" in said or suffix in (
            ".deputy", ".drainer",
        ), said  # fmt: skip
    assert f"{path}{suffix}: it is not a regular file" in run_as(WORKER, command("status"))[1]


def test_a_spool_that_a_stranger_has_put_there_is_not_used(
    everybodys: Path, path: Path, target: Target
) -> None:
    write_as(STRANGER, path, target, "bait")
    for file in everybodys.iterdir():
        file.chmod(0o666)
    for uid in (WORKER, 0):
        code, said = run_as(uid, lambda: SpoolSpanExporter(path=path))
        assert code == 99
        assert f"{path}: it belongs to user {STRANGER}" in said


def test_what_is_open_to_everybody_is_nobodys(everybodys: Path, path: Path, target: Target) -> None:
    everybodys.chmod(0o777)
    code, said = run_as(WORKER, lambda: SpoolSpanExporter(path=path))
    assert code == 99
    assert "has no sticky bit; set SPOOL_PATH to a file in a directory of your own" in said
    Store(path)  # to make one is no use of it
