"""A file that is damaged, removed, replaced or not ours: nothing stops, nothing goes uncounted."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import sqlite3
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from opentelemetry.sdk.trace.export import SpanExportResult

import standin
from damaged_files import DELIVERED, ROWS, damage, fill
from ledgers import balances
from seeds import seed
from spans import batch, span
from spool import Settings, SpoolFileError, SpoolSpanExporter
from spool.delivery.drainer import Drainer
from spool.errors import SpoolDamagedError
from spool.otlp.batch import unpack
from spool.settings.target import Target
from spool.store import takeover
from spool.store.records import Ledger
from spool.store.store import Store
from spool.system.spool_files import beside
from standin import StandIn
from targets import MINE, OTHERS
from trials import Trial
from users import SHORT_WAITS, environment_of
from waits import wait_until
from witness import Witness
from writer import Nursery, Trail

# With --full it takes minutes.
pytestmark = [pytest.mark.trust, pytest.mark.timeout(1200)]

NAMES = {f"s{number}" for number in range(ROWS)} | {"after"}


# Damage


def ruin(directory: Path, chance: random.Random) -> None:
    """Damage the main file or the WAL: flip bytes, cut, empty, or overwrite with garbage."""
    way = chance.random()
    if way < 0.8:
        damage(directory, chance)
        return
    file = directory / chance.choice(["spool.db", "spool.db-wal"])
    size = file.stat().st_size
    file.write_bytes(b"" if way < 0.9 else chance.randbytes(size))


def target_of(target: Target, langfuse: StandIn) -> Target:
    """Keep the identity, and send to the stand-in."""
    return Target.langfuse(str(target.public_key), "sk-lf-test", langfuse.url)


def use(path: Path, langfuse: StandIn) -> Ledger:
    """Do with a file what an application and a drain do with it; give the ledger."""
    targets = [target_of(target, langfuse) for target in (MINE, OTHERS)]
    settings = Settings(path=path, target=targets[0], drain=False, sync_seconds=0.1)
    exporter = SpoolSpanExporter(settings=settings)
    exporter.export([span("after")])
    wait_until(lambda: not exporter._pipeline.overflow)
    exporter.shutdown()
    store = Store(path)
    drainer = Drainer(store, settings)
    for target in targets:
        drainer.routes.add(target)
    for _ in range(3):  # what only a reader meets is salvaged by the next writer
        with contextlib.suppress(SpoolDamagedError):
            takeover.take_over(store, compress=True, sending=10.0)  # what shutdown could not move
            while drainer.send_due():
                pass
        store.database.repair()
    ledger = store.ledger()
    store.close()
    return ledger


def test_no_damage_stops_the_application_and_what_is_missing_is_counted(
    path: Path,
    tmp_path: Path,
    langfuse: StandIn,
    is_full: bool,
    report: Callable[[Trial], None],
) -> None:
    chance = random.Random(seed())
    store = Store(path)
    fill(store)
    crashed = tmp_path / "crashed"
    shutil.copytree(path.parent, crashed)
    store.close()
    counted = Trial("damaged files", 0, 0, 0, 0, 0, 0, 0)
    uncounted = replace(counted, name="damaged files, the totals among the damage")
    for number in range(1200 if is_full else 25):
        directory = tmp_path / f"damaged-{number}"
        shutil.copytree(crashed, directory)
        ruin(directory, chance)
        begin = len(langfuse.spans)
        ledger = use(directory / "spool.db", langfuse)
        arrived = {span.name for span in langfuse.spans[begin:]}
        assert arrived <= NAMES, arrived - NAMES
        assert balances(ledger), ledger
        assert ledger.pending == 0, ledger
        lost = ledger.delivered - DELIVERED - len(arrived)
        if ledger.accepted == len(NAMES):
            counted = added(counted, ledger, ended=len(NAMES), lost=lost)
        else:  # what is gone with the totals cannot be counted; what could be read was sent
            uncounted = added(uncounted, ledger, ended=ledger.accepted, lost=lost)
        shutil.rmtree(directory)
    assert counted.tried > 0
    report(counted)
    report(uncounted)


def added(trouble: Trial, ledger: Ledger, *, ended: int, lost: int) -> Trial:
    return replace(
        trouble,
        tried=trouble.tried + 1,
        ended=trouble.ended + ended,
        accepted=trouble.accepted + ledger.accepted,
        refused=trouble.refused + ledger.refused,
        lost=trouble.lost + max(0, lost),
        # Rows that were delivered come back with an older version of their page.
        duplicates=trouble.duplicates + max(0, -lost),
    )


def varint(number: int) -> bytes:
    """Write a number as SQLite's file format does (its section 1.6)."""
    groups = [number & 0x7F]
    while number := number >> 7:
        groups.append(number & 0x7F | 0x80)
    return bytes(reversed(groups))


