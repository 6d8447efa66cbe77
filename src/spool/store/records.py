"""What the store gives out: rows, takes, routes, the ledger, dead letters."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spool.otlp.batch import Batch


def checksum(spans: int, raw_bytes: int, codec: int, payload: bytes) -> int:
    """Compute the CRC-32 of a stored batch, its numbers included."""
    return zlib.crc32(b"%d %d %d" % (spans, raw_bytes, codec), zlib.crc32(payload))


@dataclass(frozen=True, slots=True)
class Row:
    """One stored batch: what one `export()` call wrote. Times are seconds since 1970.

    `crc32` tells it from what else may stand in its place later. `is_sound`: it is the batch that
    was written, by that checksum.
    """

    id: int
    created_at: float
    batch: Batch
    crc32: int = 0
    is_sound: bool = True


@dataclass(frozen=True, slots=True)
class Take:
    """The oldest rows of a route, as one request.

    `salt` tells the file they are of: ids begin anew in another one. `packed` is the id up to which
    its rows were packed when they were taken.

    A row that is damaged is taken alone, and `damage` says in what way.
    """

    route_id: int
    salt: bytes
    packed: int
    rows: tuple[Row, ...]
    batches: tuple[Batch, ...]
    damage: str = ""

    def without_payloads(self) -> Take:
        """Keep what settling it needs, unless that is the payloads of dead letters."""
        rows = tuple(replace(row, batch=replace(row.batch, payload=b"")) for row in self.rows)
        return replace(self, rows=rows, batches=())

    @property
    def spans(self) -> int:
        """Count the request's spans."""
        return sum(batch.spans for batch in self.batches)

    @property
    def raw_bytes(self) -> int:
        """Add up the request's size before compression."""
        return sum(batch.raw_bytes for batch in self.batches)


@dataclass(frozen=True, slots=True)
class Route:
    """One identity: what waits for it, and how its sending goes.

    `fingerprints` are those of the targets that were refused since their last success, the last of
    them `held_at`. Where single spans are under suspicion, what waits behind the id `suspect_to` is
    not; 0 says that it is the receiver that is in trouble. `probes` of what came behind it were
    refused as well. `failing_since` is when the first request failed since the last success, and
    `cause` why they do, a value of `delivery.causes.Cause`. Times are seconds since 1970.
    """

    id: int
    name: str
    endpoint: str
    public_key: str | None
    pending_spans: int
    pending_batches: int
    pending_bytes: int
    attempts: int
    waited_at: float
    wait_seconds: float
    fingerprints: tuple[str, ...]
    held_at: float
    suspect_to: int
    probes: int
    last_error: str
    last_success_at: float | None
    oldest_at: float | None
    cause: str = ""
    failing_since: float | None = None

    @property
    def is_troubled(self) -> bool:
        """Whether something of it has failed since its last delivery."""
        return self.attempts > 0

    @classmethod
    def unknown(cls, name: str, endpoint: str, public_key: str | None) -> Route:
        """Make one of which the file knows nothing yet."""
        return cls(
            0, name, endpoint, public_key, 0, 0, 0, 0, 0.0, 0.0, (), 0.0, 0, 0, "", None, None
        )

    @classmethod
    def of(cls, row: dict[str, Any]) -> Route:
        """Make one of its row; one that an older version wrote lacks what came later."""
        known = {"held_at": 0.0, "suspect_to": 0, "probes": 0, **row}
        known = {"cause": "", "failing_since": None, **known}
        if not known["attempts"]:  # an older version forgets the attempts only
            known["cause"], known["failing_since"] = "", None
        known["fingerprints"] = tuple(known["fingerprints"].split())
        return cls(**{name: known[name] for name in cls.__slots__})

    @property
    def is_held(self) -> bool:
        """Whether a target was refused, and none was accepted since."""
        return bool(self.attempts and self.fingerprints)


@dataclass(frozen=True, slots=True)
class Ledger:
    """What became of the spans: totals over all routes."""

    accepted: int = 0
    imported: int = 0
    delivered: int = 0
    dead: int = 0
    evicted: int = 0
    purged: int = 0
    exported: int = 0
    damaged: int = 0
    pending: int = 0
    refused: int = 0
    in_memory: int = 0


@dataclass(frozen=True, slots=True)
class Trouble:
    """When spans were last evicted, refused, or found damaged, in seconds since 1970."""

    evicted_at: float | None
    refused_at: float | None
    damaged_at: float | None


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Spans that cannot be delivered, with the reason: the receiver's words, or damage.

    `batch.spans` counts the dead ones; its payload may also hold their neighbours in a request that
    a receiver rejected in part, without saying which.
    """

    id: int
    route: str
    died_at: float
    reason: str
    created_at: float
    batch: Batch
