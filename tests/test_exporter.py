from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult

import standin
from ledgers import ledger_of
from manners import each_manner
from spans import provider_of, span
from spool import Settings, SettingsError, SpoolFileError, SpoolSpanExporter
from spool.delivery.http.classification import Outcome
from spool.otlp.batch import Batch
from spool.settings.target import Target
from spool.store.store import Store
from standin import StandIn


def test_success_means_that_the_span_is_in_the_file(writer: SpoolSpanExporter, path: Path) -> None:
    assert writer.export([span("a"), span("b")]) is SpanExportResult.SUCCESS
    assert ledger_of(path).pending == 2


def test_everything_can_come_from_the_environment(environment: None, langfuse: StandIn) -> None:
    exporter = SpoolSpanExporter()
    exporter.export([span("a")])
    assert exporter.force_flush(10_000)
    assert langfuse.names()["a"] == 1
    exporter.shutdown()


def test_endpoint_and_headers_can_be_given(path: Path) -> None:
    with StandIn(keys={"pk-lf-x": "sk-lf-x"}) as langfuse:
        headers = Target.langfuse("pk-lf-x", "sk-lf-x").headers
        exporter = SpoolSpanExporter(path=path, endpoint=langfuse.endpoint, headers=headers)
        exporter.export([span("a")])
        assert exporter.force_flush(10_000)
        assert langfuse.names()["a"] == 1
        exporter.shutdown()


def test_two_programs_with_one_endpoint_and_two_keys_never_send_each_others_spans(
    path: Path, langfuse: StandIn
) -> None:
    langfuse.behave(standin.status(200, body=b"{}"))
    url = f"{langfuse.url}/v1/traces"
    targets = {key: Target.otlp(url, {"x-api-key": key}) for key in ("key-of-a", "key-of-b")}
    for key, target in targets.items():
        writer = SpoolSpanExporter(settings=Settings(path=path, target=target, drain=False))
        writer.export([span(f"of {key}")])
        writer.shutdown()
    exporter = SpoolSpanExporter(settings=Settings(path=path, target=targets["key-of-b"]))
    exporter.export([span("of key-of-b")])
    assert exporter.force_flush(30_000)
    exporter.shutdown()
    sent = {
        (request.headers["x-api-key"], one.name)
        for request in langfuse.requests
        for one in standin.spans_of(standin.parse(request))
    }
    assert sent == {("key-of-b", "of key-of-b")}
    assert ledger_of(path).pending == 1


def test_two_exporters_with_one_endpoint_and_two_keys_send_each_their_own_spans(
    path: Path, langfuse: StandIn
) -> None:
    langfuse.behave(standin.status(200, body=b"{}"))
    exporters = {
        key: SpoolSpanExporter(
            path=path, endpoint=f"{langfuse.url}/v1/traces", headers={"x-api-key": key}
        )
        for key in ("key-of-a", "key-of-b")
    }
    for _ in range(3):
        for key, exporter in exporters.items():
            exporter.export([span(f"of {key}")])
    for exporter in exporters.values():
        assert exporter.force_flush(30_000)
        exporter.shutdown()
    sent = [
        (request.headers["x-api-key"], one.name)
        for request in langfuse.requests
        for one in standin.spans_of(standin.parse(request))
    ]
    assert sorted(sent) == 3 * [("key-of-a", "of key-of-a")] + 3 * [("key-of-b", "of key-of-b")]


def test_missing_credentials_are_told_where_the_exporter_is_made(path: Path) -> None:
    with pytest.raises(
        SettingsError, match="LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY must be set"
    ):
        SpoolSpanExporter(path=path)


