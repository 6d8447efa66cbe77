"""A receiver of metrics and logs, over OTLP/HTTP; a GET it answers as any web server does."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)

from web_servers import Handler, serving


class Collector:
    """What came, as it came."""

    def __init__(self) -> None:
        self.url = ""
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

    collector = Collector()

    class Receiver(Handler):
        def respond(self, body: bytes) -> None:
            is_gzip = self.headers.get("Content-Encoding") == "gzip"
            collector.receive(self.path, gzip.decompress(body) if is_gzip else body)
            self.answer(200)

    with serving(Receiver) as collector.url:
        yield collector
