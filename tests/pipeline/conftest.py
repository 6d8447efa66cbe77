"""What the tests of the pipeline share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from spool import SpoolSpanExporter


@pytest.fixture
def exporters() -> Iterator[list[SpoolSpanExporter]]:
    """Shut down at the end what a test has put in."""
    made: list[SpoolSpanExporter] = []
    yield made
    for exporter in made:
        exporter.shutdown()
