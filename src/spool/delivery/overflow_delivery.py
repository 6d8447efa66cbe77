"""The delivery from memory: take → one POST → gone, or given back. No file does its part here.

So goes what the overflow holds, while the file refuses it. Splitting and dead letters need a file:
whatever is not taken as a whole waits for that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spool.delivery.client import Client
    from spool.delivery.routes import Routes
    from spool.journal.overflow import Overflow
    from spool.settings.target import Target
    from spool.store.store import Store


class OverflowDelivery:
    """Sends what the overflow of one store holds."""

    def __init__(self, store: Store, overflow: Overflow, routes: Routes, client: Client) -> None:
        self._store = store
        self._overflow = overflow
        self._routes = routes
        self._client = client

    def send(self) -> bool:
        """Send one request of every route that is not in trouble; say whether any was delivered."""
        sent = [
            self.send_to(target, self._client.timeout)
            for target in self._overflow.routes()
            if not self._routes.has_unwritten_wait(target.route)
        ]
        return any(sent)

    def send_to(self, target: Target, timeout: float) -> bool:
        """Send one request to a target, within `timeout` seconds; say whether it was delivered.

        A route in trouble is tried, too.
        """
        held = self._overflow.take(target.route, self._client.request_size(target.route).bytes)
        if not held:
            return False
        batches = [one.batch for one in held]
        is_delivered = False
        try:
            outcome = self._client.post(target, batches, timeout)
            is_delivered = outcome.is_delivered and not outcome.rejected
        finally:
            if not is_delivered:
                self._overflow.give_back(held)
                self._store.database.written.set()  # for maintenance
        if not is_delivered:
            self._routes.wait_without_file(target.route, outcome)
            return False
        self._overflow.deliver(held)
        self._routes.count(target.route, sum(batch.spans for batch in batches), outcome)
        return True
