from __future__ import annotations

from spans import batch
from spool.settings.target import Target
from spool.store.store import Store
from standin import StandIn
from users import spool


def test_adopt_gives_a_backlog_to_the_current_credentials(store: Store, langfuse: StandIn) -> None:
    theirs = Target.langfuse("pk-lf-theirs", "sk-lf-theirs", langfuse.url)
    store.append(theirs, batch("theirs"), now=1.0)
    store.close()
    assert (
        "1 spans of pk-lf-theirs now wait for pk-lf-test" in spool("adopt", "pk-lf-theirs").stdout
    )
    spool("drain")
    assert langfuse.names()["theirs"] == 1


def test_adopt_names_the_routes_there_are(filled: Store, store: Store, langfuse: StandIn) -> None:
    store.register(Target.langfuse("pk-lf-theirs", "sk-lf-theirs", langfuse.url))
    store.close()
    done = spool("adopt", "pk-lf-typo", code=2)
    assert "ROUTE=pk-lf-typo: must be another route of this spool: pk-lf-theirs" in done.stderr
