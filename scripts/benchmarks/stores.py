"""Stores alone: one span a put, then all of it taken out and POSTed. Ours and what peers use.

All of them take the same ready bytes, and send them uncompressed in requests of the same size.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import http.client
import importlib
import itertools
import time
import urllib.parse
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from benchmarks import workload
from spool import Settings
from spool.delivery import drain_once
from spool.delivery.drainer import Drainer
from spool.otlp.batch import Batch
from spool.pipeline import registry
from spool.settings.target import Target
from spool.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_REQUEST_SPANS = 1024

# What a kill -9 and what a power cut can take of what was put.
DURABLE = {
    "ours": "kill -9: nothing; power cut: the last second",
    "ours-synced": "nothing: an fsync each",
    "persist-queue-sqlite": "nothing: an fsync each (SQLite's default in WAL mode)",
    "persist-queue-file": "kill -9: nothing; power cut: what the kernel had not written",
    "litequeue": "kill -9: nothing; power cut: back to the last checkpoint",
    "azure": "kill -9: nothing; power cut: what the kernel had not written",
}


class Queue(Protocol):
    """A store as this measurement uses it."""

    def put(self, payload: bytes) -> None: ...

    def drain(self, post: Callable[[bytes], None]) -> int:
        """Send everything; give the number of spans."""

    def close(self) -> None: ...


def put_and_drain(store: str, endpoint: str, path: str, spans: int) -> dict[str, float]:
    """Tell µs of wall and CPU time a put, spans a second drained, and bytes on disk a span."""
    queue = _STORES[store](Path(path), endpoint)
    payloads = workload.payloads()
    queue.put(payloads[0])  # what the first one opens
    started, cpu_started = time.monotonic(), time.process_time()
    for number in range(spans):
        queue.put(payloads[number % len(payloads)])
    put, put_cpu = time.monotonic() - started, time.process_time() - cpu_started
    waiting = disk_bytes(Path(path).parent)
    with poster(endpoint) as post:
        started, cpu_started = time.monotonic(), time.process_time()
        drained = queue.drain(post)
        seconds, cpu = time.monotonic() - started, time.process_time() - cpu_started
    queue.close()
    return {
        "put_us": put / spans * 1e6,
        "put_cpu_us": put_cpu / spans * 1e6,
        "drained": drained,
        "per_second": drained / seconds,
        "drain_cpu_us": cpu / drained * 1e6,
        "bytes": waiting / spans,
    }


def logfire_disk(spans: int) -> dict[str, float]:
    """Tell what logfire's DiskRetryer writes for a request of `spans` that failed."""
    otlp: Any = importlib.import_module("logfire._internal.exporters.otlp")
    raw = b"".join(itertools.islice(itertools.cycle(workload.payloads()), spans))
    retryer = otlp.DiskRetryer({})
    retryer.add_task(gzip.compress(raw), {"url": "http://127.0.0.1:9/", "timeout": 1})
    found = disk_bytes(retryer.dir)
    retryer.close()
    return {"disk_bytes": found / spans, "raw_bytes": len(raw) / spans}


@contextlib.contextmanager
def poster(endpoint: str, encoding: str = "identity") -> Iterator[Callable[[bytes], None]]:
    """Open a connection for POSTs of ready bodies."""
    parts = urllib.parse.urlsplit(endpoint)
    connection = http.client.HTTPConnection(parts.netloc)
    headers = {"Content-Type": "application/x-protobuf", "Content-Encoding": encoding}

    def post(body: bytes) -> None:
        connection.request("POST", parts.path, body, headers)
        answer = connection.getresponse()
        answer.read()
        if answer.status != http.client.OK:
            raise RuntimeError(f"the receiver answered {answer.status}")

    try:
        yield post
    finally:
        connection.close()


def disk_bytes(directory: Path) -> int:
    """Add up what a directory's files take."""
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())


def _send(payloads: Iterator[bytes], post: Callable[[bytes], None]) -> int:
    """POST payloads in requests of a fixed number of spans, joined; give their number."""
    count, part = 0, []
    for payload in payloads:
        part.append(payload)
        count += 1
        if len(part) == _REQUEST_SPANS:
            post(b"".join(part))
            part = []
    if part:
        post(b"".join(part))
    return count


