"""Every state that a crash can leave on disk is opened, and holds what was promised.

A real process is recorded (syscalls.py): it creates the spool, appends, delivers, checkpoints,
vacuums, closes, salvages. Behind each call that changes the disk, and each word of the process, it
is cut off, and what is uncertain then is kept, dropped, kept in part, or torn. The next process
opens each such image.

What must be there follows from what the process had said before the cut: all that it acknowledged,
where the machine lives on or `SPOOL_SYNC_SECONDS` is 0; else what it acknowledged before its last
completed sync began.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from crashes import TARGET, WORKER, Found, Told, found_in, read
from dead_processes import die
from seeds import seed
from spans import batch
from spool.errors import SpoolDamagedError
from spool.store.store import Store
from syscalls import Call, Disk, Image, Snapshot, calls, has_strace, record, snapshot
from trials import Trial
from users import environment_of

pytestmark = [
    pytest.mark.trust,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(not has_strace, reason="needs strace, and the right to use it"),
]

FAST_DISK = Path("/dev/shm")

SCENARIOS = {
    "creation": "serve export=2 close",
    "a busy life": "export=4 await-sync busy-checkpoint=3 export=3 busy-checkpoint=2 close",
    "a life": "serve export=6 flush export=3x9000 await-sync checkpoint export=4 flush keep close",
    "one more use": "serve export=3 close export=3 await-sync export=2 close",
    "one at a time": "serve "
    + "export=1 sleep=0.3 " * 8
    + "flush "
    + "export=2 await-sync " * 3
    + "close",
    "large journals": "export=3x600000 sleep=0.5 export=3x600000 await-sync export=4x600000 close",
    "vacuum": "export=16x90000 close serve export=1 flush keep export=2 close",
}
FEW_POINTS = 20
MOST_POINTS = 800
SALVAGED_ROWS = 40
FEWEST_IMAGES = {False: 100, True: 3000}
SUBSETS = 3


@dataclass(frozen=True)
class Cut:
    """One image, and what its process had said."""

    name: str
    image: Image
    told: Told
    is_power_cut: bool


class Judge:
    """Opens images, each once, and adds up what came of them."""

    def __init__(self, directory: Path, sync_seconds: str, before: Found | None = None) -> None:
        self._directory = directory
        self._sync_seconds = sync_seconds
        self._before = before or Found()
        self._found: dict[bytes, Found] = {}
        self._owed: dict[bytes, int] = {}
        self.lost: set[str] = set()

    @property
    def images(self) -> int:
        """Count the distinct images."""
        return len(self._found)

    def judge(self, cut: Cut) -> None:
        """Hold an image against what had been said."""
        digest, told = cut.image.digest, cut.told
        if digest not in self._found:
            self._found[digest] = self._open(cut)
        found = self._found[digest]
        is_certain = not cut.is_power_cut or self._sync_seconds == "0"
        owed = told.spooled if is_certain else told.synced
        self._owed[digest] = max(len(owed), self._owed.get(digest, 0))
        lost = (owed | self._before.spans) - found.spans - told.delivered
        self.lost |= lost
        if lost:
            print(f"{cut.name}: {len(lost)} lost, {found.ledger}")
        assert found.spans <= told.begun | self._before.spans, f"{cut.name}: unknown spans"
        assert self._accepted(found) <= len(told.begun), f"{cut.name}: {found.ledger}"
        delivered = found.ledger.delivered - self._before.ledger.delivered
        assert delivered <= len(told.delivered), f"{cut.name}: {found.ledger}"

    def _accepted(self, found: Found) -> int:
        return found.ledger.accepted - self._before.ledger.accepted

    def row(self, name: str) -> Trial:
        """Give the table's row: a span counts in each image that must hold it, or does."""
        accepted = {digest: self._accepted(found) for digest, found in self._found.items()}
        ended = sum(max(accepted[digest], owed) for digest, owed in self._owed.items())
        lost = len(self.lost)
        return Trial(name, self.images, ended, sum(accepted.values()), 0, 0, lost, 0)

    def _open(self, cut: Cut) -> Found:
        directory = self._directory / f"{self.images}"
        cut.image.write(directory)
        try:
            return found_in(directory / "spool" / "spool.db")
        except Exception as error:
            raise AssertionError(f"{cut.name}: {sorted(cut.image.files)}: {error}") from error
        finally:
            shutil.rmtree(directory, ignore_errors=True)


