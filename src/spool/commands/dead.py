"""`dead`: list, show, retry and purge the dead letters."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

import click

from spool.commands.choice import Filters, check_filters, letter_filters, routes_in
from spool.commands.consent import consent_options, has_consent
from spool.commands.open_spool import existing
from spool.commands.output import local_time, say, say_table
from spool.commands.spans import otlp_json, page
from spool.errors import PayloadError
from spool.store import operations
from spool.system.words import count_of, size_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from spool.store.records import DeadLetter
    from spool.store.store import Store

# A dead letter may be as large as a request: so many are held at a time.
_FEW: Final = 8
_ID: Final = click.IntRange(1, (1 << 63) - 1)
_HEADER: Final = ("IDS", "SPANS", "DIED", "ROUTE", "REASON")


@click.group()
def dead() -> None:
    """Look after the dead letters: what no receiver would take, with its words."""


@dead.command("list")
@click.option("-v", "is_verbose", is_flag=True, help="Each on a line of its own.")
@click.option("--json", "as_json", is_flag=True, help="Print each of them as JSON.")
@letter_filters
@click.pass_obj
def list_dead(path: str | None, /, *, is_verbose: bool, as_json: bool, **asked: str | None) -> None:
    """List the dead letters: those of one route and reason that stand together on one line."""
    with existing(path) as spool:
        letters = iter(()) if spool is None else _letters(spool.store, Filters(**asked))
        if as_json:
            click.echo(json.dumps([_as_json(letter) for letter in letters], indent=2))
            return
        if spool is not None:
            lines = (run.line for run in _Run.each(letters, is_verbose=is_verbose))
            say_table(_HEADER, lines, "there are no such dead letters")


@dead.command()
@click.argument("letter_id", metavar="ID", type=_ID)
@click.option("--full", "is_full", is_flag=True, help="Long values, too.")
@click.option("--json", "as_json", is_flag=True, help="Print its spans as OTLP JSON.")
@click.pass_obj
def show(path: str | None, letter_id: int, *, is_full: bool, as_json: bool) -> None:
    """Show one dead letter and its spans."""
    with existing(path) as spool:
        if spool is None:
            if as_json:
                click.echo("{}")
            return
        letter = _letter(spool.store, letter_id)
        if as_json:
            click.echo(json.dumps(otlp_json(letter.batch), indent=2))
            return
        for line in (*_head(letter), *_page(letter, is_full=is_full)):
            say(line)


def _choosing(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command what it takes to choose dead letters, and to be sure of it."""
    ids = click.argument("ids", metavar="[ID]...", type=_ID, nargs=-1)
    everything = click.option("--all", "everything", is_flag=True, help="All of them.")
    return ids(everything(letter_filters(consent_options(command))))


@dead.command()
@_choosing
@click.pass_obj
def retry(path: str | None, /, *, is_dry: bool, is_yes: bool, **asked: Any) -> None:
    """Make dead letters pending again: by id, by filters, or all.

    This loses nothing, so it never asks.
    """
    del is_yes  # who gives it to both is not wrong
    with existing(path) as spool:
        if spool is None or not (chosen := _chosen(spool.store, **asked)).ids:
            return
        if has_consent(f"{chosen} will be pending again", is_dry=is_dry, is_yes=True):
            spans = sum(operations.retry(spool.store, letter_id) for letter_id in chosen.ids)
            say(f"{count_of(spans, 'span')} {'is' if spans == 1 else 'are'} pending again")


@dead.command()
@_choosing
@click.pass_obj
def purge(path: str | None, /, *, is_dry: bool, is_yes: bool, **asked: Any) -> None:
    """Delete dead letters for good: by id, by filters, or all."""
    with existing(path) as spool:
        if spool is None or not (chosen := _chosen(spool.store, **asked)).ids:
            return
        if has_consent(f"{chosen} will be deleted for good", is_dry=is_dry, is_yes=is_yes):
            spans = sum(operations.purge(spool.store, letter_id) for letter_id in chosen.ids)
            say(f"{count_of(spans, 'span')} {'was' if spans == 1 else 'were'} purged")


# Which ones


