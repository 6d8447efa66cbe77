"""Results: a row compares ours with one peer; printed as a table, as JSON, and as a plot."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import platform
import sqlite3
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_PACKAGES = (
    "langfuse-spool",
    "opentelemetry-sdk",
    "opentelemetry-exporter-otlp-proto-http",
    "logfire",
    "azure-monitor-opentelemetry-exporter",
    "persist-queue",
    "litequeue",
)


_TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20)


@dataclass(frozen=True)
class Samples:
    """One figure as each round measured it."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def __str__(self) -> str:
        if len(self.values) == 1:
            return _figure(self.median)
        return (
            f"{_figure(self.median)} ({_figure(min(self.values))} to {_figure(max(self.values))})"
        )


@dataclass(frozen=True)
class Row:
    """What was measured of ours and of a peer, in one unit.

    `limit` is the target: for the ratio to the peer, or without a peer for the figure itself. More
    than it is a miss, or less where `more_is_better`. `durable` says what each can lose at the
    phase's end. `note` says what else is to be known, such as why there is no figure.
    """

    phase: str
    what: str
    unit: str
    ours: Samples | None
    peer_name: str = ""
    peer: Samples | None = None
    limit: float | None = None
    more_is_better: bool = False
    durable: str = ""
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """Ours to the peer's: the medians'."""
        if self.ours is None or self.peer is None or not self.peer.median:
            return None
        return self.ours.median / self.peer.median

    @property
    def is_met(self) -> bool | None:
        """Whether the target is met; None without one, or without a figure."""
        figure = self.ratio
        if not self.peer_name and self.ours is not None:
            figure = self.ours.median
        if self.limit is None or figure is None:
            return None
        return figure >= self.limit if self.more_is_better else figure <= self.limit

    @property
    def is_ahead(self) -> bool | None:
        """Whether ours is better than the peer."""
        if self.ratio is None:
            return None
        return self.ratio > 1 if self.more_is_better else self.ratio < 1

    def as_json(self) -> dict[str, Any]:
        """Give everything, with what follows from it."""
        return {**asdict(self), "ratio": self.ratio, "met": self.is_met, "ahead": self.is_ahead}


_HEAD = ("what", "unit", "ours", "against", "theirs", "ratio", "target", "met")


def table(rows: list[Row]) -> str:
    """Make one Markdown table a phase, with what is durable under it."""
    parts: list[str] = []
    for phase in dict.fromkeys(row.phase for row in rows):
        own = [row for row in rows if row.phase == phase]
        lines = [_line(_HEAD), _line(("---",) * len(_HEAD)), *(_line(_cells(row)) for row in own)]
        notes = dict.fromkeys(note for row in own for note in (row.durable, row.note) if note)
        parts += [f"### {phase}", "", *lines, "", *(f"- {note}" for note in notes), ""]
    return "\n".join(parts)


def _line(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(row: Row) -> tuple[str, ...]:
    sign = "≥" if row.more_is_better else "≤"
    return (
        row.what,
        row.unit,
        str(row.ours or ""),
        row.peer_name,
        str(row.peer or ""),
        "" if row.ratio is None else f"{row.ratio:.2f}",
        "" if row.limit is None else f"{sign} {row.limit:,g}",
        {True: "yes", False: "**no**", None: ""}[row.is_met],
    )


def _figure(value: float) -> str:
    if abs(value) >= 1000:  # noqa: PLR2004 - a thousands separator reads best from here
        return f"{value:,.0f}"
    return f"{value:.3g}"


def machine() -> dict[str, str]:
    """Describe what the figures were measured with."""
    return {
        "cpu": _cpu(),
        "cores": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        **{name: version for name in _PACKAGES if (version := _version(name))},
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def write_json(file: Path, rows: list[Row]) -> None:
    """Write everything, samples included."""
    found = {"machine": machine(), "rows": [row.as_json() for row in rows]}
    file.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n")


def write_plot(file: Path, rows: list[Row]) -> None:
    """Draw each ratio to a peer, so that further left is better for us, on a logarithmic axis."""
    importlib.import_module("matplotlib").use("agg")
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    drawn = [row for row in reversed(rows) if row.ratio]
    shares = [1 / row.ratio if row.more_is_better else row.ratio for row in drawn if row.ratio]
    names = [f"{row.phase}: {row.what} / {row.peer_name}" for row in drawn]
    figure, axes = pyplot.subplots(figsize=(11, 1 + 0.28 * len(drawn)), layout="constrained")
    colours = ["tab:green" if share <= 1 else "tab:red" for share in shares]
    axes.barh(names, [share - 1 for share in shares], left=1, color=colours)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xticks(_TICKS, [f"{tick:g}" for tick in _TICKS], minor=False)
    axes.set_xticks([], minor=True)
    axes.set_xlabel("ours / theirs in time, CPU or bytes (left of 1: ours is better)")
    axes.tick_params(axis="y", labelsize=7)
    figure.savefig(file, dpi=150)