def word_of(call: Call) -> str | None:
    """Give what a process says in the moment that it begins to say it."""
    if call.name != "write" or call.arguments[0] != "1" or call.result is not None:
        return None
    return call.strings[0].decode()


@dataclass(frozen=True)
class Recording:
    """What a process did to a directory."""

    name: str
    root: Path
    before: Snapshot
    calls: tuple[Call, ...]

    @classmethod
    def of(cls, name: str, root: Path, steps: str) -> Recording:
        """Let a worker take the steps, and record it."""
        before = snapshot(root)
        trace = root.with_name(f"{root.name}.trace")
        record([sys.executable, str(WORKER), *steps.split()], trace)
        recording = cls(name, root, before, tuple(calls(trace)))
        trace.unlink()
        return recording

    def points(self) -> list[int]:
        """Number the calls behind which a crash may leave something else, or owe more."""
        disk = Disk(self.root, self.before)
        return [
            number
            for number, call in enumerate(self.calls)
            if disk.see(call) or word_of(call) is not None
        ]

    def cuts(self, most: int, chance: random.Random) -> Iterator[Cut]:
        """Cut the process off: at each such point, or at so many of them."""
        points = self.points()
        chosen = set(chance.sample(points, min(most, len(points))))
        disk, told = Disk(self.root, self.before), Told()
        for number, call in enumerate(self.calls):
            disk.see(call)
            if (word := word_of(call)) is not None:
                told.hear(word)
            if number in chosen:
                yield from self._cuts_at(f"{self.name}, call {number}", disk, told, chance)
        assert disk.all_kept() == Disk(self.root, snapshot(self.root)).all_kept(), "a wrong replay"

    def _cuts_at(self, name: str, disk: Disk, told: Told, chance: random.Random) -> Iterator[Cut]:
        yield Cut(f"{name}, all kept", disk.all_kept(), told, is_power_cut=False)
        yield Cut(f"{name}, all dropped", disk.all_dropped(), told, is_power_cut=True)
        for _ in range(SUBSETS):
            yield Cut(f"{name}, some kept", disk.some_kept(chance), told, is_power_cut=True)
        if torn := disk.last_torn(chance):
            yield Cut(f"{name}, last torn", torn, told, is_power_cut=True)


@pytest.fixture
def images() -> Iterator[Path]:
    """Give a place for images, in memory where that is to be had."""
    root = FAST_DISK if FAST_DISK.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="spool-images-", dir=root) as directory:
        yield Path(directory)


