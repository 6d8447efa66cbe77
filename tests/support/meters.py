"""A MeterProvider, and what it was told."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from opentelemetry.metrics import Meter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

Labels = frozenset[tuple[str, Any]]


class Meters:
    """A real MeterProvider, not the global one, and what it gets to read."""

    def __init__(self) -> None:
        self.reader = InMemoryMetricReader()
        self.provider = MeterProvider([self.reader], shutdown_on_exit=False)
        self.meter = self.provider.get_meter("tests")

    def give(self, makers: Iterable[Callable[[Meter], object]]) -> None:
        """Have instruments made."""
        for make in makers:
            make(self.meter)

    def metrics(self) -> dict[str, Any]:
        """Collect once; give what came, by name."""
        data = self.reader.get_metrics_data()
        return {
            metric.name: metric
            for of_resource in (data.resource_metrics if data else ())
            for of_scope in of_resource.scope_metrics
            for metric in of_scope.metrics
        }

    def points(self, name: str) -> dict[Labels, Any]:
        """Collect once; give the values of one metric, or its counts, by their attributes."""
        metric = self.metrics().get(name)
        return {
            frozenset(point.attributes.items()): getattr(point, "value", None)
            if hasattr(point, "value")
            else point.count
            for point in (metric.data.data_points if metric else ())
        }

    def value(self, name: str) -> Any:
        """Collect once; give the sum of a metric's values; None without any."""
        points = self.points(name)
        return sum(points.values()) if points else None


def labels(**attributes: Any) -> Labels:
    """Write attributes with `__` for their dots."""
    return frozenset((name.replace("__", "."), value) for name, value in attributes.items())
