from __future__ import annotations

import pytest

import sabotage
from sabotage import SABOTAGES, Sabotage


@pytest.mark.parametrize("broken", SABOTAGES, ids=lambda broken: broken.name)
def test_there_is_still_one_place_to_break(broken: Sabotage) -> None:
    text = (sabotage.SOURCE / "spool" / broken.module).read_text()
    assert broken.broken_text(text) != text
    for name in broken.tests.split():
        assert (sabotage.HERE / name).exists()
