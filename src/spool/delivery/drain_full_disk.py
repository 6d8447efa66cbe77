"""A full disk: what waits in journals is sent as it is, since the file takes nothing.

That is for a drain by hand, and for a `run` that begins so: there, to send is what helps.

Invariants:

- Only the holder of the drain lock sends, for one request.
- What was delivered is settled as soon as the file takes that, in its order. What it does not take
  in the end is said, and the next drain sends it again.
"""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING

from spool.delivery.http.classification import Outcome, Verdict
from spool.errors import SpoolError
from spool.journal import directory, reader
from spool.journal.chunk import Chunk
from spool.journal.identity import Identity
from spool.otlp.batch import ROW_BYTES
from spool.store import journal_chunks
from spool.store.records import Route
from spool.system.locks import BRIEFLY
from spool.system.log import logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from spool.delivery.drainer import Drainer
    from spool.journal.file import File
    from spool.settings.target import Target


def send_journals(
    drainer: Drainer,
    end: float,
    progress: Callable[[], None],
    sent: dict[str, int] | None = None,
) -> None:
    """Send what waits in the journals of all processes, until the monotonic time `end`.

    `progress` is called after each request. With `sent`, which remembers how far each journal was,
    that is not sent again, and the waits of routes are heeded. Raises SpoolError.
    """
    store = drainer.store
    spool = store.database.path
    with store.database.file_errors():
        for path in directory.paths(spool):
            with (
                directory.passing_over(path, store.unreadable),
                directory.opened(path, spool) as file,
            ):
                file.moved = journal_chunks.moved(store.database, file)
                _JournalSender(drainer, file, end, sent).send(progress)


class _JournalSender:
    """Sends one journal."""

    def __init__(
        self, drainer: Drainer, file: File, end: float, sent: dict[str, int] | None
    ) -> None:
        self._drainer = drainer
        self._store = drainer.store
        self._file = file
        self._end = end
        self._remembered = sent
        self._offset = max(file.moved, (sent or {}).get(file.path.name, 0))
        self._sent: list[tuple[Chunk, Outcome]] = []

    def send(self, progress: Callable[[], None]) -> None:
        while self._is_to_go_on() and (chunk := self._next()) is not None:
            outcome = self._post(chunk)
            progress()
            if outcome is None:
                break
            self._offset = chunk.end
            if self._remembered is not None:
                self._remembered[self._file.path.name] = chunk.end
            self._sent.append((chunk, outcome))
            self._settle()
        if self._sent and (refusal := self._settle()) is not None:
            logger.warning(
                "langfuse-spool: %s: %d spans were delivered, but not settled: %s",
                self._file.path,
                sum(chunk.spans for chunk, _ in self._sent),
                refusal,
            )

    def _is_to_go_on(self) -> bool:
        return time.monotonic() < self._end and not self._drainer.stopping.is_set()

    def _next(self) -> Chunk | None:
        """Give what comes next, of one route and as much as a request may hold."""
        chunk = reader.read(self._file.fd, self._offset, ROW_BYTES)
        if chunk is None or chunk.lost:
            return None
        first = chunk.frames[0].identity
        mine = tuple(itertools.takewhile(lambda frame: frame.identity == first, chunk.frames))
        end = chunk.first_at + sum(frame.size for frame in mine)
        size = self._drainer.client.request_size(Identity.decode(first).route)
        run = Chunk(mine, chunk.start, end)
        return run.at_most(size.bytes, size.spans) or Chunk(
            mine[:1], run.start, run.first_at + mine[0].size
        )

    def _post(self, chunk: Chunk) -> Outcome | None:
        """Send it, if we have the secret and get our turn; give the outcome if it was delivered."""
        target, longest = self._target(chunk), self._drainer.client.timeout
        if target is None:
            return None
        with self._store.drain_lock.take(longest, BRIEFLY) as is_had:
            left = self._end - time.monotonic()
            if not is_had or left <= 0:
                return None
            batches = [frame.batch for frame in chunk.frames]
            outcome = self._drainer.client.post(target, batches, min(left, longest))
        if outcome.verdict is not Verdict.DELIVERED:
            logger.warning("langfuse-spool: route %s: %s", target.route, outcome.reason)
            if self._remembered is not None:
                self._drainer.routes.wait_without_file(target.route, outcome)
            return None
        self._drainer.routes.count(target.route, chunk.spans, outcome)
        return outcome

    def _target(self, chunk: Chunk) -> Target | None:
        name, endpoint, public_key, _ = Identity.decode(chunk.frames[0].identity)
        known = {route.name: route for route in self._store.routes()}
        route = known.get(name) or Route.unknown(name, endpoint, public_key)
        target = self._drainer.routes.target_of(route)
        is_waiting = route.attempts > 0 or self._drainer.routes.has_unwritten_wait(name)
        return None if self._remembered is not None and is_waiting else target

    def _settle(self) -> SpoolError | None:
        """Settle what was sent; give what the file has against it."""
        try:
            while self._sent:
                chunk, outcome = self._sent[0]
                database, dead, why = self._store.database, outcome.rejected, outcome.reason
                journal_chunks.deliver(
                    database, self._file, chunk, time.time(), dead=dead, reason=why
                )
                self._file.moved = chunk.end
                del self._sent[0]
        except SpoolError as error:
            return error
        return None
