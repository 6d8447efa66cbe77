"""The Collector's configurations of scripts/gateway: not run here, but what they say is known."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import pytest

from pages import GATEWAY

pytestmark = pytest.mark.once

# As the READMEs of the Collector's components say (read in 2026): config/confighttp,
# receiver/otlpreceiver, exporter/exporterhelper, exporter/otlphttpexporter, exporter/kafkaexporter,
# extension/storage/filestorage, extension/headerssetterextension.
RETRY: Final = "retry_on_failure.enabled retry_on_failure.max_elapsed_time"
QUEUE: Final = (
    "sending_queue.enabled sending_queue.storage sending_queue.queue_size "
    "sending_queue.batch.sizer sending_queue.batch.min_size sending_queue.batch.max_size "
    "sending_queue.batch.flush_timeout"
)
DOCUMENTED: Final = {
    "extensions.file_storage": "directory create_directory fsync",
    "extensions.headers_setter": "headers",
    "receivers.otlp": (
        "protocols.http.endpoint protocols.http.traces_url_path protocols.http.include_metadata"
    ),
    "exporters.otlp_http": (
        f"traces_endpoint headers.Authorization auth.authenticator timeout {RETRY} {QUEUE}"
    ),
    "exporters.kafka": (
        "brokers traces.topic traces.encoding producer.required_acks producer.compression "
        f"producer.max_message_bytes timeout {RETRY} {QUEUE}"
    ),
}


@pytest.fixture(params=["collector.yaml", "collector-tenants.yaml"])
def configuration(request: pytest.FixtureRequest) -> Any:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed here")
    return yaml.safe_load(GATEWAY.with_name(request.param).read_text())


def leaves(value: Any, path: str = "") -> Iterator[str]:
    if not isinstance(value, dict):
        yield path
        return
    for key, below in value.items():
        yield from leaves(below, f"{path}.{key}" if path else key)


def test_every_key_is_one_that_is_documented(configuration: Any) -> None:
    assert list(configuration) == ["extensions", "receivers", "exporters", "service"]
    for kind in ("extensions", "receivers", "exporters"):
        for name, settings in configuration[kind].items():
            documented = DOCUMENTED[f"{kind}.{name.partition('/')[0]}"].split()
            assert set(leaves(settings)) <= set(documented), name


def test_what_the_service_runs_is_configured_and_the_other_way_round(configuration: Any) -> None:
    service = configuration["service"]
    (pipeline,) = service["pipelines"].values()
    assert set(service["extensions"]) == set(configuration["extensions"])
    assert set(pipeline["receivers"]) == set(configuration["receivers"])
    assert set(pipeline["exporters"]) <= set(configuration["exporters"])


def test_what_it_acknowledges_is_on_disk_or_answered_and_no_time_ends_it(
    configuration: Any,
) -> None:
    for name, exporter in configuration["exporters"].items():
        queue, retry = exporter["sending_queue"], exporter["retry_on_failure"]
        if queue.get("enabled", True):
            assert queue["storage"] in configuration["extensions"], name
            assert configuration["extensions"][queue["storage"]]["fsync"]
            assert retry["max_elapsed_time"] == 0
        else:
            assert not retry["enabled"]  # the spool tries again, with its own backoff
    assert "processors" not in configuration  # a batch there is in memory alone
