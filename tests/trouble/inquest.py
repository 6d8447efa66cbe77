"""What a round of chaos that failed leaves: its files, and where each span is that was lost."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import standin
from spool.journal import directory as journals
from spool.journal import header
from spool.otlp.batch import Batch, unpack
from spool.store import journal_chunks
from spool.store.store import Store
from spool.system.locks import can_lock
from writer import Nursery, Trail


def keep(directory: Path, ballast: Path) -> Path:
    """Copy a round's files; give where they are now."""
    kept = Path(tempfile.mkdtemp(prefix="spool-kept-"))
    shutil.copytree(
        directory,
        kept,
        ignore=lambda _, names: {ballast.name} & set(names),
        dirs_exist_ok=True,
    )
    return kept


def sightings(store: Store, nursery: Nursery, lost: set[str]) -> list[str]:
    """Say how far each journal was moved, who ended each lost span, and where it is."""
    places = dict(_places(store))
    said = [f"{path.name}: {state}" for path, state in _states(store)]
    for path in sorted(nursery.directory.glob("*.trail*")):
        mine = sorted(Trail.of([path]).spooled & lost)
        if mine:
            number = int(path.name.split(".")[0])
            said.append(f"{path.name}, of {nursery.jobs[number]}: {len(mine)} are lost")
        said += [f"  {span} is {places.get(span, 'nowhere')}" for span in mine]
    return said


def _places(store: Store) -> Iterator[tuple[str, str]]:
    after = 0
    while page := store.pending(after):
        after = page[-1].id
        for row in page:
            yield from ((span, f"in row {row.id}") for span in _spans_of(row.batch))
    for path in journals.paths(store.database.path):
        with journals.opened(path, store.database.path) as file:
            file.moved = header.SIZE  # also what was moved is told of
            for chunk in file.unmoved():
                offset = chunk.first_at
                for frame in chunk.frames:
                    where = f"in {path.name} at {offset}"
                    yield from ((span, where) for span in _spans_of(frame.batch))
                    offset += frame.size


def _states(store: Store) -> Iterator[tuple[Path, str]]:
    for path in journals.paths(store.database.path):
        with journals.opened(path, store.database.path) as file:
            file.moved, is_dead = journal_chunks.moved(store.database, file), can_lock(file.fd)
            size = file.moved + file.unmoved_bytes
            yield path, f"{file.moved} of {size} bytes moved, {'dead' if is_dead else 'alive'}"


def _spans_of(batch: Batch) -> Iterator[str]:
    for span in standin.spans_of(standin.parse_protobuf(unpack(batch))):
        yield span.span_id.hex()
