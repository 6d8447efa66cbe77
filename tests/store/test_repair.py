"""Damage stops nobody: the file is moved aside, and what is left goes on."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from damaged_files import DELIVERED, ROWS, damage, damage_a_leaf, read_all, ruin_root_page, use
from seeds import seed
from spans import batch, span
from spool import Settings, SpoolSpanExporter
from spool.errors import SpoolDamagedError
from spool.settings.target import Target
from spool.store import route_waits, row_packing
from spool.store.store import Store
from standin import StandIn
from stores import assert_balanced
from targets import MINE

pytestmark = pytest.mark.once

IMAGES = int(os.environ.get("TEST_DAMAGED_FILES", "150"))


def test_a_file_whose_root_page_is_gone_is_moved_aside_and_said_loudly(
    crashed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = crashed / "spool.db"
    content = ruin_root_page(path)
    store = use(path)
    assert "was damaged and was moved to" in caplog.text
    (aside,) = crashed.glob("spool.db.corrupt-*")
    assert aside.read_bytes() == content
    # The schema is the same in every spool. What was in the WAL is gone with it.
    assert len(read_all(store)) == ROWS // 2 + 1 + 1
    store.close()


def test_a_file_that_another_process_has_salvaged_is_not_salvaged_again(crashed: Path) -> None:
    path = crashed / "spool.db"
    stores = [Store(path), Store(path)]
    for store in stores:
        store.open()
    stores[0].database.checkpoint()
    damage_a_leaf(path)
    for store in stores:
        with pytest.raises(SpoolDamagedError):
            read_all(store)
    stores[0].database.repair()
    route_waits.hold(stores[0].database, stores[0].routes()[0], "fingerprint", 330.0, 1.0, "401")
    stores[1].database.repair()
    assert len(read_all(stores[1])) == stores[1].ledger().pending
    assert stores[1].routes()[0].fingerprints == ("fingerprint",)
    assert len([*crashed.glob("*.corrupt-*[0-9]")]) == 1
    for store in stores:
        store.close()


def test_what_was_packed_and_salvaged_while_it_was_sent_is_not_settled_with_others(
    store: Store,
) -> None:
    for number in range(10):
        store.append(MINE, batch(f"s{number}", size=1000), 1.0)
    take = store.oldest(1, max_bytes=1 << 20, max_spans=5)
    assert take is not None
    assert row_packing.pack(store.database, 1, 8 * 1200)
    store.database._repair.note_damage()  # in a place that holds none of them
    store.database.repair()
    assert store.settle(take, 2.0) == 0
    assert store.ledger().pending == 10


def test_no_damage_stops_the_application_and_every_readable_span_is_kept(
    crashed: Path, tmp_path: Path
) -> None:
    chance = random.Random(seed())
    for number in range(IMAGES):
        directory = tmp_path / f"damaged-{number}"
        shutil.copytree(crashed, directory)
        damage(directory, chance)
        store = use(directory / "spool.db")
        assert store.ledger().pending >= 1
        read_all(store)
        store.close()
        shutil.rmtree(directory)


def test_drain_salvages_a_damaged_file_and_sends_what_is_left(whole: Path) -> None:
    with StandIn(keys={"pk-lf-mine": "sk-lf-mine"}) as langfuse:
        damage_a_leaf(whole)
        environment = {
            **os.environ,
            "SPOOL_PATH": str(whole),
            "LANGFUSE_PUBLIC_KEY": "pk-lf-mine",
            "LANGFUSE_SECRET_KEY": "sk-lf-mine",
            "LANGFUSE_HOST": langfuse.url,
        }
        command = [sys.executable, "-m", "spool", "drain"]
        drained = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False
        )
        assert "Traceback" not in drained.stderr
        assert "spans were rescued" in drained.stderr
        store = Store(whole)
        assert store.ledger().delivered == DELIVERED + langfuse.accepted > 100
        assert_balanced(store)
        store.close()


def test_damage_that_only_the_drainer_meets_is_salvaged_in_the_background(
    crashed: Path, settings: Settings, langfuse: StandIn
) -> None:
    path = crashed / "spool.db"
    target = Target.langfuse("pk-lf-mine", "sk-lf-test", langfuse.url)
    exporter = SpoolSpanExporter(settings=replace(settings, path=path, target=target))
    exporter._pipeline.store.database.checkpoint()
    damage_a_leaf(path)
    exporter.export([span("fresh")])
    langfuse.wait_for(lambda server: server.names()["fresh"] == 1)
    exporter.shutdown()
    store = Store(path)
    assert 0 < store.ledger().damaged < 20
    store.close()
