"""Self-observation in real programs: metrics go where others go, and nothing of ours is traced."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

import standin
from collector import Collector, collecting
from instrumented import BIN, is_here
from programs import Program, line_of, run, talking, tell
from spans import batch
from spool.settings.target import Target
from spool.store.store import Store
from standin import StandIn
from users import SHORT_WAITS, spool
from waits import wait_until

INSTRUMENTED: Final = ("distro", *(
    f"instrumentation.{name}"
    for name in ("requests", "urllib", "urllib3", "sqlite3", "logging", "threading")
))  # fmt: skip


needs_instrumentations = pytest.mark.skipif(
    not all(is_here(f"opentelemetry.{name}") for name in INSTRUMENTED),
    reason=f"opentelemetry's {', '.join(INSTRUMENTED)} are not all installed here",
)
EXPORTED: Final = "otel.sdk.exporter.span.exported"
DURATION: Final = "otel.sdk.exporter.operation.duration"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


# Under opentelemetry-instrument

APP: Final = """
import logging, sqlite3, sys, threading, urllib.request
import requests, urllib3
from opentelemetry import trace
from opentelemetry.sdk.trace import SpanProcessor

class Count(SpanProcessor):
    ended = 0
    def on_end(self, span):
        self.ended += 1

count = Count()
trace.get_tracer_provider().add_span_processor(count)
logging.getLogger("spool").setLevel(logging.DEBUG)
url = sys.argv[1]
with trace.get_tracer("app").start_as_current_span("mine"):
    requests.get(url)
    urllib.request.urlopen(url).read()
    urllib3.PoolManager().request("GET", url)
    connection = sqlite3.connect(":memory:")
    connection.cursor().execute("SELECT 1")
    logging.getLogger("app").warning("hello")
    thread = threading.Thread(target=print, args=("",), kwargs={"end": ""})
    thread.start()
    thread.join()
    connection.close()
print(count.ended, flush=True)
sys.stdin.read()
trace.get_tracer_provider().force_flush()
print(count.ended, flush=True)
"""
WATCHED: Final = {
    "OTEL_TRACES_EXPORTER": "spool",
    "OTEL_METRICS_EXPORTER": "otlp_proto_http",
    "OTEL_LOGS_EXPORTER": "otlp_proto_http",
    "OTEL_METRIC_EXPORT_INTERVAL": "100",
    "OTEL_BSP_SCHEDULE_DELAY": "50",
    "OTEL_BLRP_SCHEDULE_DELAY": "50",
    "OTEL_PYTHON_LOGGING_AUTO_INSTRUMENTATION_ENABLED": "true",
    **SHORT_WAITS,
}


@contextlib.contextmanager
def app(collector: Collector, tmp_path: Path) -> Iterator[tuple[Program, int]]:
    """Run the program until it has made its spans; give how many these are."""
    (tmp_path / "app.py").write_text(APP)
    command = (BIN / "opentelemetry-instrument", sys.executable, tmp_path / "app.py")
    told = {**WATCHED, "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
    with talking(*command, collector.url, **told) as process:
        made = int(line_of(process))
        assert made >= 5  # its own, three requests, a statement
        yield process, made


def rest_of(process: Program) -> int:
    """Let it end; give how many spans it has made in all."""
    return int(process.communicate(timeout=120)[0])


@needs_instrumentations
def test_what_is_instrumented_makes_no_spans_of_ours_while_the_receiver_is_well(
    environment: None, langfuse: StandIn, collector: Collector, tmp_path: Path
) -> None:
    with app(collector, tmp_path) as (process, made):
        langfuse.wait_for(lambda server: server.accepted == made)
        wait_until(lambda: collector.last(EXPORTED) == made)
        so_far = len(collector.metrics)
        wait_until(lambda: len(collector.metrics) > so_far + 5)  # what loops would go on
        assert collector.last("spool.span.pending") == 0
        assert rest_of(process) == made
    spool("drain")
    assert langfuse.accepted == made
    assert langfuse.names()["mine"] == 1


@needs_instrumentations
def test_what_is_instrumented_makes_no_spans_of_ours_while_the_receiver_is_down(
    environment: None, langfuse: StandIn, collector: Collector, tmp_path: Path
) -> None:
    langfuse.stop()
    with app(collector, tmp_path) as (process, made):
        wait_until(lambda: collector.last("spool.span.pending") == made)
        wait_until(lambda: (collector.last(DURATION) or 0) > 5)  # and failed, each of them
        assert collector.last(EXPORTED) is None
        assert (collector.last("spool.span.oldest_age") or 0) > 0
        wait_until(lambda: any("pk-lf-test waits" in line for line in collector.lines("spool")))
        assert rest_of(process) == made
    langfuse.start()
    spool("drain")
    assert langfuse.accepted == made


# A sidecar


@needs_instrumentations
def test_a_sidecar_under_the_command_tells_of_what_others_have_written_and_ends_in_order(
    environment: None, store: Store, target: Target, langfuse: StandIn, collector: Collector
) -> None:
    langfuse.stop()
    store.append(target, batch("a", "b"), 1.0)
    command = (BIN / "opentelemetry-instrument", sys.executable, "-m", "spool", "run")
    told = {**WATCHED, "OTEL_TRACES_EXPORTER": "none"}
    told["OTEL_EXPORTER_OTLP_ENDPOINT"] = collector.url
    with talking(*command, **told) as process:
        wait_until(lambda: collector.last("spool.span.pending") == 2)
        langfuse.start()
        wait_until(lambda: collector.last(EXPORTED) == 2)
        wait_until(lambda: collector.last("spool.span.pending") == 0)
        process.terminate()
        assert process.wait(120) == 0


# Any MeterProvider

SERVICE: Final = """
import sys
from opentelemetry import metrics
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from spool import SpoolSpanExporter

provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(SpoolSpanExporter()))
provider.get_tracer("x").start_span("a").end()
exporter = OTLPMetricExporter(sys.argv[1] + "/v1/metrics")
metrics.set_meter_provider(MeterProvider([PeriodicExportingMetricReader(exporter, 100)]))
sys.stdin.read()
"""


def test_a_meter_provider_that_is_set_after_the_exporter_was_made_gets_all_of_it(
    environment: None, langfuse: StandIn, collector: Collector
) -> None:
    langfuse.behave(standin.unavailable())
    command = (sys.executable, "-c", SERVICE, collector.url)
    with talking(*command, **SHORT_WAITS):
        wait_until(lambda: collector.last("spool.span.pending") == 1)
        langfuse.behave(None)
        wait_until(lambda: collector.last(EXPORTED) == 1)
        wait_until(lambda: collector.last("spool.span.pending") == 0)
        assert (collector.last(DURATION) or 0) >= 1
        assert collector.last("otel.sdk.exporter.span.inflight") == 0


# Collections that hold the SDK's locks

COLLECTING: Final = """
import os, sys, threading
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from spool import SpoolSpanExporter

reader = InMemoryMetricReader()
metrics.set_meter_provider(MeterProvider([reader], shutdown_on_exit=False))

def send(name):
    exporter = SpoolSpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    provider.get_tracer("x").start_span(name).end()
    is_sent = exporter.force_flush(60000)
    exporter.shutdown()
    return is_sent

def collect_and(do):
    done = []
    def callback(_):
        if not done:
            done.append(do())
        return []
    metrics.get_meter("app").create_observable_gauge("lazy", [callback])
    reader.collect()
    return done == [True]
"""
IN_A_CALLBACK: Final = """
sys.exit(not collect_and(lambda: send("a")))
"""
IN_A_CHILD: Final = """
begun, over = threading.Event(), threading.Event()
def wait():
    begun.set()
    return over.wait(60)
threading.Thread(target=collect_and, args=[wait]).start()
begun.wait(60)
child = os.fork()
if child == 0:
    os._exit(not send("a"))
status = os.waitpid(child, 0)[1]
over.set()
sys.exit(status != 0)
"""
# As a fork finds it that comes while a reader collects.
WITH_LOCKS_LOCKED: Final = """
send("first")
locks = []
while not locks:  # until the instruments are made, and told
    send("more")
    reader.collect()
    storages = metrics.get_meter_provider()._measurement_consumer._reader_storages
    (told,) = [one._instrument_view_instrument_matches for one in storages.values()]
    locks = [
        aggregation._lock
        for instrument, matches in told.items()
        if instrument.name.startswith("otel.sdk.exporter.")
        for match in matches
        for aggregation in match._attributes_aggregation.values()
    ]
for lock in locks:
    lock.acquire()
child = os.fork()
if child == 0:
    os._exit(not send("a"))
for lock in locks:
    lock.release()
