"""Whose spans are: what a frame and the table `route` say of a target. Never a secret."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

from spool.settings.target import Named
from spool.system.redaction import without_secrets

if TYPE_CHECKING:
    from spool.settings.target import Target


class Identity(NamedTuple):
    """A target without its secret: the columns of `sql.REGISTER`, in their order."""

    route: str
    endpoint: str
    public_key: str | None
    named: int = int(Named.BY_OWNER)  # an older version did not say who named the endpoint

    @classmethod
    def of(cls, target: Target) -> Identity:
        """Give a target's."""
        endpoint = without_secrets(target.endpoint)
        return cls(target.route, endpoint, target.public_key, int(target.named))

    def encode(self) -> bytes:
        """Say it as a frame does."""
        return json.dumps(self).encode()

    @classmethod
    def decode(cls, encoded: bytes) -> Identity:
        """Read what a frame says; what a newer version may say besides is passed over."""
        return cls(*json.loads(encoded)[: len(cls._fields)])
