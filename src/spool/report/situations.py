"""The situations: routes that stand alike, as one where there are many.

Invariants:

- Routes stand alike at one host, in one state, for one cause. What is said of them is said of one
  that stands for all, in the sentences for a route.
- Few routes are each a situation of their own, in their order; and programs are told of each
  route, always.
"""

from __future__ import annotations

import collections
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from spool.delivery.route_state import RouteState
from spool.report import sentences
from spool.system.words import count_of, few_of

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Sequence

    from spool.report.concerns import Concern
    from spool.report.facts import Facts
    from spool.store.records import Route

# So many are few: routes that each stand by themselves, situations and concerns that are shown.
FEW: Final = 10
_NEED_NOBODY: Final = (RouteState.OK, RouteState.WAITING)


@dataclass(frozen=True, slots=True)
class Situation:
    """Routes that stand alike, those for which most waits first.

    `whole` stands for them: it has the name and the words of the first, the sums of what waits,
    the most attempts, and the earliest and latest of the times.
    """

    routes: tuple[Route, ...]
    state: RouteState
    whole: Route

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits, and all is well."""
        return self.state is RouteState.OK and not self.whole.pending_spans

    @property
    def names(self) -> str:
        """The first names."""
        return few_of([one.name for one in self.routes])


def each(facts: Facts) -> list[Situation]:
    """Give each route as a situation of its own."""
    routes = zip(facts.routes, facts.states, strict=True)
    return [Situation((route,), state, route) for route, state in routes]


def of_facts(facts: Facts) -> list[Situation]:
    """Give the situations: where many routes are not idle, those that need somebody first."""
    alone = each(facts)
    alike: dict[Hashable, list[Situation]] = collections.defaultdict(list)
    for one in alone:
        if not one.is_idle:
            alike[_kind(facts, one.whole, one.state)].append(one)
    if sum(map(len, alike.values())) <= FEW:
        return alone
    found = [_joined(facts, many) for many in alike.values()]
    found.sort(key=lambda one: (one.state in _NEED_NOBODY, -one.whole.pending_spans))
    return [*found, *(one for one in alone if one.is_idle)]


def summed(
    concerns: Iterable[Concern], situations: Sequence[Situation], *, is_all: bool = False
) -> list[str]:
    """Give concerns as lines: one for the routes of a situation; a few, or with `is_all` all."""
    places = {
        route.name: (number, rank)
        for number, one in enumerate(situations)
        for rank, route in enumerate(one.routes)
    }
    alike: dict[tuple[int, str], list[tuple[int, Concern]]] = collections.defaultdict(list)
    others = []
    for one in concerns:
        if one.route:
            number, rank = places[one.route]
            alike[number, one.code].append((rank, one))
        else:
            others.append(str(one))
    lines: list[str] = []
    hidden = 0
    for _, many in sorted(alike.items()):
        if len(lines) >= FEW and not is_all:
            hidden += len(many)
            continue
        _, first = min(many, key=lambda ranked: ranked[0])
        more = f" — and {count_of(len(many) - 1, 'more route')} like it (-v)"
        lines.append(f"{first}{more if len(many) > 1 else ''}")
    if hidden:
        lines.append(f"{count_of(hidden, 'more route')} of other kinds need you (-v)")
    return [*lines, *others]


def _kind(facts: Facts, route: Route, state: RouteState) -> Hashable:
    """Give what routes that stand alike have in common."""
    why: Hashable
    if state is RouteState.OK:
        why = facts.is_sent(route)
    elif state is RouteState.NO_SECRET:
        why = sentences.secret(facts, route)
    else:
        cause = route.cause or route.last_error
        why = cause, bool(route.suspect_to), sentences.is_failing_otherwise(route)
    return _host_of(route.endpoint), state, why


def _joined(facts: Facts, alike: Sequence[Situation]) -> Situation:
    routes = tuple(sorted((one.whole for one in alike), key=lambda one: -one.pending_spans))
    first, soonest = routes[0], min(routes, key=facts.next_attempt_seconds)
    endpoints = {one.endpoint for one in routes}
    whole = replace(
        first,
        endpoint=first.endpoint if len(endpoints) == 1 else _host_of(first.endpoint),
        pending_spans=sum(one.pending_spans for one in routes),
        pending_batches=sum(one.pending_batches for one in routes),
        pending_bytes=sum(one.pending_bytes for one in routes),
        attempts=max(one.attempts for one in routes),  # one of a silent host counts for each
        waited_at=soonest.waited_at,
        wait_seconds=soonest.wait_seconds,
        held_at=soonest.held_at,
        oldest_at=min(_known(one.oldest_at for one in routes), default=None),
        failing_since=min(_known(one.failing_since for one in routes), default=None),
        last_success_at=max(_known(one.last_success_at for one in routes), default=None),
    )
    return Situation(routes, alike[0].state, whole)


def _known(times: Iterable[float | None]) -> Iterable[float]:
    return (at for at in times if at is not None)


def _host_of(endpoint: str) -> str:
    """Give the scheme and the host; a row may name what is no address."""
    return "/".join(endpoint.split("/", 3)[:3])
