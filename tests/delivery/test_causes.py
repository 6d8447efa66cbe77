from __future__ import annotations

import pytest

from spool.delivery.causes import Cause

pytestmark = pytest.mark.once


@pytest.mark.parametrize("cause", Cause)
def test_every_cause_says_what_is_the_matter_and_what_to_do(cause: Cause) -> None:
    assert Cause.of(cause.value) is cause
    assert cause.remedy
    assert "the words" in cause.explain("the words")
    assert cause.explain("")


def test_a_cause_of_another_version_is_none_that_is_known() -> None:
    assert Cause.of("moon-phase") is Cause.UNKNOWN
    assert Cause.of("moon-phase").explain("") == "the last request failed"
