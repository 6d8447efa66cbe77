"""The exporter: what OpenTelemetry's span processors call. It only delegates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from spool.complaint import Complaint
from spool.errors import SpoolError
from spool.otlp import encode
from spool.settings import Settings
from spool.shared import open_spool

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from opentelemetry.sdk.trace import ReadableSpan


class SpoolSpanExporter(SpanExporter):
    """Exports spans to the spool; a background drainer sends them on.

    Everything that is not given comes from the environment (see Settings.from_env): `path` of the
    spool file, `endpoint` as the full URL of the traces signal, `headers` of the requests, `drain`:
    whether this process sends, or only writes. `settings` stands for all of them.

    Exporters of one process that name the same file share one store and one drainer. Raises
    SpoolError where the settings or the file cannot be used.
    """

    def __init__(
        self,
        *,
        path: str | os.PathLike[str] | None = None,
        endpoint: str | None = None,
        headers: Mapping[str, str] | None = None,
        drain: bool | None = None,
        settings: Settings | None = None,
    ) -> None:
        if settings is None:
            settings = Settings.from_env(path=path, endpoint=endpoint, headers=headers, drain=drain)
        self._target = settings.require_target()
        self._spool = open_spool(settings, self._target)
        self._refusal = Complaint("spans were refused and are lost")
        self._trouble = Complaint("the spool cannot be waited for")
        self._is_shut_down = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Write the spans to the spool: SUCCESS only when they are there. Never raises.

        FAILURE does not mean that they are lost: what the disk refuses for now is held in memory.
        """
        if self._is_shut_down:
            self._refusal.say("the exporter is shut down")
            return SpanExportResult.FAILURE
        if not spans:
            return SpanExportResult.SUCCESS
        try:
            is_spooled = self._spool.append(self._target, encode(spans))
        except Exception as error:  # noqa: BLE001 - nothing may reach the application
            return self._refuse(spans, error)
        return SpanExportResult.SUCCESS if is_spooled else SpanExportResult.FAILURE

    def _refuse(self, spans: Sequence[ReadableSpan], error: Exception) -> SpanExportResult:
        if len(spans) > 1 and not isinstance(error, SpoolError):
            # One of them cannot be encoded; the others can.
            results = [self.export([span]) for span in spans]
            return max(results, key=lambda result: result.value)
        self._spool.store.refuse(len(spans))
        self._refusal.say(error)
        return SpanExportResult.FAILURE

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Wait until all that was accepted before the call is delivered or dead; say whether it is.

        False at once where the endpoint is known to be down or refuses us: the spans are safe, and
        are sent later.
        """
        if self._is_shut_down:
            return False
        try:
            return self._spool.flush(self._target, timeout_millis / 1000)
        except Exception as error:  # noqa: BLE001 - nothing may reach the application
            self._trouble.say(error)
            return False

    def shutdown(self) -> None:
        """Sync, wait briefly for a healthy endpoint, and end. Calling it again does nothing."""
        if self._is_shut_down:
            return
        self._is_shut_down = True
        try:
            self._spool.release()
        except Exception as error:  # noqa: BLE001 - as above
            self._trouble.say(error)
