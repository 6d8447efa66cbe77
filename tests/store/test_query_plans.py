"""Nothing grows with the backlog: no statement scans the rows that wait, however many there are."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from spans import batch
from spool.store import eviction, ingest, route_waits, row_packing, sql
from spool.store.records import Take
from spool.store.store import Store
from targets import MINE, OTHERS

FEW, MANY = 500, 50_000

# Templates are statements for these columns.
COLUMNS = {
    "COUNT": ("accepted", "delivered", "evicted", "purged"),
    "NOT_ACCEPTED_AGAIN": ("id", "name"),
}
STATEMENTS = {
    f"{name} {column}".rstrip(): text.format(column)
    for name, text in vars(sql).items()
    if name.isupper() and isinstance(text, str) and name != "COLUMNS"
    for column in COLUMNS.get(name, ("",))
}
VERB = re.compile(r"\s*(SELECT|INSERT|UPDATE|DELETE|WITH)\b")
SCAN_OF_ROWS = re.compile(r"SCAN (TABLE )?(batch|b)\b")

# One statement, whose trigger counts each row.
FILL = """
    WITH RECURSIVE number (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < ?)
    INSERT INTO batch (id, route, created_at, spans, raw_bytes, codec, crc32, payload)
    SELECT (batch.route << 40) + n + 1, batch.route, n, spans, raw_bytes, codec, crc32, payload
    FROM batch, number"""


def holding(path: Path, rows: int) -> Store:
    """Hold a backlog of one route, and a span of another."""
    store = Store(path)
    store.append(MINE, batch("a"), now=0.0)
    with store.database.transaction() as connection:
        connection.execute(FILL, (rows - 1,))
    store.append(OTHERS, batch("b"), now=0.0)
    assert store.ledger().pending == rows + 1
    return store


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, Store]]:
    """Hold a small backlog and a large one."""
    directory = tmp_path_factory.mktemp("backlogs")
    made = {rows: holding(directory / str(rows) / "spool.db", rows) for rows in (FEW, MANY)}
    yield made
    for store in made.values():
        store.close()


def take_of(store: Store) -> Take:
    take = store.take(1, max_bytes=1 << 20, max_spans=100)
    assert take is not None
    return take


def watched(store: Store, work: Callable[[Store], object]) -> tuple[set[str], int]:
    """Give the statements that work executes, and count their steps, those of triggers included."""
    statements: set[str] = set()
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    with store.database.reading() as reader, store.database.writing() as writer:
        pass
    for connection in (reader, writer):
        connection.set_progress_handler(count, 1)
        connection.set_trace_callback(statements.add)
    try:
        work(store)
    finally:
        for connection in (reader, writer):
            connection.set_progress_handler(None, 1)
            connection.set_trace_callback(None)
    return {text for text in statements if VERB.match(text)}, steps


def scans_in(store: Store, statement: str) -> list[str]:
    """Give the steps of a statement's plan that look at all rows."""
    values = dict.fromkeys(re.findall(r":(\w+)", statement)) or [None] * statement.count("?")
    with store.database.reading() as connection:
        plan = connection.execute(f"EXPLAIN QUERY PLAN {statement}", values).fetchall()
    return [detail for *_, detail in plan if SCAN_OF_ROWS.match(detail)]


def accept_and_ingest(store: Store) -> None:
    store.accept(MINE, batch("c"), now=1.0)
    ingest.ingest(store, compress=False)


WAY_OF_A_SPAN: dict[str, Callable[[Store], object]] = {
    "append": lambda store: store.append(MINE, batch("c"), now=1.0),
    "ingest": accept_and_ingest,
    "register": lambda store: store.register(MINE),
    "take": take_of,
    "settle": lambda store: store.settle(take_of(store), 2.0, accepted_by=""),
    "settle dead": lambda store: store.settle(take_of(store), 2.0, dead=1, reason="400"),
    "is settled": lambda store: store.is_settled(store.last_id(MINE.route)),
    "first and newest": lambda store: (store.first_id(1), store.newest_id(1)),
    "routes": lambda store: store.routes(),
    "waiting": lambda store: store.waiting(),
    "wait": lambda store: route_waits.wait(store.database, store.routes()[0], 1.0, 1.0, "503"),
    "ledger": lambda store: store.ledger(),
    "pack": lambda store: row_packing.pack(store.database, 1, 1000),
    "evict": lambda store: eviction.evict(store, store.database.live_bytes() - 1, 1.0),
    "watch": lambda store: eviction.watch(store, 1.0, 1.0),
}


@pytest.mark.parametrize("name", STATEMENTS)
def test_no_statement_scans_the_rows_that_wait(stores: dict[int, Store], name: str) -> None:
    assert scans_in(stores[MANY], STATEMENTS[name]) == []


@pytest.mark.parametrize("step", WAY_OF_A_SPAN)
def test_no_step_of_a_span_takes_longer_behind_a_large_backlog(
    stores: dict[int, Store], step: str
) -> None:
    (_, few), (statements, many) = (watched(s, WAY_OF_A_SPAN[step]) for s in stores.values())
    assert 0 < many <= 1.1 * few + 50
    assert statements
    for statement in statements:
        assert scans_in(stores[MANY], statement) == [], statement[:200]


@pytest.mark.parametrize("condition", ["codec = 1", "route = 1", "id + 0 > 5"])
def test_a_scan_would_be_found(stores: dict[int, Store], condition: str) -> None:
    statement = f"SELECT total(spans) FROM batch WHERE {condition}"

    def scan(store: Store) -> None:
        with store.database.reading() as connection:
            connection.execute(statement).fetchall()

    assert scans_in(stores[MANY], statement)
    (_, few), (statements, many) = (watched(store, scan) for store in stores.values())
    assert statements == {statement}
    assert many > 10 * few