def test_a_path_that_cannot_be_used_is_told_where_the_exporter_is_made(
    environment: None, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("not a spool at all")
    with pytest.raises(SpoolFileError, match=f"{tmp_path}/file"):
        SpoolSpanExporter(path=tmp_path / "file")


def test_exporting_nothing_writes_nothing(exporter: SpoolSpanExporter) -> None:
    assert exporter.export([]) is SpanExportResult.SUCCESS


def test_one_span_that_cannot_be_encoded_does_not_take_the_others_along(
    writer: SpoolSpanExporter, path: Path
) -> None:
    bad = span(7)  # type: ignore[arg-type]  # a name that is no text
    assert writer.export([span("a"), bad, span("b")]) is SpanExportResult.FAILURE
    writer.shutdown()
    other = Store(path)
    assert (other.ledger().accepted, other.ledger().refused) == (2, 1)
    other.close()


def test_shutdown_can_be_called_twice_and_exports_fail_after_it(
    exporter: SpoolSpanExporter,
) -> None:
    exporter.shutdown()
    exporter.shutdown()
    assert exporter.export([span("a")]) is SpanExportResult.FAILURE
    assert not exporter.force_flush()


def test_no_secret_is_in_any_file_of_the_spool(settings: Settings, path: Path) -> None:
    with StandIn(keys={}) as langfuse:
        langfuse.behave(standin.status(401, body=b'{"message": "sk-lf-very-secret is not known"}'))
        target = Target.langfuse("pk-lf-test", "sk-lf-very-secret", langfuse.url)
        exporter = SpoolSpanExporter(settings=replace(settings, target=target))
        exporter.export([span("a")])
        langfuse.wait_for(lambda server: len(server.requests) == 1)
        exporter.force_flush(5000)
        secrets = ["sk-lf-very-secret", target.headers["authorization"].removeprefix("Basic ")]
        contents = b"".join(file.read_bytes() for file in path.parent.iterdir())
        exporter.shutdown()
        contents += b"".join(file.read_bytes() for file in path.parent.iterdir())
    assert b"*** is not known" in contents
    for secret in secrets:
        assert secret.encode() not in contents


@each_manner
def test_it_serves_a_batch_span_processor_too(
    exporter: SpoolSpanExporter, langfuse: StandIn
) -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    tracer = provider.get_tracer("x")
    for number in range(1000):
        tracer.start_span(str(number)).end()
    provider.force_flush()
    assert exporter.force_flush(10_000)
    assert langfuse.accepted == 1000
    provider.shutdown()


def test_zero_code_instrumentation_finds_the_exporter_by_name() -> None:
    from importlib.metadata import entry_points

    (entry,) = entry_points(group="opentelemetry_traces_exporter", name="spool")
    assert entry.load() is SpoolSpanExporter


def test_its_own_requests_are_hidden_from_instrumentation(
    exporter: SpoolSpanExporter, langfuse: StandIn
) -> None:
    from opentelemetry import context

    seen: list[object] = []
    provider = provider_of(exporter)
    provider.get_tracer("x").start_span("a").end()
    drainer = exporter._pipeline._threads.drainer
    assert drainer is not None
    post = drainer.client.post

    def spying(target: Target, batches: Sequence[Batch], timeout: float) -> Outcome:
        seen.append(context.get_value("suppress_instrumentation"))
        return post(target, batches, timeout)

    drainer.client.post = spying  # type: ignore[method-assign]  # to look from within its thread
    provider.get_tracer("x").start_span("b").end()
    assert exporter.force_flush(30_000)
    assert seen[0] is True
    provider.shutdown()


@pytest.mark.parametrize("is_written", [False, True])
def test_an_exception_out_of_a_signal_handler_in_the_middle_of_an_export_loses_no_span(
    writer: SpoolSpanExporter, monkeypatch: pytest.MonkeyPatch, *, is_written: bool
) -> None:
    store = writer._pipeline.store
    accept = store.accept
    tries = []

    def accept_and_be_interrupted(target: Target, batch: Batch, now: float) -> None:
        tries.append(now)
        if is_written or len(tries) > 1:
            accept(target, batch, now)
        if len(tries) == 1:
            raise TimeoutError("a soft limit of the application's")

    monkeypatch.setattr(store, "accept", accept_and_be_interrupted)
    assert writer.export([span("a")]) is SpanExportResult.SUCCESS
    writer.shutdown()
    assert store.ledger().refused == 0
    assert store.ledger().accepted == 1 + is_written
