"""An application on a disk that refuses: what it ended, what it was told, what became of it."""

from __future__ import annotations

import time
from dataclasses import replace

from opentelemetry.sdk.trace.export import SpanExportResult

from spans import span
from spool import Settings, SpoolSpanExporter
from spool.store.store import Store
from standin import StandIn
from trials import Trial
from waits import wait_until

SUCCESS = SpanExportResult.SUCCESS


class Refusal:
    """An exporter whose file is refused for a while, and what a receiver got meanwhile."""

    def __init__(self, settings: Settings, langfuse: StandIn) -> None:
        self.langfuse = langfuse
        self.path = settings.path
        self.exporter = SpoolSpanExporter(
            settings=replace(settings, sync_seconds=0.1, shutdown_seconds=10)
        )
        self.results: list[SpanExportResult] = []
        self.longest = 0.0

    def end_spans(self, count: int) -> list[SpanExportResult]:
        """End so many spans, and note what was said and how long the longest took."""
        results = []
        for _ in range(count):
            one = span(f"s{len(self.results)}", size=1000)
            started = time.monotonic()
            results.append(self.exporter.export([one]))
            self.longest = max(self.longest, time.monotonic() - started)
            self.results.append(results[-1])
        return results

    def arrived(self) -> int:
        return len(self.langfuse.names())

    def recover(self) -> None:
        """Wait until the file takes spans again, and all has arrived."""
        wait_until(lambda: self.end_spans(1) == [SUCCESS])
        assert self.end_spans(20) == [SUCCESS] * 20
        wait_until(lambda: self.arrived() == len(self.results))
        wait_until(lambda: not self.exporter._pipeline.store.ledger().pending)
        self.exporter.shutdown()

    def trial(self, name: str, tried: int) -> Trial:
        store, names = Store(self.path), self.langfuse.names()
        ledger = store.ledger()
        store.close()
        print(f"the longest export() took {1000 * self.longest:.1f} ms")
        assert (ledger.pending, ledger.refused) == (0, 0), ledger
        assert ledger.delivered == len(self.results), ledger
        return Trial(
            name=name,
            tried=tried,
            ended=len(self.results),
            accepted=ledger.accepted,
            refused=ledger.refused,
            in_memory=ledger.in_memory,
            lost=len(self.results) - len(names),
            duplicates=sum(names.values()) - len(names),
        )