@pytest.fixture
def root(tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Name the directory above the spool's, and let workers use that spool."""
    nobody = "http://127.0.0.1:9"  # see `serve`
    for name, value in environment_of(path, nobody).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SPOOL_SYNC_SECONDS", "1")
    monkeypatch.setenv("SPOOL_BACKOFF_SECONDS", "0.01..0.05")
    return path.parent.parent


@pytest.mark.parametrize("sync_seconds", ["0", "1"])
def test_every_state_that_a_crash_leaves_holds_what_was_promised(
    root: Path,
    images: Path,
    sync_seconds: str,
    is_full: bool,
    monkeypatch: pytest.MonkeyPatch,
    report: Callable[[Trial], None],
) -> None:
    chance = random.Random(seed())
    monkeypatch.setenv("SPOOL_SYNC_SECONDS", sync_seconds)
    judge = Judge(images, sync_seconds)
    for name, steps in SCENARIOS.items():
        shutil.rmtree(root / "spool", ignore_errors=True)
        recording = Recording.of(name, root, steps)
        for cut in recording.cuts(MOST_POINTS if is_full else FEW_POINTS, chance):
            judge.judge(cut)
        print(f"{name}: {len(recording.points())} points, {judge.images} images so far")
    report(judge.row(f"crash, SPOOL_SYNC_SECONDS={sync_seconds}"))
    assert judge.images > FEWEST_IMAGES[is_full]
    assert (root / "spool" / "spool.db").stat().st_size < 1 << 20, "nothing was vacuumed"


def test_a_spool_that_does_not_sync_is_found_out(
    root: Path, images: Path, report: Callable[[Trial], None]
) -> None:
    judge = Judge(images, "1")
    recording = Recording.of("unsynced", root, "unsynced export=4 await-sync export=1 close")
    for cut in recording.cuts(MOST_POINTS, random.Random(1)):
        judge.judge(cut)
    assert judge.lost


def fill(path: Path) -> None:
    """Leave a spool as its process's death does: spans in the main file and in the WAL."""
    store = Store(path)
    store.register(TARGET)
    for number in range(SALVAGED_ROWS):
        store.append(TARGET, batch(f"old {number}", size=number * 20), now=float(number))
        if number == SALVAGED_ROWS // 2:
            store.database.checkpoint()
    files = {file: file.read_bytes() for file in path.parent.iterdir()}
    store.close()
    for file, content in files.items():
        if not file.name.endswith("-shm"):
            file.write_bytes(content)


def ruin_a_leaf(path: Path, *, has_wal: bool) -> None:
    """Overwrite the last page of the main file, and take the WAL away if there is to be none."""
    content = path.read_bytes()
    path.write_bytes(content[:-4096] + b"\xa5" * 4096)
    if not has_wal:
        path.with_name("spool.db-wal").unlink()


@pytest.mark.parametrize("has_wal", [True, False])
def test_a_salvage_can_be_cut_off_anywhere(
    root: Path,
    path: Path,
    images: Path,
    has_wal: bool,
    is_full: bool,
    report: Callable[[Trial], None],
) -> None:
    fill(path)
    ruin_a_leaf(path, has_wal=has_wal)
    damaged = Disk(root, snapshot(root)).all_kept()
    damaged.write(images / "before")
    judge = Judge(images, "1", before=found_in(images / "before" / "spool" / "spool.db"))
    recording = Recording.of("salvage", root, "serve export=2 close")
    for cut in recording.cuts(MOST_POINTS if is_full else FEW_POINTS, random.Random(seed())):
        judge.judge(cut)
    report(judge.row(f"crash in a salvage, {'with' if has_wal else 'without'} a WAL"))


def test_taking_over_from_a_dead_process_can_be_cut_off_anywhere(
    root: Path, path: Path, images: Path, is_full: bool, report: Callable[[Trial], None]
) -> None:
    die(path, *map(str, range(10)))
    Disk(root, snapshot(root)).all_kept().write(images / "before")
    judge = Judge(images, "1", before=found_in(images / "before" / "spool" / "spool.db"))
    recording = Recording.of("take over", root, "serve export=2 await-sync flush export=1 close")
    for cut in recording.cuts(MOST_POINTS if is_full else FEW_POINTS, random.Random(seed())):
        judge.judge(cut)
    report(judge.row("crash while a dead process's spans are taken over"))


def test_a_salvage_that_was_killed_half_way_is_not_taken_for_done(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(path)
    path.write_bytes(bytes(4096) + path.read_bytes()[4096:])  # too bad for SQLite to make a WAL
    path.with_name("spool.db-wal").unlink()
    killed = f"""
import os, pathlib, spool.store.salvage, spool.store.store
spool.store.salvage.salvage = lambda *_: os._exit(9)
spool.store.store.Store(pathlib.Path({str(path)!r})).open()"""
    assert subprocess.run([sys.executable, "-c", killed], check=False).returncode == 9
    monkeypatch.setattr("spool.store.salvage._MOST_PROBES", 10)
    found_in(path)
    assert len(list(path.parent.glob("*.corrupt-*"))) == 2


def test_a_salvage_that_was_killed_before_its_last_step_has_the_wals_spans(
    path: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(path)
    ruin_a_leaf(path, has_wal=True)
    Disk(path.parent.parent, snapshot(path.parent.parent)).all_kept().write(images)
    whole = found_in(images / "spool" / "spool.db")
    with monkeypatch.context() as killed:
        killed.setattr(Path, "replace", interrupted)
        store = Store(path)
        with pytest.raises(SpoolDamagedError):
            read(store)
        with pytest.raises(KeyboardInterrupt):
            store.open()
    found = found_in(path)
    store.close()
    assert found == whole
    assert len(found.spans) > SALVAGED_ROWS // 2


def interrupted(*_: object) -> Path:
    raise KeyboardInterrupt
