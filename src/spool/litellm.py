"""The LiteLLM callback: the spans of LiteLLM's own `langfuse_otel`, made durable.

    litellm.callbacks = [spool.litellm.handler]

Invariants:

- LiteLLM makes the spans and decides where they go; only what takes them is ours.
- A process has one handler, however many keys and teams have projects of their own.
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
import os
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, cast

import litellm
from litellm.integrations.langfuse.langfuse_otel import LangfuseOtelLogger
from litellm.litellm_core_utils import litellm_logging
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.util.re import parse_env_headers

from spool.errors import SettingsError
from spool.litellm_projects import (
    LiteLLMExporter,
    ProjectExporter,
    as_named,
    end,
    own_route,
    show_what_is_sent,
    target_of,
    warn,
)
from spool.litellm_worker import hold_until_begun
from spool.settings.environment import MISSING_KEYS
from spool.settings.settings import Settings

# LiteLLM imports it with a call's first span: at exit, where a program ends after its call. By then
# it starts no thread any more, and fails. Older versions do not have it; some cannot import it.
with contextlib.suppress(Exception):
    importlib.import_module("litellm.integrations.otel.emitter")

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import ModuleType

    from litellm.integrations.custom_logger import CustomLogger
    from litellm.integrations.opentelemetry import OpenTelemetryConfig
    from opentelemetry.sdk.resources import Resource

    from spool.settings.target import Target

_NAME: Final = "langfuse_otel"
_OTLP_HTTP: Final = ("otlp_http", "http/protobuf", "http/json")  # LiteLLM sends protobuf for all.
_MOST_MARKERS: Final = 2000
_CALLBACKS: Final = (  # LiteLLM puts the callback that a name stands for into most of its lists
    "callbacks",
    "input_callback",
    "success_callback",
    "failure_callback",
    "service_callback",
    "_async_input_callback",
    "_async_success_callback",
    "_async_failure_callback",
)

handler: CustomLogger
"""The callback of this process, made when it is first asked for, as by `install()`.

It is ours, and where `LITELLM_OTEL_V2` is set LiteLLM's own v2 callback, with the spool behind it.
"""


def install() -> None:
    """Put the spool behind LiteLLM's callback name `langfuse_otel`, everywhere.

    The settings of a proxy's keys and teams say this name too. Call it before LiteLLM's first call;
    calling it again is harmless. Raises SettingsError or SpoolFileError.
    """
    if (v2 := _v2()) is not None:
        v2.install()
        return
    # Two threads at once may both make one; the first stays. A lock could be held across a fork.
    ours = globals().get("handler") or globals().setdefault("handler", SpooledLangfuseOtelLogger())
    # LiteLLM takes the first LangfuseOtelLogger of this list, and makes its own if there is none.
    loggers: list[Any] = litellm_logging._in_memory_loggers  # noqa: SLF001 - the only way in
    if ours in loggers[:1]:
        return
    named = [one for one in loggers if getattr(one, "callback_name", "") == _NAME]
    loggers.insert(0, ours)
    stock = [one for one in named if one is not ours]
    for one in stock:
        _replace(one, ours)
    if stock:
        warn(
            "LiteLLM has already made its own langfuse_otel callback. From now on ours is in its "
            "place; what that one has not sent yet is only in memory, and can be lost. Call "
            "spool.litellm.install() before LiteLLM's first call."
        )


def _replace(stock: Any, ours: CustomLogger) -> None:
    """Put our callback where LiteLLM calls its own, which sends what it holds, and no more."""
    for name in _CALLBACKS:
        callbacks = getattr(litellm, name, [])
        for place in reversed([n for n, one in enumerate(callbacks) if one is stock]):
            callbacks[place : place + 1] = [] if ours in callbacks else [ours]


def __getattr__(name: str) -> Any:
    if name != "handler":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    install()
    if name not in globals():
        globals()[name] = cast("ModuleType", _v2()).callback()
    return globals()[name]


@functools.cache
def _v2() -> ModuleType | None:
    """Give what spools LiteLLM's v2 where that is on; it can be LiteLLM's that it cannot start."""
    try:
        from litellm.integrations.otel.model.config import is_otel_v2_enabled  # noqa: PLC0415 - >= 1.83

        if is_otel_v2_enabled():
            return importlib.import_module("spool.litellm_v2")
    except Exception as error:  # noqa: BLE001 - LiteLLM's modules raise whatever they like
        if os.environ.get("LITELLM_OTEL_V2"):
            warn(
                "LITELLM_OTEL_V2 is set, but LiteLLM's v2 cannot be had here, or not be spooled "
                f"({error}). Unset it, or take litellm >= 1.88 with an OpenTelemetry that it works "
                "with. Until then only spool.litellm.handler is spooled, with the spans of its v1."
            )
    return None


class SpooledLangfuseOtelLogger(LangfuseOtelLogger):
    """LiteLLM's `langfuse_otel` callback; a span is in the spool when it has ended.

    `tracer_provider` makes the spans of LiteLLM's own project, and takes further span processors,
    for another destination. What keys and teams send to projects of their own is not among them.
    """

    # It decides on langfuse.* attributes; LiteLLM reads it before its __init__ has set it, too.
    callback_name = _NAME

    def __init__(self) -> None:
        """Read the environment as LiteLLM does. Raises SettingsError or SpoolFileError."""
        config = self._create_open_telemetry_config_from_langfuse_env()
        self._own_target = as_named(self._target(config))
        self._settings = Settings.from_env(target=self._own_target)
        self._exporter = LiteLLMExporter(settings=self._settings)
        # Made here, not at the first span: LiteLLM ends spans during exit too, and cannot then.
        self._resource: Resource = super()._get_litellm_resource(config)
        self.tracer_provider = TracerProvider(resource=self._resource, shutdown_on_exit=False)
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        super().__init__(  # type: ignore[no-untyped-call]  # LiteLLM's is untyped
            config=config, callback_name=_NAME, tracer_provider=self.tracer_provider
        )
        # Without headers LiteLLM takes that provider; and has no secret to log, as 1.82 does.
        self.config, self.OTEL_HEADERS = replace(config, headers=None), None
        show_what_is_sent()
        hold_until_begun()
        atexit.register(end, self.tracer_provider)

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
            target = own_route(self._target(config, dynamic_headers), self._own_target)
            return self._settings.with_extra_headers(target)

        return SimpleSpanProcessor(ProjectExporter(find, self._exporter))

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
        return target_of(endpoint, headers)