def hold_three(store: Store, langfuse: StandIn) -> Target:
    """Hold the spans s0 to s2 in a closed file, a row each."""
    target = target_of(MINE, langfuse)
    for number in range(3):
        store.append(target, batch(f"s{number}"), now=float(number))
    store.close()
    return target


def drain_and_repair(store: Store, target: Target) -> None:
    """Send what can be sent; who meets damage says so, and then it is salvaged."""
    drainer = Drainer(store, Settings(path=store.database.path, target=target))
    drainer.routes.add(target)
    for _ in range(5):
        with contextlib.suppress(SpoolDamagedError):
            drainer.send_due()
        store.database.repair()


@pytest.mark.parametrize("bit", [1 << 33, 1 << 41])
def test_a_row_whose_id_is_damaged_does_not_stall_the_drain(
    bit: int, store: Store, path: Path, langfuse: StandIn
) -> None:
    target = hold_three(store, langfuse)
    first = (1 << 40) + 1
    content = path.read_bytes()
    assert content.count(varint(first)) == 1
    content = content.replace(varint(first), varint(first + bit))
    path.write_bytes(content.replace(b"s0", b"t0"))
    drain_and_repair(store, target)
    assert set(langfuse.names()) == {"s1", "s2"}
    ledger = store.ledger()
    assert (ledger.delivered, ledger.damaged, ledger.pending) == (2, 1, 0)


def test_two_rows_of_one_id_are_not_both_ended_with_the_first(
    store: Store, path: Path, langfuse: StandIn
) -> None:
    target = hold_three(store, langfuse)
    third = (1 << 40) + 3
    content = path.read_bytes()
    assert content.count(varint(third)) == 1
    # The second row is taken alone, for its checksum does not match; the third has its id.
    content = content.replace(varint(third), varint(third - 1)).replace(b"s1", b"t1")
    path.write_bytes(content)
    drain_and_repair(store, target)
    ledger = store.ledger()
    assert ledger.delivered == len(langfuse.names()) > 0
    assert ledger.pending == 0
    assert balances(ledger)


# Files that come and go


def move_away(path: Path, number: int) -> None:
    """Rename the main file and its WAL, as a person does who wants to keep them."""
    aside = path.parent.parent / f"aside-{number}"
    aside.mkdir()
    # The main file first: without it nobody writes to the WAL any more.
    for suffix in ("", "-wal", "-shm"):
        source = path.with_name(path.name + suffix)
        if source.exists():
            source.rename(aside / source.name)


def move_directory(path: Path, number: int) -> None:
    """Rename the directory, with all that is in it."""
    path.parent.rename(path.parent.parent / f"aside-{number}")


def ids_in(path: Path) -> set[str]:
    """Read every span's id in a spool."""
    store = Store(path)
    try:
        batches = [frame.batch for frame in store.inbound()]
    except SpoolFileError:  # it was moved while it was made: the next writer finishes that
        store.open()
        batches = [frame.batch for frame in store.inbound()]
    after = 0
    while rows := store.pending(after):
        after = rows[-1].id
        batches += [row.batch for row in rows]
    store.close()
    requests = [standin.parse_protobuf(unpack(one)) for one in batches]
    return {span.span_id.hex() for request in requests for span in standin.spans_of(request)}


def has_removed_journal(nursery: Nursery) -> bool:
    """Say whether a process has a journal open that is nowhere (proc(5))."""
    open_files = [fd for pid in list(nursery.alive) for fd in Path(f"/proc/{pid}/fd").iterdir()]
    names = []
    for fd in open_files:
        with contextlib.suppress(FileNotFoundError):
            names.append(str(fd.readlink()))
    return any(".inbox-" in name and name.endswith(" (deleted)") for name in names)


def eight_writers_meet(
    times: int, trouble: Callable[[int, Nursery], None], path: Path, directory: Path
) -> Trail:
    """Let them write, and trouble the file again and again; give what they wrote down."""
    with (
        Witness() as langfuse,
        Nursery(directory / "trails", environment_of(path, langfuse.url, **SHORT_WAITS)) as nursery,
    ):
        for _ in range(8):
            nursery.start(environment={"SPOOL_DRAIN": "off"})
        trails = nursery.directory
        wait_until(lambda: sum(one.stat().st_size > 0 for one in trails.glob("*.trail")) == 8)
        for number in range(times):
            time.sleep(0.3)
            wait_until(beside(path, "-wal").exists)  # it is whole
            trouble(number, nursery)
        time.sleep(0.3)
        # What is still in a removed journal as its process ends, went with it.
        wait_until(lambda: not has_removed_journal(nursery))
        nursery.stop()
        assert nursery.deaths() == {}, nursery.errors()
        assert "Traceback" not in nursery.errors(), nursery.errors()
        return nursery.trail()


