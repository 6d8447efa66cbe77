from __future__ import annotations

import os
import random
import re
import shutil
import signal
import stat
import struct
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from damaged_files import ROWS, damage, fill
from seeds import seed
from spans import batch, span
from spool import Settings, SpoolSpanExporter
from spool.errors import SpoolDamagedError
from spool.settings.target import Target
from spool.store import route_waits, row_packing, salvage, takeover
from spool.store.store import Store
from standin import StandIn
from targets import MINE

IMAGES = int(os.environ.get("TEST_DAMAGED_FILES", "150"))


@pytest.fixture
def filled(store: Store, path: Path) -> Path:
    """Give the directory of a filled spool, as a crash would leave it."""
    fill(store)
    crashed = path.parent.with_name("crashed")
    shutil.copytree(path.parent, crashed)
    return crashed


def assert_balanced(store: Store) -> None:
    ledger = store.ledger()
    gone = ledger.delivered + ledger.dead + ledger.evicted + ledger.purged + ledger.damaged
    assert ledger.accepted == gone + ledger.pending, ledger
    assert ledger.accepted == ROWS, ledger


def use(path: Path) -> Store:
    """Do with a file what an application does: open, append, read; then give its store."""
    exporter = SpoolSpanExporter(settings=Settings(path=path, target=MINE, drain=False))
    exporter.export([span("after the damage")])
    deadline = time.monotonic() + 30
    while exporter._pipeline.overflow:
        assert time.monotonic() < deadline, "the overflow never reached the file"
        time.sleep(0.005)
    exporter.shutdown()
    store = Store(path)
    for _ in range(2):  # what only reading finds is salvaged by the next writer
        try:
            # What ended while the file was being salvaged may wait in the journal.
            takeover.take_over_all(store, compress=False, sending=1.0)
            read_all(store)
            store.ledger()
        except SpoolDamagedError:
            store.open()
    return store


def read_all(store: Store) -> list[int]:
    """Read every row that waits; give the ids."""
    ids, after = [], 0
    while rows := store.pending(after):
        ids += [row.id for row in rows if row.is_sound]
        after = rows[-1].id
    store.dead_letters()
    return ids


def ruin_root_page(path: Path) -> bytes:
    """Overwrite all but the header of the first page, and take the WAL away; give the file."""
    content = bytearray(path.read_bytes())
    content[100:4096] = os.urandom(3996)
    path.write_bytes(content)
    path.with_name("spool.db-wal").unlink()
    return bytes(content)


