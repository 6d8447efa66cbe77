from __future__ import annotations

import json

from spool.store.store import Store
from users import spool


def test_peek_shows_pending_spans_and_leaves_them(filled: Store, store: Store) -> None:
    lines = spool("peek", "-n", "3").stdout.splitlines()
    assert [line.split()[-1] for line in lines] == ["s0", "s1", "s2"]
    shown = json.loads(spool("peek", "--json").stdout)
    assert len(shown) == 10
    assert set(shown[0]) == {"time", "trace_id", "span_id", "name", "bytes"}
    assert len(shown[0]["trace_id"]) == 32
    assert store.ledger().pending == 10