class Ours:
    """The spool as the exporter uses it: with its maintenance, and the drainer by hand."""

    def __init__(self, path: Path, endpoint: str, sync_seconds: float = 1) -> None:
        self._target = Target.otlp(endpoint, {})
        self._settings = Settings(
            path=path,
            target=self._target,
            drain=False,
            sync_seconds=sync_seconds,
            compression="none",
        )
        self._pipeline, _ = registry.open_pipeline(self._settings, self._target)

    def put(self, payload: bytes) -> None:
        if not self._pipeline.append(self._target, Batch(payload, 1, len(payload))):
            raise RuntimeError("the spool refused a span")

    def drain(self, _: Callable[[bytes], None]) -> int:
        store = Store(self._settings.path)
        drainer = Drainer(store, self._settings)
        drainer.routes.add(self._target)
        drain_once.drain(drainer, None, lambda: None)
        store.close()
        return drainer.client.tally.delivered

    def close(self) -> None:
        registry.release(self._pipeline)


class PersistQueueSqlite:
    """persist-queue's SQLiteAckQueue: one item at a time, acknowledged after the POST."""

    def __init__(self, path: Path, _: str) -> None:
        module: Any = importlib.import_module("persistqueue")
        self._queue = module.SQLiteAckQueue(str(path), multithreading=True)
        self._empty = module.Empty

    def put(self, payload: bytes) -> None:
        self._queue.put(payload)

    def drain(self, post: Callable[[bytes], None]) -> int:
        taken: list[int] = []

        def payloads() -> Iterator[bytes]:
            with contextlib.suppress(self._empty):
                while True:
                    item = self._queue.get(block=False, raw=True)
                    taken.append(item["pqid"])
                    yield item["data"]

        def post_and_ack(body: bytes) -> None:
            post(body)
            for number in taken:
                self._queue.ack(id=number)
            taken.clear()

        return _send(payloads(), post_and_ack)

    def close(self) -> None:
        self._queue.close()


class PersistQueueFile:
    """persist-queue's file queue: what was taken out is given up once a request was sent."""

    def __init__(self, path: Path, _: str) -> None:
        module: Any = importlib.import_module("persistqueue")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._queue = module.Queue(str(path), tempdir=str(path.parent))
        self._empty = module.Empty

    def put(self, payload: bytes) -> None:
        self._queue.put(payload)

    def drain(self, post: Callable[[bytes], None]) -> int:
        def payloads() -> Iterator[bytes]:
            with contextlib.suppress(self._empty):
                while True:
                    yield self._queue.get(block=False)

        def post_and_forget(body: bytes) -> None:
            post(body)
            self._queue.task_done()

        return _send(payloads(), post_and_forget)

    def close(self) -> None:
        """Nothing is left open."""


class Litequeue:
    """litequeue takes text only, so the bytes go in as base64."""

    def __init__(self, path: Path, _: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._queue = importlib.import_module("litequeue").LiteQueue(str(path))

    def put(self, payload: bytes) -> None:
        self._queue.put(base64.b64encode(payload).decode())

    def drain(self, post: Callable[[bytes], None]) -> int:
        taken: list[Any] = []

        def payloads() -> Iterator[bytes]:
            while (message := self._queue.pop()) is not None:
                taken.append(message)
                yield base64.b64decode(message.data)

        def post_and_finish(body: bytes) -> None:
            post(body)
            for message in taken:
                self._queue.done(message.message_id, claim_id=message.claim_id)
            self._queue.prune()
            taken.clear()

        return _send(payloads(), post_and_finish)

    def close(self) -> None:
        self._queue.close()


class Azure:
    """Azure Monitor's LocalFileStorage: a JSON file a put, so the bytes go in as base64."""

    def __init__(self, path: Path, _: str) -> None:
        module: Any = importlib.import_module("azure.monitor.opentelemetry.exporter._storage")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._storage = module.LocalFileStorage(str(path), max_size=1 << 40)
        self._success = module.StorageExportResult.LOCAL_FILE_BLOB_SUCCESS

    def put(self, payload: bytes) -> None:
        if self._storage.put([base64.b64encode(payload).decode()], 0) != self._success:
            raise RuntimeError("Azure's storage refused a span")

    def drain(self, post: Callable[[bytes], None]) -> int:
        taken: list[Any] = []

        def payloads() -> Iterator[bytes]:
            for blob in self._storage.gets():
                taken.append(blob)
                yield base64.b64decode(blob.get()[0])

        def post_and_delete(body: bytes) -> None:
            post(body)
            for blob in taken:
                blob.delete()
            taken.clear()

        return _send(payloads(), post_and_delete)

    def close(self) -> None:
        self._storage.close()


_STORES: dict[str, Callable[[Path, str], Queue]] = {
    "ours": Ours,
    "ours-synced": lambda path, endpoint: Ours(path, endpoint, sync_seconds=0),
    "persist-queue-sqlite": PersistQueueSqlite,
    "persist-queue-file": PersistQueueFile,
    "litequeue": Litequeue,
    "azure": Azure,
}
