"""The exporters of LiteLLM's projects: one for the process, and a thin one for each key and team.

Invariants:

- However many keys and teams have projects of their own, there is one exporter with one spool.
- Their spans go to no other project, and nobody else's spans go to theirs.
"""

from __future__ import annotations

import logging
import os
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING

from litellm._logging import verbose_logger
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from spool.errors import SpoolError
from spool.exporter import SpoolSpanExporter
from spool.litellm_worker import run_what_has_not_begun
from spool.settings.target import Named, Target
from spool.system.log import logger
from spool.system.redaction import without_secrets

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider


def target_of(endpoint: str, headers: Mapping[str, str]) -> Target:
    """Name where LiteLLM would send spans, and say it on its logger. Raises SettingsError."""
    target = Target.otlp(endpoint, headers)
    verbose_logger.debug(
        "spool: spans of %s go to %s; authorization header: %s",
        target.route,
        without_secrets(target.endpoint),
        "made" if "authorization" in target.headers else "none",
    )
    return target


def as_named(target: Target) -> Target:
    """Note whether the environment names the host of LiteLLM's own project, or LiteLLM does."""
    if any(os.environ.get(host) for host in ("LANGFUSE_OTEL_HOST", "LANGFUSE_HOST")):
        return target
    return replace(target, named=Named.BY_LITELLM) if has_keys() else target


def has_keys() -> bool:
    """Say whether the environment has both Langfuse keys of LiteLLM's own project."""
    return all(os.environ.get(f"LANGFUSE_{key}_KEY") for key in ("PUBLIC", "SECRET"))


def own_route(target: Target, default: Target | None) -> Target:
    """Give a key's or team's target a route that nobody else can have.

    Requests may bring credentials (in 1.82 any client of a proxy can): whoever names the public key
    of another, with a secret or host of his own, must not get the other's spans.
    """
    if default is not None and replace(target, named=default.named) == default:
        return default
    return target if target.public_key is None else target.marked()  # it is by its headers


def end(spans: SpoolSpanExporter | TracerProvider) -> None:
    """Let LiteLLM end the spans it still holds, then shut down.

    LiteLLM's own exit hook for that was registered before ours, and so would come after it.
    """
    run_what_has_not_begun()
    spans.shutdown()


def show_what_is_sent() -> None:
    """Where LiteLLM's debug output is on, show ours there."""
    if verbose_logger.isEnabledFor(logging.DEBUG):
        logger.setLevel(logging.DEBUG)
        for output in verbose_logger.handlers:
            logger.addHandler(output)


def warn(message: str) -> None:
    """Say it where a program's author sees it, and where a proxy's operator does."""
    logger.warning("langfuse-spool: %s", message)
    warnings.warn(message, RuntimeWarning, stacklevel=3)


class LiteLLMExporter(SpoolSpanExporter):
    """Says on LiteLLM's logger what was spooled."""

    def export_to(self, target: Target, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = super().export_to(target, spans)
        verbose_logger.debug(
            "spool: %s of %s: %s",
            [span.name for span in spans],
            target.route,
            "spooled" if result is SpanExportResult.SUCCESS else "refused",
        )
        return result


class ProjectExporter(SpanExporter):
    """Spools for one project through the one exporter, or refuses.

    Its spans must go to no other project; so a host that is no URL is no reason to take the
    default. They are counted as refused, and it is said in the log.

    Its shutdown does nothing: LiteLLM shuts a key's provider down when there are many keys, on the
    way of a request.
    """

    def __init__(self, find: Callable[[], Target], exporter: SpoolSpanExporter) -> None:
        self._find = find
        self._exporter = exporter

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        try:
            target = self._find()
        except SpoolError as error:
            return self._exporter.refuse(spans, error)
        return self._exporter.export_to(target, spans)
