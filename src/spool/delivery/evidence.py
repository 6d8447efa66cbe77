"""The evidence: whether spans are to blame for a failure, or their receiver. Lives with a drainer.

Invariant: only what a receiver has accepted since speaks against a span that it refused, or that
failed. It is found again within a few requests, so nothing of it is stored but since when.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from spool.store.records import Take

# So many spans that are refused one after the other are enough to doubt the receiver. Where it then
# accepts others it gets more of them the next time.
_FEW: Final = 4
_MANY: Final = 512
_MORE: Final = 4
_ENOUGH_TO_BURY: Final = 64
# Multiples of it, without their whole part, are spread evenly, however many there are.
_GOLDEN: Final = 0.618034

_MOST_SPANS: Final = 1 << 20
_ENOUGH_FAILURES: Final = 10
_ENOUGH_PROOFS: Final = 3


@dataclass(slots=True)
class Refusals:
    """The spans of a route that were refused alone: the receiver's `words` by their rows' ids.

    `salt` tells whose rows these are. All that waits up to the id `front` is gone around. `tries`
    counts the refusals in a row. Those that are `proven` bad are to be buried, many at once. Where
    there were so many that the receiver was doubted, it may have changed its mind: then each of
    them is tried `again`.
    """

    salt: bytes = b""
    words: dict[int, str] = field(default_factory=dict)
    proven: set[int] = field(default_factory=set)
    again: set[int] = field(default_factory=set)
    front: int = 0
    tries: int = 0
    patience: int = _FEW
    is_receiver_doubted: bool = False

    @property
    def elsewhere(self) -> int | None:
        """Say which try of a span anywhere is the next: the head of a backlog may be bad as such.

        Counted from 0; None where it is the next one's turn.
        """
        number = self.tries - self.patience // 2
        return number if number >= 0 else None

    @property
    def is_enough(self) -> bool:
        """Whether it is the receiver that refuses."""
        return self.tries >= self.patience

    @property
    def are_many_proven(self) -> bool:
        """Whether it is time to bury some."""
        return len(self.proven) >= _ENOUGH_TO_BURY

    def refuse(self, take: Take, reason: str) -> None:
        """Note that a span was refused alone."""
        row_id = take.rows[0].id
        if self.salt != take.salt:
            self.salt, self.words, self.proven, self.again = take.salt, {}, set(), set()
        self.words[row_id] = reason
        if row_id in self.again:
            self.again.discard(row_id)
            self.proven.add(row_id)
        else:
            self.tries += 1

    def accept(self, take: Take) -> None:
        """Note that others were accepted: those that were refused before are proven bad."""
        for row in take.rows:
            self.words.pop(row.id, None)
            self.again.discard(row.id)
            self.proven.discard(row.id)  # the receiver has changed its mind
        if self.is_receiver_doubted:
            self.again.update(self.words.keys() - self.proven)
            self.words, self.front = {one: self.words[one] for one in self.proven}, 0
        else:
            self.proven.update(self.words)
        self.patience = min(_MORE * self.patience, _MANY) if self.tries else _FEW
        self.tries, self.is_receiver_doubted = 0, False

    def condemned(self) -> dict[int, str]:
        """Give the words about those that are proven bad, and forget them: they are buried now."""
        condemned = {one: self.words.pop(one) for one in self.proven}
        self.proven, self.front = set(), 0
        return condemned

    def try_once_more(self) -> None:
        """Forget those of which nothing is proven, as no others are left to prove it."""
        self.words, self.front = {one: self.words[one] for one in self.proven}, 0


def somewhere(first: int, last: int, number: int) -> int:
    """Choose an id between two, another one for each number; the last one for 0."""
    return first + int((last - first) * (1.0 - number * _GOLDEN % 1.0))


@dataclass(slots=True)
class Suspect:
    """The rows at the head of a route that failed twice running: perhaps they alone do.

    Others go around them. When those are delivered, the server is well and the head is poison: it
    is tried in smaller and smaller parts, until one span has failed alone often enough. Where the
    others fail as well it may be the server, or there is more poison: less goes around the next
    time, and one span that failed so stays `aside`.

    `last_id` ends the suspected rows, `spans` is how many the next try holds, `around` how many may
    go around. `proofs` counts the requests that went around and were delivered, `failures` those of
    one span alone since, and `until` is the monotonic time of the next try.
    """

    last_id: int
    spans: int
    failures: int = 0
    proofs: int = 0
    until: float = 0.0
    is_gone_around: bool = True
    around: int = _MOST_SPANS
    aside: set[int] = field(default_factory=set)

    def narrow(self, take: Take) -> None:
        """Suspect a part that has failed, and try less of it next time."""
        self.last_id = take.rows[-1].id
        self.spans = max(1, take.spans // 2)
        self.failures += take.spans == 1 and self.proofs > 0
        self.is_gone_around = True

    def forget_proofs(self) -> None:
        """Begin anew with the evidence against it."""
        self.failures = self.proofs = 0

    def fail_around(self, take: Take) -> None:
        """Note that others failed as well: what was proven by now may have been the server's."""
        self.forget_proofs()
        self.is_gone_around = False
        self.around = max(1, take.spans // 2)
        if take.spans == 1:
            self.aside.add(take.rows[0].id)

    def deliver_around(self) -> None:
        """Note that others were delivered: the server is well."""
        self.proofs += 1
        self.around = min(2 * self.around, _MOST_SPANS)

    def is_of(self, take: Take) -> bool:
        """Say whether it is one of these rows: not when its own have left in another way."""
        return take.rows[0].id <= self.last_id

    @property
    def is_proven(self) -> bool:
        """Whether one span has failed alone often enough while others were delivered."""
        return self.failures >= _ENOUGH_FAILURES and self.proofs >= _ENOUGH_PROOFS
