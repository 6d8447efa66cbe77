"""The phases that measure whole applications: CPU, the time in `end()`, memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.child import environment, run
from benchmarks.plan import Found, Plan, fill, in_turn, samples
from benchmarks.receiver import Receiver
from benchmarks.results import Row, Samples

if TYPE_CHECKING:
    from benchmarks.plan import Program

# CPU


_PIPELINES = {
    "none": ("none", "none", 0),
    "stock, no compression": ("stock", "none", 0),
    "stock, gzip level 1": ("stock", "gzip", 1),
    "stock, gzip level 9": ("stock", "gzip", 0),
    "logfire, gzip level 9": ("logfire", "gzip", 0),
    "ours, no compression": ("ours", "none", 0),
    "ours, gzip level 1": ("ours", "gzip", 0),
    "ours behind BSP, no compression": ("ours-batch", "none", 0),
    "ours behind BSP, gzip level 1": ("ours-batch", "gzip", 0),
}

# Ours, the peer, and the target.
_CPU_ROWS = [
    ("ours, no compression", "stock, no compression", 0.8),
    ("ours, gzip level 1", "stock, gzip level 1", 0.7),
    ("ours, gzip level 1", "stock, gzip level 9", 0.55),
    ("ours, gzip level 1", "logfire, gzip level 9", 1.0),
    ("ours, gzip level 1", "stock, no compression", None),
    ("ours behind BSP, no compression", "stock, no compression", 0.6),
    ("ours behind BSP, gzip level 1", "stock, gzip level 1", 0.5),
    ("ours behind BSP, gzip level 1", "stock, gzip level 9", 0.4),
    ("ours behind BSP, gzip level 1", "logfire, gzip level 9", 1.0),
]

_CPU_RUNS = 3

_CPU_NOTES = """\
Durable: ours when `end()` returns (kill -9 takes nothing, a power cut the last second); ours behind
BSP when its queue was exported; stock and logfire never, with a healthy endpoint they keep spans in
memory only. All: every span was delivered before the clock stopped. Creation of the spans included,
start, imports and the first request not. The stock exporter has no gzip level: it uses Python's 9,
and 1 was set by replacing its `gzip.GzipFile`.""".replace("\n", " ")


def cpu(plan: Plan) -> list[Row]:
    """CPU per span, all in, at a healthy endpoint."""
    with Receiver(environment(), keeps=True) as receiver:

        def program(kind: str, compression: str, level: int) -> Program:
            def measure() -> dict[str, Any]:
                pipeline = {
                    "kind": kind,
                    "endpoint": receiver.endpoint,
                    "path": plan.path(),
                    "compression": compression,
                    "level": level,
                }
                spans = _CPU_RUNS * plan.spans  # so that little of it is the end
                found = run("pipelines:cpu", pipeline=pipeline, spans=spans, rate=plan.rate)
                return {**found, "arrived": receiver.counts()["spans"]}

            return measure

        programs = {name: program(*how) for name, how in _PIPELINES.items()}
        found, missing = in_turn(plan, programs)
    rows = [
        Row(
            "CPU per span, all in",
            ours,
            "µs",
            samples(found, ours, "cpu_us"),
            peer,
            samples(found, peer, "cpu_us"),
            limit,
            durable=_CPU_NOTES,
            note=missing.get(peer, "") or _lost(found, ours, peer),
        )
        for ours, peer, limit in _CPU_ROWS
    ]
    bare = samples(found, "none", "cpu_us")
    note = "“no exporter” is the creation of the spans alone."
    return [*rows, Row("CPU per span, all in", "no exporter", "µs", bare, note=note)]


def _lost(found: Found, *names: str) -> str:
    lost = {n: r["ended"] - r["arrived"] for n in names for r in found[n]}
    return "; ".join(f"{name}: {count} did not arrive" for name, count in lost.items() if count)


# The application's thread


_KINDS = {
    "ours": "ours",
    "ours, drainer busy": "ours",
    "ours behind BSP": "ours-batch",
    "stock behind BSP": "stock",
    "stock in SimpleSpanProcessor": "stock-simple",
    "logfire": "logfire",
}
# Each against what promises the same, or less.
_END_PEERS = [
    ("ours", "stock in SimpleSpanProcessor"),
    ("ours behind BSP", "stock behind BSP"),
    ("ours behind BSP", "logfire"),
]
_END_LIMITS = {
    ("ours", "p50"): 60.0,
    ("ours, drainer busy", "p50"): 60.0,
    ("ours, drainer busy", "p99"): 1000.0,
}
_END_NOTE = """\
Busy: beside the drain of a backlog of single spans, and only while that lasts. Durable when `end()`
returned: ours; stock in SimpleSpanProcessor has delivered the span; whatever stands behind BSP, and
logfire, have it in memory.""".replace("\n", " ")


def end(plan: Plan) -> list[Row]:
    """How long `end()` takes in the application's thread."""
    with Receiver(environment(), keeps=False) as receiver:

        def program(name: str, kind: str) -> Program:
            def measure() -> dict[str, Any]:
                pipeline = {"kind": kind, "endpoint": receiver.endpoint, "path": plan.path()}
                backlog = plan.unpacked if name.endswith("busy") else 0
                if backlog:
                    fill(pipeline["path"], receiver.endpoint, backlog, is_packed=False)
                how = {"spans": plan.spans // 2, "rate": plan.rate / 2, "backlog": backlog}
                found: dict[str, Any] = run("pipelines:end_times", pipeline=pipeline, **how)
                return found

            return measure

        programs = {name: program(name, kind) for name, kind in _KINDS.items()}
        found, missing = in_turn(plan, programs)

    busy = samples(found, "ours, drainer busy", "count")
    note = f"{_END_NOTE} Spans ended while it was busy: {busy}."

    def row(name: str, key: str, peer: str = "") -> Row:
        return Row(
            "Time in end(), the application's thread",
            f"{name}: {key}",
            "µs",
            samples(found, name, key),
            peer,
            samples(found, peer, key) if peer else None,
            None if peer else _END_LIMITS.get((name, key)),
            note=missing.get(peer, note),
        )

    own = [row(name, key) for name in list(_KINDS)[:3] for key in ("p50", "p99")]
    return own + [row(ours, key, peer) for ours, peer in _END_PEERS for key in ("p50", "p99")]


# Memory


def memory(plan: Plan) -> list[Row]:
    """Peak memory above the stock exporter's process, at no backlog and at two large ones."""
    backlog_of = {
        "no backlog": (0, False),
        f"{plan.packed:,} packed spans": (plan.packed, True),
        f"{plan.unpacked:,} single spans": (plan.unpacked, False),
    }
    with Receiver(environment(), keeps=False) as receiver:

        def program(kind: str, spans: int = 0, *, is_packed: bool = False) -> Program:
            def measure() -> dict[str, Any]:
                pipeline = {"kind": kind, "endpoint": receiver.endpoint, "path": plan.path()}
                if spans:
                    fill(pipeline["path"], receiver.endpoint, spans, is_packed=is_packed)
                found: dict[str, Any] = run(
                    "pipelines:peak", pipeline=pipeline, spans=plan.spans, rate=plan.rate
                )
                return found

            return measure

        programs = {"stock": program("stock"), "logfire": program("logfire")}
        for what, (spans, is_packed) in backlog_of.items():
            programs[what] = program("ours", spans, is_packed=is_packed)
        found, missing = in_turn(plan, programs)
    stock = samples(found, "stock", "peak_mib")
    assert stock is not None
    above = [
        Row(
            "Peak memory",
            f"above the stock exporter's process, {what}",
            "MiB",
            Samples(tuple(r["peak_mib"] - stock.median for r in found[what])),
            limit=10,
        )
        for what in backlog_of
    ]
    whole = [
        Row(
            "Peak memory",
            f"whole process, {what}",
            "MiB",
            samples(found, what, "peak_mib"),
            peer,
            samples(found, peer, "peak_mib"),
            note=missing.get(peer, ""),
        )
        for what in backlog_of
        for peer in ("stock", "logfire")
    ]
    return above + whole


# Idle


_IDLE_ROUTES = 400


def idle(plan: Plan) -> list[Row]:
    """What those cost in which nothing happens."""
    with Receiver(environment(), keeps=False) as receiver:

        def process(kind: str) -> Program:
            def measure() -> dict[str, Any]:
                pipeline = {"kind": kind, "endpoint": receiver.endpoint, "path": plan.path()}
                seconds = 10 * plan.seconds
                found: dict[str, Any] = run("pipelines:idle", pipeline=pipeline, seconds=seconds)
                return found

            return measure

        def sidecar() -> dict[str, Any]:
            found: dict[str, Any] = run(
                "backlogs:run_beside_waits",
                path=plan.path(),
                endpoint=receiver.endpoint,
                routes=_IDLE_ROUTES,
                seconds=10 * plan.seconds,
            )
            return found

        programs = {"ours": process("ours"), "stock": process("stock"), "run": sidecar}
        found, _ = in_turn(plan, programs)
    phase = "Nothing happens: the CPU of"
    ours, stock, waiting = (samples(found, name, "percent") for name in programs)
    return [
        Row(phase, "a process with ours", "% of a core", ours, limit=1.0),
        Row(phase, "a process with ours", "% of a core", ours, "stock behind BSP", stock),
        Row(phase, f"`run`, {_IDLE_ROUTES} routes wait", "% of a core", waiting, limit=2.0),
    ]
