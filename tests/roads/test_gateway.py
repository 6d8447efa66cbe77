"""The gateway of scripts/gateway that runs here, rotel: many spools, and it dies in between."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pages import GATEWAY, ROOT, block
from ports import HOST, free_port
from programs import SIMPLE, run
from projects import OWN_KEY
from real_receivers import Receiver, Server, installed, running
from spans import names_in
from standin import KEYS, StandIn
from users import environment_of, spool
from waits import wait_until

# What runs does not depend on the Python; a small machine needs its time to start it.
pytestmark = [pytest.mark.trust, pytest.mark.timeout(900)]

SPOOLS = 6
HEAD = SIMPLE + "import os, time\nwriter = os.environ['WRITER']\n"
# It says how many spans have ended: the last ten after the gateway was killed.
WRITER = (
    HEAD
    + """
left, number = 10, 0
while left:
    tracer.start_span(f"{writer} {number}").end()
    number += 1
    left -= os.path.exists(os.environ["KILLED"])
    time.sleep(0.02)
provider.shutdown()
print(number)
"""
)
FIVE_SPANS = (
    HEAD
    + """
for number in range(5):
    tracer.start_span(f"{writer} {number}").end()
provider.shutdown()
"""
)


def rotel_here() -> dict[str, str]:
    """Let the page's command find rotel, and that a port of its own."""
    return {
        "PATH": f"{installed('rotel') / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "ROTEL_OTLP_GRPC_ENDPOINT": f"{HOST}:{free_port()}",
    }


@contextlib.contextmanager
def gateway(directory: Path, **destination: str) -> Iterator[Server]:
    """Run `scripts/gateway/rotel` to a destination."""
    port = free_port()
    environment = {
        "GATEWAY_LISTEN": f"{HOST}:{port}",
        **rotel_here(),
        **destination,
    }
    command = [str(ROOT / "scripts" / "gateway" / "rotel")]
    with running(Server(command, directory / "rotel.log", port, environment)) as server:
        yield server


def keys_of(langfuse: StandIn) -> dict[str, str]:
    """Name a Langfuse project to the gateway."""
    ((public_key, secret_key),) = KEYS.items()
    return {
        "LANGFUSE_PUBLIC_KEY": public_key,
        "LANGFUSE_SECRET_KEY": secret_key,
        "LANGFUSE_HOST": langfuse.url,
    }


def program_of(path: Path, server: Server, writer: str) -> dict[str, str]:
    """Name the gateway to a program, in place of Langfuse."""
    return environment_of(path, f"http://{HOST}:{server.port}", WRITER=writer)


def pending_names(path: Path) -> list[str]:
    shown = json.loads(spool("--path", str(path), "peek", "-n", "10000", "--json").stdout)
    return [span["name"] for span in shown]


