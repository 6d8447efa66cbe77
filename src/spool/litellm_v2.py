"""LiteLLM's v2 (`LITELLM_OTEL_V2=true`): whatever it exports by OTLP over HTTP, made durable.

Invariants:

- LiteLLM makes the spans and decides where they go; only what takes them is ours, and only where
  it would speak OTLP over HTTP: Langfuse projects, and any collector of the operator's. gRPC, the
  console, metrics and logs stay LiteLLM's.
- A tenant costs no thread, socket or file of ours, and LiteLLM waits for nothing when it ends one.
- A span is in the spool when it has ended, whosever project it is for: where LiteLLM would put a
  BatchSpanProcessor in front of us, a SimpleSpanProcessor stands. (A SIGTERM, too, would lose a
  batch: uvicorn lets the signal itself end a proxy's workers, so no exit hook runs.)

It is imported where v2 is on, as it imports v2. What is said here about LiteLLM was read in its
integrations/otel/{plumbing/providers,plumbing/routing,model/config,presets/langfuse,logger}.py and
litellm_core_utils/litellm_logging.py, versions 1.94.0, 1.108.7 and 1.110.2.
"""

from __future__ import annotations

import atexit
import functools
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, cast

from litellm.integrations.otel.logger import OpenTelemetryV2
from litellm.integrations.otel.model.config import OpenTelemetryV2Config
from litellm.integrations.otel.plumbing import providers
from litellm.integrations.otel.presets.langfuse import langfuse_preset
from litellm.litellm_core_utils import litellm_logging
from opentelemetry.sdk.environment_variables import (
    OTEL_EXPORTER_OTLP_HEADERS,
    OTEL_EXPORTER_OTLP_TRACES_HEADERS,
)

from spool.errors import SettingsError
from spool.litellm_projects import (
    LiteLLMExporter,
    ProjectExporter,
    as_named,
    end,
    has_keys,
    own_route,
    show_what_is_sent,
    target_of,
    warn,
)
from spool.litellm_worker import hold_until_begun, run_what_has_not_begun
from spool.settings.environment import MISSING_KEYS
from spool.settings.settings import Settings
from spool.system.log import logger

if TYPE_CHECKING:
    from litellm.integrations.custom_logger import CustomLogger
    from litellm.integrations.otel.model.config import ExporterSpec
    from opentelemetry.sdk.trace import SpanProcessor
    from opentelemetry.sdk.trace.export import SpanExporter

    from spool.settings.target import Target

_KINDS: Final = ("otlp_http", "http", "http/protobuf", "http/json")  # we send protobuf for all
_NOWHERE: Final = "http://localhost:4318/v1/traces"  # OpenTelemetry's default

# What this process has made of us: the exporter, and the target of LiteLLM's own project. Two
# threads at once may both make one; the first stays. A lock could be held across a fork.
_made: Final[dict[str, Any]] = {}


def install() -> None:
    """Put the spool behind all OTLP/HTTP exporters that LiteLLM's v2 makes from now on.

    Calling it again is harmless. Raises SettingsError or SpoolFileError.
    """
    if "own" in _made:
        return
    own = _own_target()
    settings = Settings.from_env(target=own)  # what is wrong in it is said here
    if own is not None:
        _exporter(settings)
    show_what_is_sent()
    _warn_if_late()
    _made.update(own=own, settings=settings)
    for kind in _KINDS:
        providers.register_exporter_factory(kind, make_exporter)
    _take_spans_as_they_end()


def callback() -> CustomLogger:
    """Give LiteLLM's v2 callback `langfuse_otel`: the one that it takes for this name, too.

    Raises SettingsError.
    """
    if not has_keys():  # LiteLLM would take its v1 then
        raise SettingsError(MISSING_KEYS)
    made = litellm_logging._init_custom_logger_compatible_class(  # noqa: SLF001 - the only way
        "langfuse_otel", internal_usage_cache=None, llm_router=None
    )
    if made is None:
        raise SettingsError(
            "LiteLLM could not make its v2 callback langfuse_otel; its log says why"
        )
    return made


def make_exporter(spec: ExporterSpec) -> SpanExporter:
    """Make what takes the spans for a destination of LiteLLM's. Raises SettingsError."""
    own, settings = _made["own"], _made["settings"]

    @functools.cache
    def find() -> Target:
        return cast("Target", settings.with_extra_headers(own_route(_target(spec), own)))

    if "exporter" not in _made:  # LiteLLM has no project of its own
        _exporter(replace(settings, target=find()))
    # At exit, before the provider ends that LiteLLM has just made: it takes no spans then.
    atexit.unregister(run_what_has_not_begun)
    atexit.register(run_what_has_not_begun)
    return ProjectExporter(find, _made["exporter"])


def _take_spans_as_they_end() -> None:
    """Have LiteLLM put a SimpleSpanProcessor in front of our exporters, and of no others.

    Its fan-out to the projects of keys and teams asks for a batch, and there is no setting for it.
    """
    choose = getattr(providers, "_processor_for", None)
    if choose is None:
        warn(
            "this version of LiteLLM puts a BatchSpanProcessor in front of the spool: a kill loses "
            "what has ended in the last 5 s"
        )
        return

    def processor_for(exporter: SpanExporter, use_simple: bool | None) -> SpanProcessor:
        is_simple = True if isinstance(exporter, ProjectExporter) else use_simple
        return cast("SpanProcessor", choose(exporter, is_simple))

    providers._processor_for = processor_for  # noqa: SLF001 - the only way in


def _exporter(settings: Settings) -> None:
    made = LiteLLMExporter(settings=settings)
    if _made.setdefault("exporter", made) is made:
        hold_until_begun()
        atexit.register(end, made)
    else:
        made.shutdown()


def _own_target() -> Target | None:
    """Name LiteLLM's own project, by its Langfuse keys, else by its OTLP variables."""
    if not has_keys():
        logger.warning(
            "langfuse-spool: LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY are not both set: where "
            "LiteLLM then takes its v1 callback for the name langfuse_otel, that one is not spooled"
        )
    try:
        config = langfuse_preset() if has_keys() else OpenTelemetryV2Config()
    except ValueError as error:  # pydantic's, which names the setting
        raise SettingsError(f"LiteLLM's v2 does not take its settings: {error}") from error
    spec = config.exporters[-1]
    return as_named(_target(spec)) if spec.kind.lower() in _KINDS else None


def _target(spec: ExporterSpec) -> Target:
    """Read a description as LiteLLM does, and then OpenTelemetry's exporter."""
    endpoint = getattr(spec, "traces_endpoint", None)  # newer than 1.94
    endpoint = endpoint or providers._otlp_traces_endpoint(spec.endpoint)  # noqa: SLF001 - LiteLLM's
    headers = providers.parse_headers(spec.headers) or providers.parse_headers(
        os.environ.get(OTEL_EXPORTER_OTLP_TRACES_HEADERS)
        or os.environ.get(OTEL_EXPORTER_OTLP_HEADERS)
    )
    return target_of(endpoint or _NOWHERE, headers)


def _warn_if_late() -> None:
    made = [
        one.callback_name or "otel"
        for one in litellm_logging._in_memory_loggers  # noqa: SLF001 - the only way
        if isinstance(one, OpenTelemetryV2)
        and any(spec.kind.lower() in _KINDS for spec in one.config.exporters)
    ]
    if made:
        warn(
            f"LiteLLM has already made its own {' and '.join(made)} callback (v2), which goes on "
            "sending spans from memory, where they can be lost. Call spool.litellm.install() "
            "before LiteLLM's first call."
        )
