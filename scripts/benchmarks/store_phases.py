"""The phases that measure stores alone: puts, drains, backlogs, bytes on disk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.child import environment, run
from benchmarks.plan import Found, Plan, fill, in_turn, samples
from benchmarks.receiver import Receiver
from benchmarks.results import Row, Samples
from benchmarks.stores import DURABLE

if TYPE_CHECKING:
    from benchmarks.plan import Program


def stores(plan: Plan) -> list[Row]:
    """One span a put, then all taken out and POSTed uncompressed; one process."""
    with Receiver(environment(), keeps=False) as receiver:

        def program(store: str) -> Program:
            def measure() -> dict[str, Any]:
                found: dict[str, Any] = run(
                    "stores:put_and_drain",
                    store=store,
                    endpoint=receiver.endpoint,
                    path=plan.path(),
                    spans=plan.puts // 5 if store == "azure" else plan.puts,
                )
                return found

            return measure

        found, missing = in_turn(plan, {name: program(name) for name in DURABLE})
    rows = []
    for peer, ours in _STORE_PEERS.items():
        for what, unit, key, more in _STORE_FIGURES:
            rows.append(
                Row(
                    "Stores alone, single spans of ready bytes",
                    f"{ours}: {what}",
                    unit,
                    samples(found, ours, key),
                    peer,
                    samples(found, peer, key),
                    1.0,
                    more,
                    durable=f"{peer}: what can be lost: {DURABLE[peer]}.",
                    note=missing.get(peer, ""),
                )
            )
    names = ("ours", "ours-synced")
    return [*rows, *(_durable_row(name, found) for name in names)]


def _durable_row(name: str, found: Found) -> Row:
    phase = "Stores alone, single spans of ready bytes"
    durable = f"{name}: what can be lost: {DURABLE[name]}."
    return Row(phase, f"{name}: a put", "µs", samples(found, name, "put_us"), durable=durable)


# Each against ours with the same promise, or a weaker one of theirs.
_STORE_PEERS = {
    "persist-queue-sqlite": "ours-synced",
    "persist-queue-file": "ours",
    "litequeue": "ours",
    "azure": "ours",
}
_STORE_FIGURES = (
    ("a put", "µs", "put_us", False),
    ("CPU of a put", "µs", "put_cpu_us", False),
    ("drain", "spans/s", "per_second", True),
    ("on disk", "bytes/span", "bytes", False),
)


# Backlogs


def drain(plan: Plan) -> list[Row]:
    """Drain a backlog that was packed, and one of single spans; against POSTs from memory."""
    with Receiver(environment(), keeps=False) as receiver:

        def ours(compression: str, *, is_packed: bool) -> dict[str, Any]:
            path = plan.path()
            spans = plan.packed if is_packed else plan.unpacked
            fill(path, receiver.endpoint, spans, is_packed=is_packed)
            found: dict[str, Any] = run(
                "backlogs:drain", path=path, endpoint=receiver.endpoint, compression=compression
            )
            return found

        def memory(spans: int, encoding: str) -> dict[str, Any]:
            found: dict[str, Any] = run(
                "backlogs:post_from_memory",
                endpoint=receiver.endpoint,
                spans=spans,
                encoding=encoding,
            )
            return found

        found, _ = in_turn(
            plan,
            {
                "packed": lambda: ours("gzip", is_packed=True),
                "gzip from memory": lambda: memory(plan.packed, "gzip"),
                "unpacked": lambda: ours("none", is_packed=False),
                "plain from memory": lambda: memory(plan.unpacked, "identity"),
                "unpacked, compressed on the way": lambda: ours("gzip", is_packed=False),
            },
        )
    unsent = [r["pending"] for results in found.values() for r in results if r.get("pending")]
    note = f"{sum(unsent)} spans were not drained." if unsent else "Every span was delivered."
    rows = [
        ("packed", "the same bodies from memory", "gzip from memory", 0.6),
        ("packed", "", "", 500_000.0),
        ("unpacked", "the same bodies from memory", "plain from memory", None),
        ("unpacked", "", "", 100_000.0),
        ("unpacked, compressed on the way", "", "", None),
    ]
    return [
        Row(
            "Drain of a backlog",
            what,
            "spans/s",
            samples(found, what, "per_second"),
            peer,
            samples(found, key, "per_second") if key else None,
            limit,
            more_is_better=True,
            durable="Durable: what is not delivered yet stays on disk; memory's bodies do not.",
            note=note,
        )
        for what, peer, key, limit in rows
    ]


def disk(plan: Plan) -> list[Row]:
    """Bytes on disk a span, against raw OTLP."""

    def left(spans: int, *, is_packed: bool) -> dict[str, Any]:
        return fill(plan.path(), "http://127.0.0.1:9/v1/traces", spans, is_packed=is_packed)

    found, missing = in_turn(
        plan,
        {
            "packed": lambda: left(plan.packed, is_packed=True),
            "single spans, before packing": lambda: left(plan.puts, is_packed=False),
            "logfire's files": _logfire_disk,
        },
    )

    def row(what: str, peer: str, key: str, limit: float | None = None) -> Row:
        return Row(
            "On disk",
            what,
            "bytes/span",
            samples(found, what, "disk_bytes"),
            peer,
            samples(found, peer if peer in found else what, key),
            limit,
            note=missing.get(
                peer,
                "Packed at gzip level 1; all files of the spool, after a checkpoint. logfire: a "
                "request of 512 spans at level 9, deleted when the process exits. The other "
                "peers' bytes stand with the stores.",
            ),
        )

    return [
        row("packed", "raw OTLP", "raw_bytes", 0.3),
        row("packed", "logfire's files", "disk_bytes"),
        row("single spans, before packing", "raw OTLP", "raw_bytes"),
    ]


def _logfire_disk() -> dict[str, Any]:
    found: dict[str, Any] = run("stores:logfire_disk", spans=512)
    return found


def backlog(plan: Plan) -> list[Row]:
    """What a backlog costs those who only pass by, against a spool with one request."""
    rows: list[Row] = []
    for what, spans, is_packed in (
        (f"{plan.packed:,} packed spans", plan.packed, True),
        (f"{plan.unpacked:,} single spans", plan.unpacked, False),
    ):
        plan.say(f"filling: {what}")
        with Receiver(environment(), keeps=False) as receiver:
            endpoint, large = receiver.endpoint, plan.path()
            fill(large, endpoint, spans, is_packed=is_packed)
            results = []
            for number in range(plan.rounds):
                plan.say(f"round {number + 1}: {what}")
                results.append(_pass_by(plan.path(), large, endpoint, is_packed=is_packed))
        rows += [
            Row(
                "Passing by a backlog",
                f"{action}, {what}",
                "µs",
                Samples(tuple(result["large"][action] for result in results)),
                "one request",
                Samples(tuple(result["small"][action] for result in results)),
                1.2,
            )
            for action in results[0]["small"]
        ]
    return rows


def _pass_by(small: str, large: str, endpoint: str, *, is_packed: bool) -> dict[str, Any]:
    found: dict[str, Any] = run(
        "backlogs:pass_by", small=small, large=large, endpoint=endpoint, is_packed=is_packed
    )
    return found