def _letters(store: Store, filters: Filters) -> Iterator[DeadLetter]:
    """Give those that are meant, one page at a time."""
    check_filters(filters, routes_in(store))
    first = 0
    while page := store.dead_letters(first, _FEW):
        first = page[-1].id + 1
        yield from filter(filters.takes_letter, page)


def _letter(store: Store, letter_id: int) -> DeadLetter:
    for letter in store.dead_letters(letter_id, count=1):
        if letter.id == letter_id:
            return letter
    raise click.UsageError(f"no dead letter has the ID {letter_id}; see `spool dead list`")


@dataclass(slots=True)
class _Chosen:
    """The dead letters that something is to be done with, without their payloads."""

    ids: list[int] = field(default_factory=list)
    spans: int = 0
    whys: set[tuple[str, str]] = field(default_factory=set)

    def add(self, letter: DeadLetter) -> None:
        self.ids.append(letter.id)
        self.spans += letter.batch.spans
        self.whys.add((letter.route, letter.reason))

    def __str__(self) -> str:
        spans = count_of(self.spans, "span")
        if len(self.whys) == 1:
            ((route, reason),) = self.whys
            return f"{spans} of route {route} ({reason})"
        routes = count_of(len({route for route, _ in self.whys}), "route")
        reasons = count_of(len({reason for _, reason in self.whys}), "reason")
        return f"{spans} of {routes}, for {reasons} (see `dead list`),"


def _chosen(
    store: Store, ids: tuple[int, ...], *, everything: bool, **asked: str | None
) -> _Chosen:
    filters, chosen = Filters(**asked), _Chosen()
    if sum([bool(ids), everything, filters.is_any]) != 1:
        raise click.UsageError("name the IDs, or give filters, or give --all: one of the three")
    for letter in (
        (_letter(store, one) for one in dict.fromkeys(ids)) if ids else _letters(store, filters)
    ):
        chosen.add(letter)
    if not chosen.ids:
        say("there are no such dead letters")
    return chosen


# How they are shown


@dataclass(slots=True)
class _Run:
    """Dead letters of one route and reason with one id after the other: one line."""

    letter: DeadLetter
    last_id: int
    spans: int

    @classmethod
    def each(cls, letters: Iterable[DeadLetter], *, is_verbose: bool) -> Iterator[_Run]:
        run: _Run | None = None
        for letter in letters:
            if run is not None and not is_verbose and run.goes_on_with(letter):
                run.last_id, run.spans = letter.id, run.spans + letter.batch.spans
                continue
            if run is not None:
                yield run
            bare = replace(letter, batch=replace(letter.batch, payload=b""))
            run = cls(bare, letter.id, letter.batch.spans)
        if run is not None:
            yield run

    def goes_on_with(self, letter: DeadLetter) -> bool:
        mine = self.last_id + 1, self.letter.route, self.letter.reason
        return mine == (letter.id, letter.route, letter.reason)

    @property
    def line(self) -> tuple[str, ...]:
        first = self.letter.id
        ids = str(first) if first == self.last_id else f"{first}-{self.last_id}"
        died = local_time(self.letter.died_at)
        return ids, count_of(self.spans, "span"), died, self.letter.route, self.letter.reason


def _as_json(letter: DeadLetter) -> dict[str, Any]:
    return {
        "id": letter.id,
        "route": letter.route,
        "reason": letter.reason,
        "spans": letter.batch.spans,
        "bytes": letter.batch.raw_bytes,
        "died": local_time(letter.died_at),
        "accepted": local_time(letter.created_at),
    }


def _head(letter: DeadLetter) -> Iterator[str]:
    size = size_of(letter.batch.raw_bytes)
    yield f"dead letter {letter.id}: {count_of(letter.batch.spans, 'span')}, {size}"
    yield f"  route    {letter.route}"
    yield f"  reason   {letter.reason}"
    yield f"  accepted {local_time(letter.created_at)}"
    yield f"  died     {local_time(letter.died_at)}"


def _page(letter: DeadLetter, *, is_full: bool) -> Iterator[str]:
    try:
        yield from page(letter.batch, is_full=is_full)
    except PayloadError as error:
        yield f"  its spans cannot be shown: {error}"
