"""A process that uses the spool step by step, and says what becomes of it; made to be broken.

`python worker.py STEP...`; everything else comes from the environment. The steps:

    serve               receive what is sent, here, so that it stands in one order with all else
    unsynced            let maintenance's syncs do nothing, and say that they were done
    export=COUNT[xSIZE] end and export spans, with so many bytes of text each
    flush               wait until they are delivered
    await-sync          wait until all of them were synced
    checkpoint, keep    what maintenance does in the background, now, if the disk lets it
    busy-checkpoint=N   so many spans end while a checkpoint waits for the disk, before and after
                        it has copied the pages
    sleep=SECONDS       leave it to the background threads
    close               shut the exporter down; a later step makes another one

It says on standard output, one write each: `begun ID` and then `spooled ID` or `held ID` (by what
`export` gave), `syncing N` and `synced N`, `delivered ID...`, and `in_memory ID...` when an
exporter is shut down. Where the exporter cannot be made it says `unusable`, and ends.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

from opentelemetry.sdk.trace.export import SpanExportResult

from spans import span
from spool import SpoolError, SpoolSpanExporter
from spool.settings.settings import Settings
from spool.store import ingest
from spool.store.maintenance import Maintenance
from spool.store.store import Store
from spool.system import spool_files
from standin import Exchange, StandIn, spans_of

_MOST_WORDS = 200


def say(word: str, *more: object) -> None:
    """Write lines in one call each, so that none is ever cut (see pipe(7), PIPE_BUF)."""
    for start in range(0, max(1, len(more)), _MOST_WORDS):
        words = [word, *map(str, more[start : start + _MOST_WORDS])]
        os.write(1, (" ".join(words) + "\n").encode())


def say_and_answer(exchange: Exchange) -> None:
    """Say what is accepted just before the client can know."""
    reply = exchange.judge()
    say("delivered", *(received.span_id.hex() for received in spans_of(reply.accepted)))
    exchange.answer(reply)


class Worker:
    """Takes the steps, with one exporter at a time."""

    def __init__(self) -> None:
        self._exporter: SpoolSpanExporter | None = None
        self._numbers = itertools.count(1)
        self._is_synced = True
        self._exported = 0
        self._covered = 0
        self._held: list[str] = []  # in the order of the overflow's numbers
        self._say_syncs()

    def step(self, name: str, argument: str) -> None:
        """Do one step."""
        steps: dict[str, Callable[[], None]] = {
            "serve": self._serve,
            "unsynced": self._unsynced,
            "export": lambda: self._export(argument),
            "flush": self._flush,
            "await-sync": self._await_sync,
            "checkpoint": self._checkpoint,
            "busy-checkpoint": lambda: self._busy_checkpoint(argument),
            "keep": self._keep,
            "sleep": lambda: time.sleep(float(argument)),
            "close": self.close,
        }
        steps[name]()

    def _serve(self) -> None:
        server = StandIn()
        server.start()
        server.behave(say_and_answer)
        os.environ["LANGFUSE_HOST"] = server.url

    def _unsynced(self) -> None:
        self._is_synced = False

    def _open(self) -> SpoolSpanExporter:
        if self._exporter is None:
            try:
                self._exporter = SpoolSpanExporter()
            except SpoolError as error:
                say("unusable", error)
                sys.exit()
        return self._exporter

    def _say_syncs(self) -> None:
        sync = ingest.sync

        def said(store: Store) -> None:
            number, covered = next(self._numbers), self._exported
            say("syncing", number)
            if self._is_synced:
                sync(store)
            say("synced", number)
            self._covered = covered

        ingest.sync = said  # it says when, and does the same

    def _export(self, argument: str) -> None:
        count, _, size = argument.partition("x")
        exporter = self._open()
        for number in range(int(count)):
            ended = span(f"span {number}", int(size or 300))
            assert ended.context is not None
            span_id = f"{ended.context.span_id:016x}"
            say("begun", span_id)
            held = len(exporter._pipeline.overflow._held)
            is_spooled = exporter.export([ended]) is SpanExportResult.SUCCESS
            self._exported += 1
            if len(exporter._pipeline.overflow._held) > held:
                self._held.append(span_id)
            say("spooled" if is_spooled else "held", span_id)

    def _flush(self) -> None:
        while not self._open().force_flush(1000):  # False at once while a route waits
            time.sleep(0.01)

    def _await_sync(self) -> None:
        while self._covered < self._exported:
            time.sleep(0.002)

    def _checkpoint(self) -> None:
        with contextlib.suppress(SpoolError):
            self._open()._pipeline.store.database.checkpoint()

    def _busy_checkpoint(self, argument: str) -> None:
        used = self._open()._pipeline.store.database
        sync, sync_file = used.sync, spool_files.sync_file

        def sync_before() -> None:
            sync()
            self._export(argument)

        def sync_after(path: Path) -> None:
            if path == used.path:
                self._export(argument)
            sync_file(path)

        patch = mock.patch.object
        with patch(used, "sync", sync_before), patch(spool_files, "sync_file", sync_after):
            self._checkpoint()

    def _keep(self) -> None:
        store = self._open()._pipeline.store
        with contextlib.suppress(SpoolError):
            Maintenance(store, Settings.from_env()).keep()

    def close(self) -> None:
        """Shut the exporter down, and say what only the memory had."""
        if self._exporter is not None:
            overflow = self._exporter._pipeline.overflow
            self._exporter.shutdown()
            self._exporter = None
            say("in_memory", *(self._held[number] for number in overflow._held))
            self._held.clear()


def main() -> None:
    """Take the steps."""
    worker = Worker()
    for step in sys.argv[1:]:
        name, _, argument = step.partition("=")
        worker.step(name, argument)
    worker.close()


if __name__ == "__main__":
    main()