sys.exit(os.waitpid(child, 0)[1] != 0)
"""


@pytest.mark.parametrize(
    "code",
    [IN_A_CALLBACK, IN_A_CHILD, WITH_LOCKS_LOCKED],
    ids=["in a callback", "in a child of a fork", "with locks locked for ever"],
)
def test_an_exporter_waits_for_no_collection(
    code: str, environment: None, langfuse: StandIn
) -> None:
    run(COLLECTING + code)
    assert langfuse.names()["a"] == 1


RAISING: Final = """
import os
from opentelemetry import metrics
from opentelemetry.metrics import MeterProvider, NoOpMeter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from spool import SpoolSpanExporter

class Raising(NoOpMeter):
    def create_counter(self, *_, **__):
        raise RuntimeError("no")
    create_histogram = create_observable_gauge = create_observable_up_down_counter = create_counter

class RaisingProvider(MeterProvider):
    def get_meter(self, name, *_, **__):
        return Raising(name)

if os.environ["WHEN"] == "before":
    metrics.set_meter_provider(RaisingProvider())
exporter = SpoolSpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
for number in range(3):
    provider.get_tracer("x").start_span(f"s{number}").end()
    assert exporter.force_flush(60000)
    if (number, os.environ["WHEN"]) == (0, "after"):
        metrics.set_meter_provider(RaisingProvider())
"""


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_meter_provider_that_raises_reaches_neither_the_application_nor_the_delivery(
    when: str, environment: None, langfuse: StandIn
) -> None:
    run(RAISING, WHEN=when)
    assert set(langfuse.names().values()) == {1}
    assert langfuse.accepted == 3


# Many processes of one spool

WORKER: Final = """
import sys
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from spool import SpoolSpanExporter

reader = InMemoryMetricReader()
metrics.set_meter_provider(MeterProvider([reader]))
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(SpoolSpanExporter()))
provider.get_tracer("x").start_span("a").end()
print("ready", flush=True)
for line in sys.stdin:
    data = reader.get_metrics_data()
    found = [
        point.value
        for of_resource in (data.resource_metrics if data else [])
        for of_scope in of_resource.scope_metrics
        for metric in of_scope.metrics
        if metric.name == "spool.span.pending"
        for point in metric.data.data_points
    ]
    print(sum(found), flush=True)
"""


def test_a_sum_over_processes_counts_a_spool_once_and_after_a_kill_another_process_tells(
    environment: None, langfuse: StandIn
) -> None:
    langfuse.stop()
    with contextlib.ExitStack() as stack:
        command = (sys.executable, "-c", WORKER)
        workers = [stack.enter_context(talking(*command)) for _ in range(3)]
        assert [line_of(one) for one in workers] == ["ready"] * 3
        assert [tell(one, "collect") for one in workers] == ["3", "0", "0"]
        workers[0].kill()
        workers[0].wait()
        assert sum(int(tell(one, "collect")) for one in workers[1:]) == 3


def test_where_no_meter_provider_is_set_nothing_is_asked(
    environment: None, path: Path, langfuse: StandIn
) -> None:
    code = WORKER.replace("metrics.set_meter_provider(MeterProvider([reader]))", "")
    with talking(sys.executable, "-c", code) as process:
        assert line_of(process) == "ready"
        langfuse.wait_for(lambda server: server.accepted == 1)
        assert not path.with_name("spool.db.reporter").exists()


# The log

LOGGED: Final = """
import json, logging, logging.config
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from spool import SpoolSpanExporter

class AsJson(logging.Formatter):
    def format(self, record):
        return json.dumps({"logger": record.name, "level": record.levelname,
                           "said": record.getMessage(), "args": record.args})

logging.config.dictConfig({
    "version": 1,
    "disable_existing_loggers": True,
    "formatters": {"json": {"()": AsJson}},
    "handlers": {"out": {"class": "logging.StreamHandler", "formatter": "json"}},
    "root": {"handlers": ["out"], "level": "INFO"},
    "loggers": {"spool": {}},
})
provider = TracerProvider()
exporter = SpoolSpanExporter()
provider.add_span_processor(SimpleSpanProcessor(exporter))
provider.get_tracer("x").start_span("a").end()
while exporter.force_flush():
    pass
"""


def test_what_is_logged_goes_where_the_application_logs_once_a_minute(
    environment: None, langfuse: StandIn
) -> None:
    langfuse.stop()
    said = [json.loads(line) for line in run(LOGGED, **SHORT_WAITS).stderr.splitlines()]
    assert [(one["logger"], one["level"]) for one in said] == [("spool", "WARNING")]
    assert said[0]["said"].startswith("langfuse-spool: route pk-lf-test waits: nobody listens at ")