@pytest.mark.parametrize("move", [move_away, move_directory])
def test_a_file_that_is_moved_away_under_eight_writers_keeps_what_it_has(
    move: Callable[[Path, int], None],
    path: Path,
    tmp_path: Path,
    is_full: bool,
    report: Callable[[Trial], None],
) -> None:
    moves = 50 if is_full else 4
    trail = eight_writers_meet(moves, lambda number, _: move(path, number), path, tmp_path)
    files = [*filter(Path.exists, [path]), *tmp_path.glob("aside-*/spool.db")]
    found = set().union(*map(ids_in, files))
    stores = [Store(file) for file in files]
    ledgers = [store.ledger() for store in stores]
    for store in stores:
        store.close()
    report(
        Trial(
            name=f"a file under 8 writers: {move.__name__.replace('_', ' ')}",
            tried=moves,
            ended=len(trail.ended(found)),
            accepted=sum(ledger.accepted for ledger in ledgers),
            refused=sum(ledger.refused for ledger in ledgers),
            in_memory=0,
            lost=len(trail.spooled - found),
            duplicates=0,
        )
    )


def test_a_file_that_is_removed_under_eight_writers_takes_along_only_what_it_had(
    path: Path, tmp_path: Path, is_full: bool, report: Callable[[Trial], None]
) -> None:
    removals = 50 if is_full else 4
    gone: set[str] = set()

    def remove(_: int, nursery: Nursery) -> None:
        nonlocal gone
        is_gone = False
        while not is_gone:  # the writers may just have put something there
            with contextlib.suppress(OSError):
                shutil.rmtree(path.parent)
                is_gone = True
        # What was written between is in the new file, or was begun before.
        gone = nursery.trail().begun

    trail = eight_writers_meet(removals, remove, path, tmp_path)
    found = ids_in(path)
    store = Store(path)
    ledger = store.ledger()
    store.close()
    assert len(trail.spooled - gone) > 8
    report(
        Trial(
            name="a file that is removed under 8 writers",
            tried=removals,
            ended=len(found),  # the others went with the files, and their ledgers
            accepted=ledger.accepted,
            refused=ledger.refused,
            in_memory=0,
            lost=len(trail.spooled - gone - found),
            duplicates=0,
        )
    )


# What is not ours


def other_applications(path: Path) -> None:
    with sqlite3.connect(path) as theirs:
        theirs.execute("CREATE TABLE theirs (x)")
        theirs.execute("INSERT INTO theirs VALUES ('precious')")
    theirs.close()


def newer_versions(path: Path) -> None:
    store = Store(path)
    with store.database.writing() as connection:
        connection.execute("PRAGMA user_version = 200")
    store.close()


def text(path: Path) -> None:
    path.write_text("shopping list\n" * 500)


@pytest.mark.parametrize("make", [other_applications, newer_versions, text])
def test_what_is_not_ours_is_refused_and_stays_as_it_is(
    make: Callable[[Path], None], path: Path, settings: Settings
) -> None:
    path.parent.mkdir()
    make(path)
    before = contents(path.parent)
    with pytest.raises(SpoolFileError):
        SpoolSpanExporter(settings=settings)
    assert contents(path.parent) == before


@pytest.mark.parametrize("make", [other_applications, newer_versions])
def test_what_is_not_ours_and_comes_to_the_path_under_a_writer_stays_as_it_is(
    make: Callable[[Path], None], path: Path, tmp_path: Path, settings: Settings
) -> None:
    made = tmp_path / "made" / "spool.db"
    made.parent.mkdir()
    make(made)
    content = made.read_bytes()
    exporter = SpoolSpanExporter(settings=replace(settings, drain=False))
    exporter.export([span("before")])
    wait_until(lambda: exporter._pipeline.store.pending() != [])
    os.replace(made, path)  # noqa: PTH105 - under the writer, at once
    for _ in range(5):
        assert exporter.export([span("waiting")]) is SpanExportResult.SUCCESS
    time.sleep(0.5)  # so long maintenance tries to move them
    path.rename(made)
    exporter.shutdown()
    assert made.read_bytes() == content
    store = Store(path)
    assert store.ledger().accepted == 5
    store.close()


def contents(directory: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(directory.iterdir())}
