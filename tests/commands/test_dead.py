from __future__ import annotations

import pytest

import standin
from spans import batch
from spool.settings.target import Target
from spool.store.store import Store
from standin import StandIn
from users import spool

pytestmark = pytest.mark.once


def test_dead_letters_can_be_listed_shown_retried_and_purged(
    filled: Store, store: Store, langfuse: StandIn
) -> None:
    langfuse.behave(standin.reject_span("s3"))
    spool("drain", code=1)
    assert "400 cannot take the span s3" in spool("dead", "list").stdout
    assert 'name: "s3"' in spool("dead", "show", "1").stdout
    assert "1 spans are pending again" in spool("dead", "retry", "1").stdout
    # Alone it is no worse than the server.
    assert "400 cannot take the span s3" in spool("drain", code=1).stderr
    store.append(Target.langfuse("pk-lf-test", "sk-lf-test", langfuse.url), batch("s10"), now=1.0)
    store.close()
    spool("drain", code=1)
    assert "1 spans were purged" in spool("dead", "purge", "--all").stdout
    ledger = store.ledger()
    assert (ledger.delivered, ledger.purged, ledger.dead, ledger.pending) == (10, 1, 0, 0)


def test_a_revived_dead_letter_is_delivered_when_the_server_takes_it(
    filled: Store, langfuse: StandIn
) -> None:
    langfuse.behave(standin.reject_span("s3"))
    spool("drain", code=1)
    langfuse.behave(None)
    spool("dead", "retry", "--all")
    spool("drain")
    assert langfuse.accepted == 10


@pytest.mark.parametrize("command", ["retry", "purge"])
def test_dead_letters_must_be_named_or_all_be_meant(filled: Store, command: str) -> None:
    assert "name the IDs, or give --all" in spool("dead", command, code=2).stderr
    assert "no dead letter has the ID 7" in spool("dead", command, "7", code=2).stderr
