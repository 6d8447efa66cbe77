"""The exporter: what OpenTelemetry's span processors call. It encodes, and delegates.

Invariants:

- SUCCESS means that the spans are in the spool: the death of the process loses none of them.
- Only the constructor raises. What fails later is said in the log, at most once a minute.
- Each span that was not taken is counted as refused, unless memory holds it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from spool.errors import SettingsError, SpoolError
from spool.otlp.batch import encode
from spool.pipeline.registry import open_pipeline, release
from spool.settings.settings import Settings
from spool.system.log import LimitedWarning

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from opentelemetry.sdk.trace import ReadableSpan

    from spool.settings.given import Headers
    from spool.settings.target import Target


# An exception out of a signal's handler may cut a try short: spooled twice is better than lost.
_TRIES: Final = 3


class SpoolSpanExporter(SpanExporter):
    """Exports spans to the spool; a background drainer sends them on.

    Everything that is not given comes from the environment (see Settings.from_env): `path` of the
    spool file, `endpoint` as the full URL of the traces signal, `headers` of the requests, `drain`:
    whether this process sends, or only writes. `settings` stands for all of them. OpenTelemetry's
    configuration file gives the first four as they stand in its YAML.

    Exporters of one process that name the same file share one store, and one drainer if any of them
    wants it. Raises SettingsError, and SpoolFileError where the file is not ours or a newer
    version's. A disk that refuses for now raises nothing: then spans are held in memory, and sent.
    """

    def __init__(
        self,
        *,
        path: str | os.PathLike[str] | None = None,
        endpoint: str | None = None,
        headers: Headers | None = None,
        drain: bool | None = None,
        settings: Settings | None = None,
    ) -> None:
        if settings is None:
            settings = Settings.from_env(path=path, endpoint=endpoint, headers=headers, drain=drain)
        if not isinstance(settings, Settings):
            raise SettingsError("settings: must be a spool.Settings, which no file can give")
        self._pipeline, self._target = open_pipeline(settings, settings.require_target())
        self._refusal = LimitedWarning("spans were refused and are lost")
        self._trouble = LimitedWarning("the spool cannot be waited for")
        self._is_shut_down = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Write the spans to the spool: SUCCESS only when they are there. Never raises.

        FAILURE does not mean that they are lost: what the disk refuses for now is held in memory.
        """
        return self.export_to(self._target, spans)

    def export_to(self, target: Target, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Export spans to another target than this exporter's own, as `export` does."""
        if self._is_shut_down:
            return self.refuse(spans, "the exporter is shut down")
        if not spans:
            return SpanExportResult.SUCCESS
        trouble: Exception | None = None
        for _ in range(_TRIES):
            try:
                is_spooled = self._pipeline.append(target, encode(spans))
            except SpoolError as error:  # noqa: PERF203 - a loop that hardly ever goes round
                return self.refuse(spans, error)
            except Exception as error:  # noqa: BLE001 - nothing may reach the application
                trouble = error
            else:
                return SpanExportResult.SUCCESS if is_spooled else SpanExportResult.FAILURE
        if len(spans) > 1:  # one of them cannot be encoded; the others can
            results = [self.export_to(target, [span]) for span in spans]
            return max(results, key=lambda result: result.value)
        return self.refuse(spans, trouble)

    def refuse(self, spans: Sequence[ReadableSpan], reason: object) -> SpanExportResult:
        """Count spans as refused, for good, and say why."""
        self._pipeline.refuse(len(spans), reason)
        self._refusal.warn(reason)
        return SpanExportResult.FAILURE

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Wait until all that was accepted before the call is delivered or dead; say whether it is.

        False at once where the endpoint is known to be down or refuses us: the spans are safe, and
        are sent later.
        """
        if self._is_shut_down:
            return False
        try:
            return self._pipeline.flush(self._target, timeout_millis / 1000)
        except Exception as error:  # noqa: BLE001 - nothing may reach the application
            self._trouble.warn(error)
            return False

    def shutdown(self) -> None:
        """Sync, wait briefly for a healthy endpoint, and end. Calling it again does nothing."""
        if self._is_shut_down:
            return
        self._is_shut_down = True
        try:
            release(self._pipeline)
        except Exception as error:  # noqa: BLE001 - as above
            self._trouble.warn(error)
