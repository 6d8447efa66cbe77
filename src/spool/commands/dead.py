"""`dead`: list, show, retry and purge the dead letters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from spool.commands.open_spool import existing
from spool.commands.output import local_time, say, spans_of
from spool.store import operations

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from spool.store.records import DeadLetter
    from spool.store.store import Store

_ID: Final = click.IntRange(1, (1 << 63) - 1)


@click.group()
def dead() -> None:
    """Look after the dead letters: what no receiver would take, with its words."""


@dead.command("list")
@click.pass_obj
def list_dead(path: str | None) -> None:
    """List the dead letters."""
    with existing(path) as spool:
        letters = [] if spool is None else _letters(spool.store)
        for letter in letters:
            say(_headline(letter))


@dead.command()
@click.argument("letter_id", metavar="ID", type=_ID)
@click.pass_obj
def show(path: str | None, letter_id: int) -> None:
    """Show one dead letter and its spans."""
    with existing(path) as spool:
        if spool is None:
            return
        letter = _letter(spool.store, letter_id)
    say(_headline(letter))
    for span in spans_of(letter.batch):
        for line in str(span).split("\n"):
            say(line)


@dead.command()
@click.argument("ids", metavar="ID...", type=_ID, nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All of them.")
@click.pass_obj
def retry(path: str | None, ids: tuple[int, ...], *, everything: bool) -> None:
    """Make dead letters pending again."""
    with existing(path) as spool:
        if spool is not None:
            letters = _chosen(spool.store, ids, everything=everything)
            spans = sum(operations.retry(spool.store, letter) for letter in letters)
            say(f"{spans} spans are pending again")


@dead.command()
@click.argument("ids", metavar="ID...", type=_ID, nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All of them.")
@click.pass_obj
def purge(path: str | None, ids: tuple[int, ...], *, everything: bool) -> None:
    """Delete dead letters for good."""
    with existing(path) as spool:
        if spool is not None:
            letters = _chosen(spool.store, ids, everything=everything)
            spans = sum(operations.purge(spool.store, letter) for letter in letters)
            say(f"{spans} spans were purged")


def _letters(store: Store) -> Iterator[DeadLetter]:
    first = 0
    while page := store.dead_letters(first):
        yield from page
        first = page[-1].id + 1


def _letter(store: Store, letter_id: int) -> DeadLetter:
    for letter in store.dead_letters(letter_id, count=1):
        if letter.id == letter_id:
            return letter
    raise click.UsageError(f"no dead letter has the ID {letter_id}; see `spool dead list`")


def _chosen(store: Store, ids: tuple[int, ...], *, everything: bool) -> Iterable[DeadLetter]:
    if bool(ids) == everything:
        raise click.UsageError("name the IDs, or give --all")
    return _letters(store) if everything else [_letter(store, letter_id) for letter_id in ids]


def _headline(letter: DeadLetter) -> str:
    return (
        f"{letter.id:>6}  {local_time(letter.died_at)}  {letter.route}  "
        f"{letter.batch.spans} spans  {letter.reason}"
    )
