from __future__ import annotations

import json

import pytest

from spool.journal.identity import Identity
from spool.settings.target import Named, Target
from targets import MINE


@pytest.mark.parametrize("target", [MINE, Target.otlp("https://collector.example/v1/traces", {})])
def test_what_is_encoded_is_decoded(target: Target) -> None:
    identity = Identity.of(target)
    assert Identity.decode(identity.encode()) == identity
    assert (identity.route, identity.public_key) == (target.route, target.public_key)


def test_it_says_no_secret() -> None:
    target = Target.otlp("https://user:hush@collector.example/v1/traces?token=hush", {"k": "hush"})
    assert b"hush" not in Identity.of(target).encode()


def test_an_older_version_said_less_and_a_newer_one_may_say_more() -> None:
    said = [MINE.route, MINE.endpoint, MINE.public_key]
    assert Identity.decode(json.dumps(said).encode()).named == Named.BY_OWNER
    more = [*said, int(Named.BY_OWNER), "what came later"]
    assert Identity.decode(json.dumps(more).encode()) == Identity.of(MINE)
