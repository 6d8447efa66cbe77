from __future__ import annotations

import sys
from dataclasses import replace

import pytest

from reports import report_of
from spans import batch
from spool.errors import SettingsError
from spool.report import prometheus
from spool.report.concerns import Concern
from spool.report.report import Report
from spool.settings.settings import Settings
from spool.store.store import Store

parser = pytest.importorskip("prometheus_client.parser")
pytestmark = pytest.mark.once

NOW = 1_700_000_000.0
HOSTILE = 'pk-lf-"\\n\\"}\n# TYPE x counter\n\x1b[31m'
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def text_of(report: Report) -> str:
    return prometheus.text_of(report, report.concerns())


def samples_of(text: str) -> Samples:
    """Read it as Prometheus does; each sample is told once, of a metric with HELP and TYPE."""
    found: Samples = {}
    for family in parser.text_string_to_metric_families(text):
        assert family.documentation, family.name
        assert family.type in {"gauge", "counter"}, family.name
        for sample in family.samples:
            key = sample.name, tuple(sorted(sample.labels.items()))
            assert key not in found
            found[key] = sample.value
    return found


def test_a_report_is_told_in_full(store: Store, settings: Settings) -> None:
    target = settings.require_target()
    store.append(target, batch("a", "b"), NOW - 60)
    store.append(target, batch("c"), NOW - 30)
    found = samples_of(text_of(report_of(store, settings, NOW)))
    of_route = (("route", target.route),)
    for name, labels, value in [
        ("exists", (), 1),
        ("ok", (), 0),
        ("concerns", (("code", "nobody-drains"),), 1),
        ("drainer_running", (), 0),
        ("pending_spans", of_route, 3),
        ("oldest_pending_timestamp_seconds", of_route, NOW - 60),
        ("route_failed_attempts", of_route, 0),
        ("route_state", (*of_route, ("state", "ok")), 1),
        ("route_state", (*of_route, ("state", "held")), 0),
        ("accepted_spans_total", (), 3),
        ("delivered_spans_total", (), 0),
        ("dead_letter_spans", (), 0),
        ("limit_bytes", (), settings.max_bytes),
    ]:
        assert found[f"langfuse_spool_{name}", labels] == value, name
    assert found["langfuse_spool_pending_bytes", of_route] > 100
    assert found["langfuse_spool_used_bytes", ()] > 1000
    assert found["langfuse_spool_disk_free_bytes", ()] > 0
    assert ("langfuse_spool_last_success_timestamp_seconds", of_route) not in found, "never"
    assert all(name.startswith("langfuse_spool_") for name, _ in found)


def test_the_ledger_is_told_in_full(store: Store, settings: Settings) -> None:
    store.open()
    report = report_of(store, settings, NOW)
    ledger = replace(report.ledger, **{
        name: number for number, name in enumerate(report.ledger.__slots__, 1)
    })  # fmt: skip
    found = samples_of(text_of(replace(report, ledger=ledger)))
    values = {value for (name, _), value in found.items() if "_spans" in name}
    assert values == {*range(1, 12)} - {ledger.pending}, "what waits is told by route"


def test_what_others_have_named_breaks_no_line(store: Store, settings: Settings) -> None:
    store.append(settings.require_target(), batch("a"), NOW)
    report = report_of(store, settings, NOW)
    (route,) = report.routes
    hostile = replace(report, routes=(replace(route, name=HOSTILE),))
    found = samples_of(text_of(hostile))
    assert found["langfuse_spool_pending_spans", (("route", HOSTILE),)] == 1


@pytest.mark.parametrize(("exists", "code"), [(False, "no-spool"), (True, "unusable")])
def test_a_spool_of_which_nothing_can_be_read_is_not_well(code: str, *, exists: bool) -> None:
    found = prometheus.text_of(None, [Concern(code, "words", "remedy")], exists=exists)
    assert samples_of(found) == {
        ("langfuse_spool_exists", ()): exists,
        ("langfuse_spool_ok", ()): 0,
        ("langfuse_spool_concerns", (("code", code),)): 1,
    }


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(SettingsError, match="pip install prometheus_client"):
        prometheus.text_of(None, [])
