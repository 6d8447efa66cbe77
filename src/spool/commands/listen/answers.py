"""The answers: `/healthz`, `/metrics`, and `/`, the page.

An answer serves all who ask for the same within a second: however many do, it costs no more.
"""

from __future__ import annotations

import json
import threading
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from spool.commands.listen.server import Answer
from spool.errors import SettingsError, SpoolError
from spool.report import page, prometheus
from spool.report.concerns import Concern
from spool.report.report import Report
from spool.system.log import logger
from spool.system.redaction import printable

if TYPE_CHECKING:
    from spool.commands.open_spool import OpenSpool

_SECONDS: Final = 1.0
_RELOAD_SECONDS: Final = 30
_JSON: Final = "application/json"
_HTML: Final = "text/html; charset=utf-8"


class Answers:
    """What is answered of a spool, to any thread."""

    def __init__(self, spool: OpenSpool) -> None:
        self._spool = spool
        self._lock = threading.Lock()
        self._known: dict[tuple[str, bool], tuple[float, Answer]] = {}
        self._made = {"/": self._page, "/healthz": self._health, "/metrics": self._metrics}

    def __call__(self, path: str, accept: str) -> Answer:
        """Answer who asks for a path, and would have what `accept` says. Raises nothing."""
        if path not in self._made:
            return Answer(HTTPStatus.NOT_FOUND, "not here: see /, /healthz and /metrics\n")
        key = path, _JSON in accept
        with self._lock:
            at, answer = self._known.get(key, (0.0, None))
            if answer is None or time.monotonic() - at > _SECONDS:
                answer = self._answer(*key)
                self._known[key] = time.monotonic(), answer
        return answer

    def _answer(self, path: str, as_json: bool) -> Answer:
        try:
            return self._made[path](as_json)
        except SpoolError as error:
            return _health_of([Concern("unusable", str(error), "")], as_json)
        except Exception:  # noqa: BLE001 - a defect is to be seen, and the server goes on
            logger.exception("langfuse-spool: a defect in what is answered to %s", path)
            return Answer(HTTPStatus.INTERNAL_SERVER_ERROR, "a defect: see the log\n")

    def _page(self, _: bool) -> Answer:
        reload = "Refresh", str(_RELOAD_SECONDS)
        policy = "Content-Security-Policy", f"{page.CSP}; frame-ancestors 'none'"
        note = f"This page reloads every {_RELOAD_SECONDS} s."
        text = page.read(self._spool.store, self._report(), note)
        return Answer(HTTPStatus.OK, text, _HTML, (reload, policy))

    def _health(self, as_json: bool) -> Answer:
        return _health_of(self._report().concerns(), as_json)

    def _metrics(self, _: bool) -> Answer:
        report = self._report()
        try:
            text = prometheus.text_of(report, report.concerns())
        except SettingsError as error:
            return Answer(HTTPStatus.NOT_IMPLEMENTED, f"{error}\n")
        return Answer(HTTPStatus.OK, text, prometheus.CONTENT_TYPE)

    def _report(self) -> Report:
        spool = self._spool
        return Report.of(spool.store, spool.drainer.routes, spool.settings.max_bytes, time.time())


def _health_of(concerns: list[Concern], as_json: bool) -> Answer:
    status = HTTPStatus.SERVICE_UNAVAILABLE if concerns else HTTPStatus.OK
    if as_json:
        said = {"ok": not concerns, "concerns": [one.as_json() for one in concerns]}
        return Answer(status, f"{json.dumps(said)}\n", _JSON)
    return Answer(status, "".join(f"{printable(str(one))}\n" for one in concerns) or "ok\n")
