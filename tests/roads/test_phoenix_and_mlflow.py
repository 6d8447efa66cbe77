"""Phoenix and MLflow as receivers, by OpenTelemetry's own variables, as users run them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from programs import SIMPLE, line_of, run, talking
from real_receivers import Receiver
from users import spool, status

# What runs does not depend on the Python; a small machine needs its time to start it.
pytestmark = [pytest.mark.trust, pytest.mark.timeout(900)]

# The first half ends while the receiver is well, the second while it is down.
TWO_HALVES = (
    SIMPLE
    + """
import sys
for number in range(50):
    if number == 25:
        print("half", flush=True)
        sys.stdin.readline()
    tracer.start_span(f"outage {number}").end()
provider.shutdown()
"""
)
# What MLflow takes no span with: it refuses the whole request.
ONE_BAD_SPAN = (
    SIMPLE
    + """
for number in range(10):
    session = "x" * 300 if number == 4 else "s"
    tracer.start_span(f"among bad {number}", attributes={"session.id": session}).end()
provider.shutdown()
"""
)


@pytest.fixture
def use(
    receivers: Callable[[str], Receiver], path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Receiver]:
    """Start a receiver, or take the one that runs, and name it as a user would."""

    def start(name: str) -> Receiver:
        receiver = receivers(name)
        monkeypatch.setenv("SPOOL_PATH", str(path))
        monkeypatch.setenv("SPOOL_TIMEOUT_SECONDS", "60")
        for variable, value in receiver.environment.items():
            monkeypatch.setenv(variable, value)
        return receiver

    return start


@pytest.mark.parametrize("name", ["phoenix", "mlflow"])
def test_what_ends_while_the_receiver_is_dead_arrives_once_it_lives_again(
    use: Callable[[str], Receiver], name: str
) -> None:
    real = use(name)
    names = [f"outage {number}" for number in range(50)]
    with talking(sys.executable, "-c", TWO_HALVES) as program:
        assert line_of(program) == "half"
        real.wait_for(names[:25])
        real.server.kill()
    assert program.returncode == 0
    assert status()["pending"]["spans"] == 25
    real.server.start()
    done = json.loads(spool("drain", "--timeout", "120", "--json").stdout)
    assert (done["delivered"], done["pending"], done["dead"]) == (25, 0, 0)
    real.wait_for(names)


def test_one_bad_span_among_good_ones_is_a_dead_letter_and_the_others_arrive(
    use: Callable[[str], Receiver],
) -> None:
    real = use("mlflow")
    run(ONE_BAD_SPAN, SPOOL_DRAIN="off")
    done = json.loads(spool("drain", "--timeout", "120", "--json", code=1).stdout)
    assert (done["delivered"], done["pending"], done["dead"]) == (9, 0, 1)
    assert "'Session ID' exceeds the maximum length" in spool("dead", "list").stdout
    real.wait_for([f"among bad {number}" for number in range(10) if number != 4])
    assert real.names()["among bad 4"] == 0


def test_an_experiment_that_is_not_there_holds_its_spans_until_it_is_named_right(
    use: Callable[[str], Receiver], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = use("mlflow")
    with monkeypatch.context() as wrong:
        wrong.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-mlflow-experiment-id=999")
        run(SIMPLE + "tracer.start_span('held').end(); provider.shutdown()")
    (route,) = status()["routes"]
    assert (route["state"], route["pending_spans"]) == ("held", 1)
    assert "No Experiment with id=999 exists" in route["last_error"]
    spool("adopt", "--yes", route["route"])
    spool("drain", "--timeout", "120")
    real.wait_for(["held"])


@pytest.mark.parametrize("name", ["phoenix", "mlflow"])
def test_check_finds_a_receiver_well_that_is_and_it_stores_nothing(
    name: str, use: Callable[[str], Receiver]
) -> None:
    receiver = use(name)
    before = receiver.names()
    assert "ok  export " in spool("check").stdout
    assert receiver.names() == before