def test_a_file_whose_root_page_is_gone_is_moved_aside_and_said_loudly(
    filled: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = filled / "spool.db"
    content = ruin_root_page(path)
    store = use(path)
    assert "was damaged and was moved to" in caplog.text
    (aside,) = filled.glob("spool.db.corrupt-*")
    assert aside.read_bytes() == content
    # The schema is the same in every spool. What was in the WAL is gone with it.
    assert len(read_all(store)) == ROWS // 2 + 1 + 1
    store.close()


def test_a_kill_in_a_salvage_leaves_nothing_that_others_can_read_and_the_next_opening_removes_it(
    filled: Path,
) -> None:
    path = filled / "spool.db"
    ruin_root_page(path)
    pid = os.fork()
    if pid == 0:
        os.umask(0)
        salvage._graft = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        Store(path).open()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    modes = {stat.S_IMODE(one.stat().st_mode) for one in filled.glob("*graft*")}
    assert modes == {0o600}
    store = use(path)
    assert len(read_all(store)) == ROWS // 2 + 1 + 1
    store.close()
    assert not [*filled.glob("*graft*"), *filled.glob("*salvag*")]


def test_what_a_salvage_left_is_removed_by_an_opening_that_salvages_nothing(path: Path) -> None:
    store = Store(path)
    store.open()
    store.close()
    for left in (".salvaging", ".grafted", ".grafted-wal"):
        path.with_name(f"spool.db{left}").touch()
    store.open()
    store.close()
    assert not [*path.parent.glob("*graft*"), *path.parent.glob("*salvag*")]


def test_whatever_word_of_the_schema_is_damaged_every_row_is_kept(
    filled: Path, tmp_path: Path
) -> None:
    store = Store(filled / "spool.db")
    store.open()
    store.close()  # the WAL is in the main file now
    content = (filled / "spool.db").read_bytes()
    words = [match.start() for match in re.finditer(rb"CREATE (TABLE|TRIGGER) ", content)]
    assert len(words) >= 10
    for position in words:
        for offset in (0, 9, 16, 40):
            directory = tmp_path / f"{position}-{offset}"
            directory.mkdir(mode=0o700)
            ruined = bytearray(content)
            ruined[position + offset] ^= 0x90
            (directory / "spool.db").write_bytes(ruined)
            (directory / "spool.db.lock").touch()
            store = use(directory / "spool.db")
            ledger = store.ledger()
            assert (ledger.accepted, ledger.damaged) == (ROWS + 1, 0), (position, offset)
            assert len(read_all(store)) == ledger.pending == ROWS - 8 + 1
            store.close()


def test_a_damaged_leaf_costs_its_own_rows_and_they_are_counted(filled: Path) -> None:
    path = filled / "spool.db"
    store = Store(path)
    store.open()
    store.close()  # the WAL is in the main file now
    damage_a_leaf(path)
    store = use(path)
    ledger = store.ledger()
    assert 0 < ledger.damaged < 20
    assert ledger.accepted == ROWS + 1
    assert ledger.accepted == ledger.delivered + ledger.dead + ledger.damaged + ledger.pending
    assert len(read_all(store)) == ledger.pending
    assert (ledger.delivered, ledger.dead) == (5, 3)
    store.close()


def test_a_file_that_another_process_has_salvaged_is_not_salvaged_again(filled: Path) -> None:
    path = filled / "spool.db"
    stores = [Store(path), Store(path)]
    for store in stores:
        store.open()
    stores[0].database.checkpoint()
    damage_a_leaf(path)
    for store in stores:
        with pytest.raises(SpoolDamagedError):
            read_all(store)
    stores[0].database.repair()
    route_waits.hold(stores[0].database, stores[0].routes()[0], "fingerprint", 330.0, 1.0, "401")
    stores[1].database.repair()
    assert len(read_all(stores[1])) == stores[1].ledger().pending
    assert stores[1].routes()[0].fingerprints == ("fingerprint",)
    assert len([*filled.glob("*.corrupt-*[0-9]")]) == 1
    for store in stores:
        store.close()


def test_what_was_packed_and_salvaged_while_it_was_sent_is_not_settled_with_others(
    store: Store,
) -> None:
    for number in range(10):
        store.append(MINE, batch(f"s{number}", size=1000), 1.0)
    take = store.oldest(1, max_bytes=1 << 20, max_spans=5)
    assert take is not None
    assert row_packing.pack(store.database, 1, 8 * 1200)
    store.database._repair.note_damage()  # in a place that holds none of them
    store.database.repair()
    assert store.settle(take, 2.0) == 0
    assert store.ledger().pending == 10


def test_no_damage_stops_the_application_and_every_readable_span_is_kept(
    filled: Path, tmp_path: Path
) -> None:
    chance = random.Random(seed())
    for number in range(IMAGES):
        directory = tmp_path / f"damaged-{number}"
        shutil.copytree(filled, directory)
        damage(directory, chance)
        store = use(directory / "spool.db")
        assert store.ledger().pending >= 1
        read_all(store)
        store.close()
        shutil.rmtree(directory)


def test_a_salvage_that_was_killed_at_its_end_is_finished(
    filled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = filled / "spool.db"
    ruin_root_page(path)
    replaced = Path.replace

    def killed(*_: object) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        Store(path).open()
    monkeypatch.setattr(Path, "replace", replaced)
    store = Store(path)
    store.open()
    assert len(list(filled.glob("spool.db.corrupt-*"))) == 1
    store.append(MINE, batch("after"), now=1.0)
    assert store.ledger().pending >= 1
    store.close()


def test_drain_salvages_a_damaged_file_and_sends_what_is_left(filled: Path) -> None:
    path = filled / "spool.db"
    store = Store(path)
    store.open()
    store.close()  # the WAL is in the main file now
    with StandIn(keys={"pk-lf-mine": "sk-lf-mine"}) as langfuse:
        damage_a_leaf(path)
        environment = {
            **os.environ,
            "SPOOL_PATH": str(path),
            "LANGFUSE_PUBLIC_KEY": "pk-lf-mine",
            "LANGFUSE_SECRET_KEY": "sk-lf-mine",
            "LANGFUSE_HOST": langfuse.url,
        }
        command = [sys.executable, "-m", "spool", "drain"]
        drained = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False
        )
        assert "Traceback" not in drained.stderr
        assert "spans were rescued" in drained.stderr
        store = Store(path)
        assert store.ledger().delivered == 5 + langfuse.accepted > 100
        assert_balanced(store)
        store.close()


def test_damage_that_only_the_drainer_meets_is_salvaged_in_the_background(
    filled: Path, settings: Settings, langfuse: StandIn
) -> None:
    path = filled / "spool.db"
    target = Target.langfuse("pk-lf-mine", "sk-lf-test", langfuse.url)
    exporter = SpoolSpanExporter(settings=replace(settings, path=path, target=target))
    exporter._pipeline.store.database.checkpoint()
    damage_a_leaf(path)
    exporter.export([span("fresh")])
    langfuse.wait_for(lambda server: server.names()["fresh"] == 1)
    exporter.shutdown()
    store = Store(path)
    assert 0 < store.ledger().damaged < 20
    store.close()


def damage_a_leaf(path: Path) -> None:
    """Overwrite the head of a page of the main file that holds rows, the WAL being empty."""
    content = bytearray(path.read_bytes())
    (size,) = struct.unpack_from(">H", content, 16)
    page = content.find(b"x" * 500) // size
    content[page * size : page * size + 8] = b"\xff" * 8
    with path.open("r+b") as file:
        file.write(content)
