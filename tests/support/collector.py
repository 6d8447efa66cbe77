"""A receiver of metrics and logs, over OTLP/HTTP; a GET it answers as any web server does."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)

import ports


class Collector:
    """What came, as it came."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.metrics: list[ExportMetricsServiceRequest] = []
        self.logs: list[ExportLogsServiceRequest] = []

    def receive(self, path: str, body: bytes) -> None:
        if path == "/v1/metrics":
            self.metrics.append(ExportMetricsServiceRequest.FromString(body))
        elif path == "/v1/logs":
            self.logs.append(ExportLogsServiceRequest.FromString(body))

    def last(self, name: str) -> float | None:
        """Add up a metric's values as they were told last: counts of a histogram; None for none."""
        found: float | None = None
        for request in self.metrics:
            points = [
                point
                for of_resource in request.resource_metrics
                for of_scope in of_resource.scope_metrics
                for metric in of_scope.metrics
                if metric.name == name
                for point in getattr(metric, str(metric.WhichOneof("data"))).data_points
            ]
            if points:
                found = sum(map(_value, points))
        return found

    def lines(self, logger: str) -> list[str]:
        """Give what a logger has said."""
        return [
            record.body.string_value
            for request in self.logs
            for of_resource in request.resource_logs
            for of_scope in of_resource.scope_logs
            if of_scope.scope.name == logger
            for record in of_scope.log_records
        ]


def _value(point: Any) -> float:
    is_histogram = point.DESCRIPTOR.name == "HistogramDataPoint"
    return float(point.count if is_histogram else point.as_int + point.as_double)


@contextmanager
def collecting() -> Iterator[Collector]:
    """Serve one."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            is_gzip = self.headers.get("Content-Encoding") == "gzip"
            collector.receive(self.path, gzip.decompress(body) if is_gzip else body)
            self._answer()

        def _answer(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer((ports.HOST, 0), Handler)
    collector = Collector(f"http://{ports.HOST}:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
