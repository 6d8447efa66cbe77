"""The LiteLLM callback: the spans of LiteLLM's own `langfuse_otel`, made durable.

    litellm.callbacks = [spool.litellm.handler]

Invariants:

- LiteLLM makes the spans and decides where they go; only what takes them is ours.
- A process has one handler and one exporter, however many keys and teams have projects of their
  own. Their spans go to no other project, and nobody else's spans go to theirs.
- Wrong settings are an error where the callback is set up, in LiteLLM's words; nothing is later.

What is said here about LiteLLM was read in its integrations/langfuse/langfuse_otel.py,
integrations/opentelemetry.py and litellm_core_utils/{litellm_logging,logging_worker}.py, versions
1.82.0, 1.94.0, 1.106.2 and 1.110.2.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib
import logging
import os
import sys
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from litellm._logging import verbose_logger
from litellm.integrations.langfuse.langfuse_otel import LangfuseOtelLogger
from litellm.litellm_core_utils import litellm_logging
from litellm.litellm_core_utils.logging_worker import GLOBAL_LOGGING_WORKER
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.util.re import parse_env_headers

from spool.errors import SettingsError, SpoolError
from spool.exporter import SpoolSpanExporter
from spool.settings.environment import MISSING_KEYS
from spool.settings.settings import Settings
from spool.settings.target import Named, Target
from spool.system.log import logger
from spool.system.redaction import without_secrets

# LiteLLM imports it with a call's first span: at exit, where a program ends after its call. By then
# it starts no thread any more, and fails. Older versions do not have it; some cannot import it.
with contextlib.suppress(Exception):
    importlib.import_module("litellm.integrations.otel.emitter")

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from litellm.integrations.opentelemetry import OpenTelemetryConfig
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan

_NAME: Final = "langfuse_otel"
_OTLP_HTTP: Final = ("otlp_http", "http/protobuf", "http/json")  # LiteLLM sends protobuf for all.
_MOST_MARKERS: Final = 2000

handler: SpooledLangfuseOtelLogger
"""The callback of this process, made when it is first asked for, as by `install()`."""


def install() -> None:
    """Make LiteLLM's callback name `langfuse_otel` mean our `handler`, everywhere.

    The settings of a proxy's keys and teams say this name too. Call it before LiteLLM's first call;
    calling it again is harmless. Raises SettingsError or SpoolFileError.
    """
    # Two threads at once may both make one; the first stays. A lock could be held across a fork.
    ours = globals().get("handler") or globals().setdefault("handler", SpooledLangfuseOtelLogger())
    # LiteLLM takes the first LangfuseOtelLogger of this list, and makes its own if there is none.
    loggers: list[Any] = litellm_logging._in_memory_loggers  # noqa: SLF001 - the only way in
    if ours in loggers[:1]:
        return
    if any(other is not ours and getattr(other, "callback_name", "") == _NAME for other in loggers):
        _warn(
            "LiteLLM has already made its own langfuse_otel callback, which goes on sending spans "
            "from memory, where they can be lost. Call spool.litellm.install() before LiteLLM's "
            "first call."
        )
    if os.environ.get("LITELLM_OTEL_V2", "").lower() in ("1", "on", "t", "true", "y", "yes"):
        _warn(
            "LITELLM_OTEL_V2 is set: the name langfuse_otel then means LiteLLM's v2 callback, "
            "which is not spooled, and its spans can be lost. Unset it, or put "
            "spool.litellm.handler itself into the callbacks."
        )
    loggers.insert(0, ours)


def __getattr__(name: str) -> Any:
    if name != "handler":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    install()
    return globals()[name]


def _warn(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=3)


class SpooledLangfuseOtelLogger(LangfuseOtelLogger):
    """LiteLLM's `langfuse_otel` callback; a span is in the spool when it has ended."""

    # It decides on langfuse.* attributes; LiteLLM reads it before its __init__ has set it, too.
    callback_name = _NAME

    def __init__(self) -> None:
        """Read the environment as LiteLLM does. Raises SettingsError or SpoolFileError."""
        config = self._create_open_telemetry_config_from_langfuse_env()
        target = self._target(config)
        if not any(os.environ.get(host) for host in ("LANGFUSE_OTEL_HOST", "LANGFUSE_HOST")):
            keys = (os.environ.get(f"LANGFUSE_{key}_KEY") for key in ("PUBLIC", "SECRET"))
            target = replace(target, named=Named.BY_LITELLM) if all(keys) else target
        self._own_target = target
        self._settings = Settings.from_env(target=target)
        self._exporter = _Exporter(settings=self._settings)
        # Made here, not at the first span: LiteLLM ends spans during exit too, and cannot then.
        self._resource: Resource = super()._get_litellm_resource(config)
        provider = TracerProvider(resource=self._resource, shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        super().__init__(  # type: ignore[no-untyped-call]  # LiteLLM's is untyped
            config=config, callback_name=_NAME, tracer_provider=provider
        )
        # Without headers LiteLLM takes that provider; and has no secret to log, as 1.82 does.
        self.config, self.OTEL_HEADERS = replace(config, headers=None), None
        if verbose_logger.isEnabledFor(logging.DEBUG):
            _show_what_is_sent()
        atexit.register(self._close)

    def _get_span_processor(
        self,
        dynamic_headers: Mapping[str, str] | None = None,
        config_override: OpenTelemetryConfig | None = None,
    ) -> SimpleSpanProcessor:
        """Take the spans of a key or team that has its own Langfuse project.

        LiteLLM passes a configuration from 1.94 on. Before, it passes headers, and they go to the
        endpoint of the environment whatever host the key names.
        """
        config = config_override or self.config

        @functools.cache
        def find() -> Target:
            target = self._own_route(self._target(config, dynamic_headers))
            return self._settings.with_extra_headers(target)

        return SimpleSpanProcessor(_ProjectExporter(find, self._exporter))

    # LiteLLM's is static, and it calls it on the instance.
    def _get_litellm_resource(self, _config: OpenTelemetryConfig) -> Resource:  # type: ignore[override]
        return self._resource

    def _init_otel_logger_on_litellm_proxy(self) -> None:
        # Where the proxy is installed, LiteLLM would import all of it, for nothing outside of it:
        # that costs seconds here, and one more at exit.
        if "litellm.proxy.proxy_server" in sys.modules:
            super()._init_otel_logger_on_litellm_proxy()  # type: ignore[no-untyped-call]

    def _emit_once(self, kwargs: dict[str, Any], *scope: object) -> bool:
        """Tell each call apart.

        LiteLLM notes "this is logged" in the metadata dict, which is the caller's own: without the
        call's id, each further call with the same dict would be taken for a repetition.
        """
        if scope not in (("success",), ("failure",)):
            return super()._emit_once(kwargs, *scope)
        is_first = super()._emit_once(kwargs, kwargs.get("litellm_call_id"), *scope)
        markers = kwargs["litellm_params"]["metadata"]["_otel_internal"]["spans_logged"]
        if len(markers) > _MOST_MARKERS:
            for marker in list(markers)[: _MOST_MARKERS // 2]:
                if id(self) in marker:
                    markers.pop(marker, None)
        return is_first

    def _target(
        self, config: OpenTelemetryConfig, headers: Mapping[str, str] | None = None
    ) -> Target:
        endpoint = self._normalize_otel_endpoint(config.endpoint, "traces")
        if not endpoint:
            raise SettingsError(MISSING_KEYS)
        if config.exporter not in _OTLP_HTTP:
            raise SettingsError(
                f"OTEL_EXPORTER_OTLP_PROTOCOL={config.exporter}: must be http/protobuf"
            )
        headers = headers or parse_env_headers(config.headers or "", liberal=True)
        target = Target.otlp(endpoint, headers)
        made = "made" if "authorization" in target.headers else "none"
        verbose_logger.debug(
            "spool: spans of %s go to %s; authorization header: %s",
            target.route,
            without_secrets(target.endpoint),
            made,
        )
        return target

    def _own_route(self, target: Target) -> Target:
        """Give a key's or team's target a route that nobody else can have.

        Requests may bring credentials (in 1.82 any client of a proxy can): whoever names the
        public key of another, with a secret or host of his own, must not get the other's spans.
        """
        default = self._own_target
        if replace(target, named=default.named) == default:
            return default
        return target if target.public_key is None else target.marked()  # it is by its headers

    def _close(self) -> None:
        """Let LiteLLM end the spans it still holds, then shut down.

        LiteLLM's own exit hook for that was registered before ours, and so would come after it.
        """
        try:
            GLOBAL_LOGGING_WORKER._flush_on_exit()  # type: ignore[no-untyped-call]  # noqa: SLF001
        finally:
            self._exporter.shutdown()


class _Exporter(SpoolSpanExporter):
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


class _ProjectExporter(SpanExporter):
    """Spools for a key's or team's own project through the one exporter, or refuses.

    Its spans must go to no other project; so a host that is no URL is no reason to take the
    default. They are counted as refused, and it is said in the log.

    Its shutdown does nothing: LiteLLM shuts a key's provider down when there are many keys.
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


def _show_what_is_sent() -> None:
    logger.setLevel(logging.DEBUG)
    for output in verbose_logger.handlers:
        logger.addHandler(output)
