from __future__ import annotations

from dataclasses import replace

import pytest

from spool.delivery.evidence import Refusals, Suspect, somewhere
from spool.otlp.batch import Batch
from spool.store.records import Row, Take

pytestmark = pytest.mark.once


def take_of(spans: int, row_id: int = 7) -> Take:
    batch = Batch(b"", spans, 100)
    return Take(1, b"salt", 0, (Row(row_id, 1.0, batch),), (batch,))


def test_a_suspect_is_proven_only_alone_and_only_while_others_are_delivered() -> None:
    suspect = Suspect(0, 0)
    for _ in range(100):
        suspect.narrow(take_of(2))
    assert (suspect.last_id, suspect.spans, suspect.failures) == (7, 1, 0)
    for _ in range(100):
        suspect.narrow(take_of(1))
    for _ in range(3):
        suspect.deliver_around()
    assert not suspect.is_proven  # all of them failed while nothing was delivered
    for _ in range(10):
        suspect.narrow(take_of(1))
    assert suspect.is_proven
    suspect.fail_around(take_of(5, row_id=8))
    assert not suspect.is_proven


def test_less_and_less_goes_around_as_long_as_others_fail_and_what_failed_alone_stays_aside() -> (
    None
):
    suspect = Suspect(7, 1)
    sizes = []
    for spans in (8, 4, 2, 1):
        suspect.fail_around(take_of(spans, row_id=9))
        sizes.append(suspect.around)
    assert sizes == [4, 2, 1, 1]
    assert suspect.aside == {9}
    suspect.deliver_around()
    assert suspect.around == 2


def test_only_others_that_are_accepted_prove_that_a_span_is_bad() -> None:
    refusals = Refusals()
    for row_id, words in ((7, "400 no"), (8, "413")):
        refusals.refuse(take_of(1, row_id), words)
    assert refusals.condemned() == {}
    refusals.accept(take_of(1, row_id=7))
    assert refusals.condemned() == {8: "413"}
    refusals.accept(take_of(1, row_id=9))
    assert refusals.condemned() == {}


def test_what_a_receiver_in_doubt_has_refused_is_tried_again() -> None:
    refusals = Refusals()
    for row_id in (7, 8):
        refusals.refuse(take_of(1, row_id), "400")
    refusals.is_receiver_doubted = True
    for row_id in (9, 7):
        refusals.accept(take_of(1, row_id))
    assert refusals.condemned() == {}
    for row_id in (7, 8):
        refusals.refuse(take_of(1, row_id), "400")
    assert refusals.condemned() == {8: "400"}


def test_a_span_that_is_accepted_after_all_is_not_condemned() -> None:
    refusals = Refusals()
    for row_id in (7, 8):
        refusals.refuse(take_of(1, row_id), "400 no")
    refusals.accept(take_of(1, 9))
    assert refusals.proven == {7, 8}
    refusals.accept(take_of(1, 7))
    assert refusals.condemned() == {8: "400 no"}


def test_what_was_said_about_another_files_rows_is_forgotten() -> None:
    refusals = Refusals()
    refusals.refuse(take_of(1, 7), "400")
    refusals.refuse(replace(take_of(1, 8), salt=b"another"), "400")
    assert refusals.words == {8: "400"}


def test_the_more_spans_are_proven_bad_the_more_may_follow() -> None:
    refusals = Refusals()
    allowed = []
    for _ in range(12):
        allowed.append(0)
        while not refusals.is_enough:
            refusals.tries += 1
            allowed[-1] += 1
        refusals.accept(take_of(1))
    assert allowed[:3] == [4, 16, 64]
    assert max(allowed) == 512
    refusals.accept(take_of(1))
    assert refusals.patience == 4


def test_what_is_chosen_from_a_backlog_is_spread_over_it() -> None:
    chosen = [somewhere(1, 100, number) for number in range(20)]
    assert chosen[0] == 100
    assert all(1 <= one <= 100 for one in chosen)
    assert all(any(low < one <= low + 20 for one in chosen) for low in range(0, 100, 20))
