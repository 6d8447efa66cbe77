"""The LiteLLM callback in a real proxy, ended right after ten requests."""

from __future__ import annotations

import contextlib
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import pytest

import span_witness
from litellm_scenarios import drain, litellm_version
from pages import block
from projects import OWN_KEY, PROJECTS, TEAM_KEY, credentials_file
from proxies import Proxy, needs_proxy
from standin import StandIn, parse, spans_of, unavailable

pytestmark = needs_proxy

README_SETTINGS: Final = block("The roads in", "yaml")
README_CALLBACK: Final = "spool.litellm.handler"


@dataclass(frozen=True)
class Way:
    """A way to get the callback into a proxy, and the LiteLLM versions that it is for."""

    callback: str
    first: tuple[int, int]
    below: tuple[int, int] = (99, 0)
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def settings(self) -> str:
        return README_SETTINGS.replace(README_CALLBACK, self.callback)


WAYS: Final = {
    "the handler by its dotted path": Way(README_CALLBACK, first=(1, 94)),
    "a file beside the configuration": Way("spooled.handler", first=(1, 82), below=(1, 94)),
    "the stock name and a startup hook": Way(
        "langfuse_otel",
        first=(1, 83),
        environment={"LITELLM_WORKER_STARTUP_HOOKS": "spool.litellm:install"},
    ),
}
V2: Final = {"LITELLM_OTEL_V2": "true"}
V2_WAYS: Final = {  # older LiteLLMs' v2 does not start with OpenTelemetry 1.44: they go on with v1
    name: replace(way, first=(1, 108), environment={**way.environment, **V2})
    for name, way in WAYS.items()
    if way.below == Way.below
}

# Key, model, whether the answer is streamed.
REQUESTS: Final = [
    *[("sk-own", "mock", False)] * 3,
    *[("sk-own", "mock", True)] * 2,
    ("sk-own", "broken", False),
    *[("sk-team", "mock", False)] * 2,
    ("sk-team", "mock", True),
    ("sk-team", "broken", False),
]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_all_spans_of_a_terminated_proxy_arrive_later(
    tmp_path: Path, path: Path, langfuse: StandIn, way: Way
) -> None:
    needs_version(way)
    checks = terminate_amid_an_outage(way, tmp_path, path, langfuse)
    assert names_by_key(langfuse) == {
        OWN_KEY: {"litellm_request": 6 + checks, "raw_gen_ai_request": 5 + checks},
        TEAM_KEY: {"litellm_request": 4, "raw_gen_ai_request": 3},
    }


@pytest.mark.timeout(900)
@pytest.mark.parametrize("way", V2_WAYS.values(), ids=V2_WAYS.keys())
def test_all_spans_of_a_terminated_proxy_with_litellms_v2_arrive_later(
    tmp_path: Path, path: Path, langfuse: StandIn, way: Way
) -> None:
    needs_version(way)
    checks = terminate_amid_an_outage(way, tmp_path, path, langfuse)
    names = names_by_key(langfuse)
    assert names[OWN_KEY]["chat litellm-mock-response-model"] == checks
    assert calls(names[OWN_KEY]) == {"chat mock": 5, "chat broken": 1}
    assert calls(names[TEAM_KEY]) == {"chat mock": 3, "chat broken": 1}


def needs_version(way: Way) -> None:
    if not way.first <= litellm_version() < way.below:
        pytest.skip(f"not for litellm {'.'.join(map(str, litellm_version()))}")


def terminate_amid_an_outage(way: Way, directory: Path, path: Path, langfuse: StandIn) -> int:
    """Ask a proxy all there is to ask, terminate it at once, end the outage, and drain.

    Gives how many calls the proxy has made by itself, for its health.
    """
    langfuse.keys.update(PROJECTS)
    langfuse.behave(unavailable())
    ended = directory / "ended"
    environment = {**way.environment, "LANGFUSE_HOST": langfuse.url, "SPOOL_PATH": str(path)}
    workers = 2 if way is WAYS["the handler by its dotted path"] else 1
    environment[span_witness.FILE] = str(ended)
    proxy = Proxy(directory, way.settings, workers, **environment)
    with contextlib.closing(proxy):
        proxy.wait_until_up()
        checks = check_health(proxy)
        answer_all(proxy)
        proxy.terminate()
    assert langfuse.accepted == 0
    langfuse.behave(None)
    credentials = credentials_file(directory / "credentials")
    drain(path, langfuse.url, SPOOL_CREDENTIALS_FILE=credentials)
    assert langfuse.span_ids() == Counter(span_witness.noted(ended).keys()), proxy.log()
    return checks


def check_health(proxy: Proxy) -> int:
    """See the proxy's own checks go on working; give how many calls they have made."""
    if litellm_version() < (1, 94):  # there who comes by a custom auth may only make calls
        return 0
    status, said = proxy.get("/health/readiness")
    assert (status, said["status"]) == (200, "healthy"), said
    if litellm_version() < (1, 108):  # there it knows no callback before a worker's first call
        return 0
    status, said = proxy.get("/health/services?service=langfuse_otel")
    assert (status, said["status"]) == (200, "success"), said
    return 1


def answer_all(proxy: Proxy) -> None:
    for key, model, is_streamed in REQUESTS:
        status, text = proxy.ask(key, model, is_streamed=is_streamed)
        if model == "mock":
            assert (status, text) == (200, "hello")
        else:
            assert status == 500, text


def names_by_key(langfuse: StandIn) -> dict[str, Counter[str]]:
    """Count the names of the accepted spans, by the Authorization that they came with."""
    names: dict[str, Counter[str]] = defaultdict(Counter)
    for request in langfuse.requests:
        if request.status == 200:
            names[request.headers["authorization"]].update(
                span.name for span in spans_of(parse(request))
            )
    return names


def calls(names: Counter[str]) -> Counter[str]:
    """Count the spans that are calls of our models, in v2."""
    return Counter({name: names[name] for name in ("chat mock", "chat broken")})
