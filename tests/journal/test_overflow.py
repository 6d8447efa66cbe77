from __future__ import annotations

import signal

import pytest

from spans import batch
from spool.journal.overflow import Held, Overflow
from targets import MINE, OTHERS


def first_of(overflow: Overflow) -> Held | None:
    return next(iter(overflow.oldest(1)), None)


def test_it_holds_batches_in_the_order_they_came() -> None:
    overflow = Overflow()
    assert not overflow
    one, two = batch("one"), batch("two", "three")
    assert overflow.add(MINE, one, 1.0)
    assert overflow.add(OTHERS, two, 2.0)
    assert overflow
    assert overflow.spans == 3
    first = first_of(overflow)
    assert first is not None
    assert (first.target, first.batch, first.created_at) == (MINE, one, 1.0)
    overflow.forget(first)
    second = first_of(overflow)
    assert second is not None
    assert second.batch == two


def test_it_is_bounded_and_takes_again_what_fits() -> None:
    one = batch("one", size=1000)
    overflow = Overflow(max_bytes=2 * len(one.payload))
    assert [overflow.add(MINE, one, 1.0) for _ in range(3)] == [True, True, False]
    first = first_of(overflow)
    assert first is not None
    overflow.forget(first)
    assert overflow.add(MINE, one, 1.0)


def test_it_gives_one_routes_unsent_batches_as_many_as_fit() -> None:
    overflow = Overflow()
    one = batch("one")
    for target in (MINE, OTHERS, MINE, MINE):
        overflow.add(target, one, 1.0)
    taken = overflow.take(MINE.route, 2 * one.raw_bytes)
    assert [held.number for held in taken] == [0, 2]
    assert [held.number for held in overflow.take(MINE.route, 1)] == [3]
    assert overflow.take("unknown", 1 << 20) == []
    overflow.give_back(taken)
    assert [held.number for held in overflow.take(MINE.route, 1)] == [0]


def test_what_was_sent_from_it_makes_room_and_is_still_counted() -> None:
    one = batch("one", size=1000)
    overflow = Overflow(max_bytes=len(one.payload))
    overflow.add(MINE, one, 1.0)
    overflow.deliver(overflow.take(MINE.route, 1 << 20))
    assert overflow.take(MINE.route, 1 << 20) == []
    assert overflow.spans == 1
    assert not overflow
    assert overflow.delivered() == [(MINE, 1)]
    assert overflow.add(MINE, one, 2.0)


def test_what_is_being_sent_is_not_moved_to_the_file_meanwhile() -> None:
    overflow = Overflow()
    overflow.add(MINE, batch("one"), 1.0)
    taken = overflow.take(MINE.route, 1 << 20)
    assert overflow.oldest(1 << 20) == []
    assert overflow
    overflow.give_back(taken)
    assert overflow.oldest(1 << 20) == taken


@pytest.mark.parametrize("is_sent_first", [True, False])
def test_what_reached_the_file_while_it_was_sent_is_not_counted_again(
    is_sent_first: bool,
) -> None:
    overflow = Overflow()
    overflow.add(MINE, batch("one"), 1.0)
    sent = overflow.take(MINE.route, 1 << 20)
    overflow.give_back_all()  # as the process ends
    moved = overflow.oldest(1 << 20)
    assert moved == sent
    if is_sent_first:
        overflow.deliver(sent)
    overflow.forget(moved[0])
    if not is_sent_first:
        overflow.deliver(sent)
    assert not overflow
    assert overflow.spans == 0
    assert overflow.delivered() == []


def test_a_receipt_of_what_was_sent_is_one_count_for_each_target() -> None:
    overflow = Overflow()
    for target in (MINE, OTHERS, MINE):
        for _ in range(100):
            overflow.add(target, batch("one"), 1.0)
        overflow.deliver(overflow.take(target.route, 1 << 20))
    assert overflow.delivered() == [(OTHERS, 100), (MINE, 200)]
    assert overflow.spans == 300
    overflow.credited(MINE, 150)  # more were sent while the file was counting
    assert overflow.delivered() == [(OTHERS, 100), (MINE, 50)]


def test_a_signal_handler_adds_while_its_thread_counts() -> None:
    overflow, one = Overflow(), batch("a")
    added: list[bool] = []  # not a number: a handler comes in between reading it and writing it

    def add(*_: object) -> None:
        added.append(True)
        assert overflow.add(MINE, one, 1.0)

    for _ in range(2000):
        add()
    before = signal.signal(signal.SIGALRM, add)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    try:
        while len(added) < 2200:
            assert overflow.spans <= len(added)
            overflow.oldest(1000)
            overflow.routes()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert overflow.spans == len(added)
