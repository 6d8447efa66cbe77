from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from spans import batch
from spool.commands.main import main
from spool.settings.target import Target
from spool.store.store import Store
from standin import StandIn
from users import invoke, spool

pytestmark = pytest.mark.once

COMMANDS = [
    ["drain"], ["drain", "--json"], ["status"], ["status", "--json"], ["peek"], ["peek", "--json"],
    ["adopt", "pk-lf-x", "--yes"], ["dead", "list"], ["dead", "list", "--json"],
    ["dead", "show", "1"], ["dead", "show", "1", "--json"], ["dead", "retry", "--all"],
    ["dead", "purge", "--all", "--yes"],
]  # fmt: skip


def test_a_spool_that_does_not_exist_is_a_wrong_path_and_is_not_created(path: Path) -> None:
    for command in COMMANDS:
        done = invoke(*command, code=2)
        assert done.stderr == f"no spool yet at {path}\n"
        if "--json" in command and command[0] != "status":
            json.loads(done.stdout)
    assert not path.parent.exists()


def test_spans_in_journals_are_told_of_and_sent_where_the_main_file_was_taken_away(
    store: Store, target: Target, path: Path, langfuse: StandIn
) -> None:
    store.open()
    store.journal.append(target, batch("left"), 1.0)
    for one in path.parent.glob(f"{path.name}*"):
        if ".inbox-" not in one.name:
            one.unlink()
    assert "1 journal beside it may hold spans" in spool("check", code=1).stdout
    assert spool("drain").stdout.startswith("delivered 1 span ")
    assert langfuse.names() == {"left": 1}


def test_output_that_cannot_be_written_is_one_line(filled: Store) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "spool", "status", "--json"],
            stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    said = "spool: the output cannot be written: the disk that it goes to is full\n"
    assert done.stderr == said


def test_a_spool_that_nobody_has_named_is_not_well_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SPOOL_PATH")
    for command in COMMANDS:
        (line,) = invoke(*command, code=1).stderr.splitlines()
        assert line.startswith(f"no spool yet at {tmp_path}/state/langfuse-spool/spool.db; ")
        assert "SPOOL_PATH" in line


def test_a_path_behind_the_command_is_told_its_place(filled: Store, path: Path) -> None:
    for command in (["drain"], ["dead", "list"]):
        said = invoke(*command, "--path", str(path), code=2).stderr
        assert "put --path before the command: `python -m spool --path FILE COMMAND`" in said


def test_the_path_can_be_given(filled: Store, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPOOL_PATH")
    assert "delivered 10 spans" in spool("--path", str(path), "drain").stdout


WRONG_VALUES = [
    ("SPOOL_DRAIN", "maybe", "on or off"),
    ("SPOOL_MAX_BYTES", "lots", "a size"),
    ("SPOOL_WHEN_FULL", "explode", "drop-oldest or drop-newest"),
    ("SPOOL_SYNC_SECONDS", "-1", "0 or more"),
    ("SPOOL_BACKOFF_SECONDS", "60..1", "1..60"),
    ("SPOOL_TIMEOUT_SECONDS", "soon", "more than 0"),
    ("OTEL_EXPORTER_OTLP_COMPRESSION", "deflate", "gzip or none"),
]


@pytest.mark.parametrize(("variable", "value", "allowed"), WRONG_VALUES)
def test_a_wrong_value_is_one_line_that_names_it_and_the_way_out(
    variable: str, value: str, allowed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    (line,) = spool("status", code=2).stderr.splitlines()
    assert f"{variable}={value}" in line
    assert allowed in line


def test_a_mistyped_variable_is_one_line(filled: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPOOL_SYNC_SECOND", "0")
    (line,) = spool("drain").stderr.splitlines()
    assert "SPOOL_SYNC_SECOND is no setting of the spool; SPOOL_SYNC_SECONDS is" in line


def test_one_key_without_the_other_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LANGFUSE_SECRET_KEY")
    (line,) = spool("drain", code=2).stderr.splitlines()
    assert "LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY must be set" in line


def test_a_file_that_is_no_database_is_one_line(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("a shopping list\n" * 1000)
    for command in COMMANDS:
        (line,) = spool(*command, code=2).stderr.splitlines()
        assert str(path) in line
    assert [file.name for file in path.parent.iterdir()] == ["spool.db"]


def test_another_applications_database_is_one_line_and_stays_as_it_was(path: Path) -> None:
    path.parent.mkdir()
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE theirs (x)")
    other.commit()
    other.close()
    before = path.read_bytes()
    for command in COMMANDS:
        (line,) = spool(*command, code=2).stderr.splitlines()
        assert "another application" in line or "not a spool" in line
    assert path.read_bytes() == before


def test_a_path_below_a_file_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SPOOL_PATH", str(tmp_path / "file" / "spool.db"))
    (line,) = spool("run", code=2).stderr.splitlines()
    assert f"{tmp_path}/file" in line


def test_a_directory_without_rights_is_one_line(path: Path, tmp_path: Path) -> None:
    path.parent.mkdir(mode=0o500)
    said = tmp_path / "said"
    pid = os.fork()
    if pid == 0:
        sys.stderr = said.open("w")
        if os.geteuid() == 0:  # who may write anywhere
            os.setuid(65534)
        sys.argv = ["spool", "run"]
        try:
            main()
        except SystemExit as exiting:
            sys.stderr.flush()
            os._exit(int(exiting.code or 0))
        os._exit(99)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 2
    (line,) = said.read_text().splitlines()
    assert str(path) in line
    assert "SPOOL_PATH" in line


def test_what_a_process_has_in_its_journal_is_shown_adopted_and_drained(
    store: Store, target: Target, langfuse: StandIn
) -> None:
    stranded = Target.langfuse("pk-lf-old", "sk-lf-old", langfuse.url)
    store.open()
    store.accept(target, batch("a"), now=1_700_000_000.0)
    store.accept(stranded, batch("b"), now=1_700_000_000.0)
    assert json.loads(spool("status", "--json", code=1).stdout)["pending"]["spans"] == 2
    assert [one["name"] for one in json.loads(spool("peek", "--json").stdout)] == ["a", "b"]
    assert store.pending() == [], "reading moves nothing"
    assert "1 span of pk-lf-old now waits" in invoke("adopt", "pk-lf-old", "--yes").stdout
    assert spool("drain").stdout.startswith("delivered 2 spans")
    assert set(langfuse.names()) == {"a", "b"}