def drain(path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as here:
        for name, value in program_of(path, server, "").items():
            here.setenv(name, value)
        done = spool("drain", "--timeout", "60", "--json")
    assert json.loads(done.stdout)["pending"] == 0


def test_the_commands_of_its_page(tmp_path: Path, path: Path, langfuse: StandIn) -> None:
    port = free_port()
    text = block("rotel", "sh", page=GATEWAY)
    for written, here in {
        "10.0.0.5:4318": f"{HOST}:{port}",
        "https://cloud.langfuse.com": langfuse.url,
        "pk-lf-...": "pk-lf-test",
        "sk-lf-...": "sk-lf-test",
        "scripts/gateway/rotel": f"exec {ROOT}/scripts/gateway/rotel",
    }.items():
        assert written in text
        text = text.replace(written, here)
    with running(Server(["bash", "-ec", text], tmp_path / "log", port, rotel_here())) as server:
        run(FIVE_SPANS, **program_of(path, server, "page"))
        wait_until(lambda: langfuse.accepted == 5)


def test_of_many_spools_nothing_is_lost_that_the_gateway_had_not_acknowledged(
    tmp_path: Path, langfuse: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [tmp_path / str(writer) / "spool.db" for writer in range(SPOOLS)]
    killed = tmp_path / "killed"
    with gateway(tmp_path, **keys_of(langfuse)) as server:
        writers = [
            subprocess.Popen(
                [sys.executable, "-c", WRITER],
                env={
                    **os.environ,
                    **program_of(path, server, path.parent.name),
                    "KILLED": str(killed),
                },
                stdout=subprocess.PIPE,
            )
            for path in paths
        ]
        wait_until(lambda: len({name.split()[0] for name in langfuse.names()}) == SPOOLS)
        server.kill()  # Whoever has no answer now never gets one.
        killed.touch()
        ended = [int(writer.communicate(timeout=120)[0]) for writer in writers]
        pending = [name for path in paths for name in pending_names(path)]
        arrived = len(langfuse.names())
        server.start()
        for path in paths:
            drain(path, server, monkeypatch)
        wait_until(lambda: all(langfuse.names()[name] for name in pending))
    acknowledged = sum(ended) - len(pending)
    print(
        f"{acknowledged} of {sum(ended)} were acknowledged; {acknowledged - arrived} died in rotel"
    )
    ended_after_it = {
        f"{n} {count - last}" for n, count in enumerate(ended) for last in range(1, 11)
    }
    # What rotel had sent on and not acknowledged yet arrives twice: at most a request a spool.
    assert ended_after_it <= set(pending) <= set(langfuse.names())


def test_what_rotel_has_acknowledged_and_not_sent_dies_with_it_and_nothing_else(
    tmp_path: Path, path: Path, langfuse: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    langfuse.stop()
    with gateway(tmp_path, **keys_of(langfuse)) as server:
        run(FIVE_SPANS, **program_of(path, server, "acknowledged"))
        assert pending_names(path) == []
        server.kill()
        run(FIVE_SPANS, **program_of(path, server, "kept"))
        assert len(pending_names(path)) == 5
        langfuse.start()
        server.start()
        drain(path, server, monkeypatch)
        wait_until(lambda: len(langfuse.names()) == 5)
    assert set(langfuse.names()) == {f"kept {number}" for number in range(5)}


def test_every_program_behind_one_rotel_is_of_the_project_whose_keys_rotel_has(
    tmp_path: Path, path: Path, langfuse: StandIn
) -> None:
    with gateway(tmp_path, **keys_of(langfuse)) as server:
        keys = {"LANGFUSE_PUBLIC_KEY": "pk-lf-other", "LANGFUSE_SECRET_KEY": "sk-lf-other"}
        run(FIVE_SPANS, **{**program_of(path, server, "other"), **keys})
        wait_until(lambda: langfuse.accepted == 5)
    assert {request.headers["authorization"] for request in langfuse.requests} == {OWN_KEY}


@pytest.mark.parametrize("name", ["phoenix", "mlflow"])
def test_rotel_in_front_of_another_receiver(
    tmp_path: Path, path: Path, receivers: Callable[[str], Receiver], name: str
) -> None:
    real = receivers(name)
    with gateway(tmp_path, **real.environment) as server:
        run(
            FIVE_SPANS,
            SPOOL_PATH=str(path),
            OTEL_EXPORTER_OTLP_ENDPOINT=f"http://{HOST}:{server.port}",
            WRITER="through rotel",
        )
        real.wait_for([f"through rotel {number}" for number in range(5)])


def test_rotel_hands_over_to_kafka(tmp_path: Path, path: Path) -> None:
    kafka = pytest.importorskip("confluent_kafka", reason="confluent-kafka is not installed here")
    producer = kafka.Producer({"test.mock.num.brokers": 1})  # librdkafka's own broker, on loopback
    ((_, broker),) = producer.list_topics(timeout=60).brokers.items()
    brokers = f"{broker.host}:{broker.port}"
    with gateway(tmp_path, KAFKA_BROKERS=brokers) as server:
        run(FIVE_SPANS, **program_of(path, server, "kafka"))
        consumer = kafka.Consumer(
            {"bootstrap.servers": brokers, "group.id": "test", "auto.offset.reset": "earliest"}
        )
        names: list[str] = []

        def has_all() -> bool:
            message = consumer.poll(1)
            if message is not None and message.error() is None:
                names.extend(names_in(message.value()))
            return len(names) == 5

        wait_until(lambda: "otlp_spans" in producer.list_topics(timeout=60).topics)
        consumer.subscribe(["otlp_spans"])
        wait_until(has_all)
        consumer.close()
    assert sorted(names) == [f"kafka {number}" for number in range(5)]
