"""Breaks one promise after another on purpose, and shows which test finds it out.

`python tests/sabotage.py`: each time the package is copied, one place of the copy is changed, and
the tests that keep that promise must fail. Prints a table; exits with 1 if one did not fail.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
SOURCE = HERE.parent / "src"


@dataclass(frozen=True)
class Sabotage:
    """What is broken: in a module `code` becomes `broken`; and the tests that must find it out."""

    name: str
    module: str
    code: str
    broken: str
    tests: str

    def commit(self, directory: Path) -> None:
        """Break a copy of the package."""
        shutil.copytree(SOURCE, directory, ignore=shutil.ignore_patterns("__pycache__"))
        module = directory / "spool" / self.module
        module.write_text(self.broken_text(module.read_text()))

    def broken_text(self, text: str) -> str:
        """Change the one place."""
        assert text.count(self.code) == 1, f"{self.module} has no longer one place: {self.code}"
        return text.replace(self.code, self.broken)


SABOTAGES = [
    Sabotage(
        "no span is fsynced with SPOOL_SYNC_SECONDS=0",
        "inbox.py",
        "            if self._sync_each_append:\n                self._sync_append(file)\n",
        "",
        "test_crash_states.py",
    ),
    Sabotage(
        "nothing is synced once an interval",
        "intake.py",
        "    store.inbox.sync()\n    store.database.sync()\n    store.inbox.unlink(emptied)\n",
        "    pass\n",
        "test_crash_states.py",
    ),
    Sabotage(
        "an inbox is removed before what was moved of it is synced",
        "intake.py",
        "    store.database.sync()\n    store.inbox.unlink(emptied)\n",
        "    store.inbox.unlink(emptied)\n",
        "test_intake.py",
    ),
    Sabotage(
        "how far an inbox was moved is not compared",
        "store.py",
        "return is_next and not file.is_gone()",
        "return not file.is_gone()",
        "test_intake.py",
    ),
    Sabotage(
        "how far an inbox was moved is only in the file that is moved away",
        "store.py",
        "                file.note(salt, chunk.end)\n",
        "                pass\n",
        "test_intake.py test_interleavings.py",
    ),
    Sabotage(
        "what is being sent becomes rows as well",
        "intake.py",
        "            if not store.inbox.is_claimed(file):\n",
        "            if True:\n",
        "test_straight.py",
    ),
    Sabotage(
        "what was sent straight from the inbox is not accepted",
        "store.py",
        "(spans, route_id))\n            buried = min",
        "(0, route_id))\n            buried = min",
        "test_straight.py",
    ),
    Sabotage(
        "spans are appended behind half a frame",
        "inbox.py",
        "            file.is_left = True  # its end may be half a frame\n",
        "",
        "test_inbox.py",
    ),
    Sabotage(
        "a child keeps the inbox of its dead parent locked",
        "inbox.py",
        "            file.close()\n\n    def unmoved_bytes",
        "            pass\n\n    def unmoved_bytes",
        "test_inbox.py",
    ),
    Sabotage(
        "threads are begun in a process that uWSGI has still to fork",
        "shared.py",
        "        if fork.is_to_come() or self._is_ending:\n",
        "        if self._is_ending:\n",
        "test_fork.py",
    ),
    Sabotage(
        "a file counts as final while somebody appends to it",
        "inbox.py",
        "return self.is_left and not self.pins",
        "return self.is_left",
        "test_inbox.py",
    ),
    Sabotage(
        "an fsync counts for what was written after it began",
        "group.py",
        "max(self._synced, number)",
        "max(self._synced, next(self._numbers))",
        "test_inbox.py",
    ),
    Sabotage(
        "a signal handler that ends a span meets the lock that its thread holds",
        "wake.py",
        "class Wake:\n",
        "import threading\n\n\nclass Wake(threading.Event):\n    pass\n\n\nclass _Unused:\n",
        "test_wake.py",
    ),
    Sabotage(
        "spans are deleted before the answer",
        "delivery.py",
        "        started = time.monotonic()\n        longest =",
        "        self._store.settle(take, self._clock())\n"
        "        started = time.monotonic()\n        longest =",
        "test_drainer.py",
    ),
    Sabotage(
        "nobody waits for the mutex",
        "lock.py",
        "            fcntl.flock(fd, self._operation | fcntl.LOCK_NB)\n",
        "            pass\n",
        "test_mutex.py test_lock.py",
    ),
    Sabotage(
        "a checkpoint does not take the mutex",
        "database.py",
        "                _checkpoint(connection)\n",
        "                pass\n        _checkpoint(self._current_writer())\n",
        "test_mutex.py",
    ),
    Sabotage(
        "checksums are not compared",
        "rows.py",
        "checksum(spans, raw_bytes, codec, payload) == crc32",
        "True",
        "test_store.py test_drainer.py",
    ),
    Sabotage(
        "connections cross a fork",
        "database.py",
        "    before=_before_fork, after_in_parent=_after_in_parent, after_in_child=_frozen.clear",
        "    before=lambda: None",
        "test_mutex.py",
    ),
    Sabotage(
        "locks cross a fork",
        "fork.py",
        "os.register_at_fork(after_in_child=_start_over)",
        "",
        "test_lock.py",
    ),
    Sabotage(
        "the file at the path is not compared with the one that is open",
        "database.py",
        "            if use.writer.identity == identity:\n",
        "            if True:\n",
        "test_database.py",
    ),
    Sabotage(
        "a body has a gzip member for each run of rows",
        "otlp.py",
        "        return gzip_member(_deflated(batches))\n",
        '        return b"".join(gzip_member(_deflated([batch])) for batch in batches)\n',
        "test_otlp.py",
    ),
    Sabotage(
        "a body's checksum is that of its first row",
        "deflate.py",
        "        checksum = _library.crc32_combine(checksum, _crc(payload), content_length)\n",
        "        checksum = checksum or _crc(payload)\n",
        "test_deflate.py",
    ),
    Sabotage(
        "whatever says 200 has delivered",
        "sender.py",
        "        return Outcome(Verdict.WAIT, reason)\n    rejected, words",
        "        return Outcome(Verdict.DELIVERED, reason)\n    rejected, words",
        "test_sender.py",
    ),
    Sabotage(
        "every receiver must answer as Langfuse does",
        "sender.py",
        "is_strict=self.target.public_key is not None",
        "is_strict=True",
        "test_sender.py",
    ),
    Sabotage(
        "who reads no gzip is sent nothing else",
        "line.py",
        "            if not is_doubtful or",
        "            if not is_doubtful or spans or",
        "test_line.py",
    ),
    Sabotage(
        "a bad request is dropped whole",
        "delivery.py",
        "        if take.spans > 1:\n            return Verdict.SPLIT\n        if outcome.is_dam",
        "        if take.spans or outcome.is_dam",
        "test_drainer.py",
    ),
    Sabotage(
        "a span is condemned without evidence",
        "delivery.py",
        "        refusals.refuse(take, outcome.reason)\n",
        "        refusals.refuse(take, outcome.reason)\n        refusals.accept(take)\n"
        "        refusals.words[take.rows[0].id] = ''\n"
        "        refusals.proven.add(take.rows[0].id)\n",
        "test_delivery.py",
    ),
    Sabotage(
        "a receiver that was doubted condemns when it is well again",
        "delivery.py",
        "        refusals.is_receiver_doubted = True\n",
        "",
        "test_delivery.py",
    ),
    Sabotage(
        "a delivery clears every target that was refused",
        "sql.py",
        "trim(replace(' ' || fingerprints || ' ', ' ' || ? || ' ', ' '))",
        "substr(?, 1, 0)",
        "test_store.py test_line.py",
    ),
    Sabotage(
        "a held route is tried as often as any",
        "line.py",
        "HOLD_SECONDS: Final = 330.0",
        "HOLD_SECONDS: Final = 1.0",
        "test_line.py",
    ),
    Sabotage(
        "waits do not outlive the process",
        "line.py",
        "        return waited >= seconds\n",
        "        return not self.is_in_trouble(route.name)\n",
        "test_line.py",
    ),
    Sabotage(
        "what was delivered and not settled is forgotten",
        "delivery.py",
        "        self._unsettled.setdefault(route, []).append((take, outcome, target))\n"
        "        self._settle_again(route)\n",
        "        self._store.settle(take, self._clock(), dead=outcome.rejected)\n",
        "test_drainer.py",
    ),
    Sabotage(
        "settling ends what was packed meanwhile",
        "rows.py",
        "    if pending(connection, take.route_id)[1] == take.packed:\n",
        "    if True:\n",
        "test_store.py",
    ),
    Sabotage(
        "a row that leaves is not counted",
        "rows.py",
        "    connection.execute(sql.LEAVE, (*map(int, counted), first >> ID_BITS))\n",
        "",
        "test_store.py test_model.py",
    ),
    Sabotage(
        "a refusal of the disk is not held in memory",
        "shared.py",
        "        if self._is_ending or not self.overflow.add(target, batch, now):\n",
        "        if batch:\n",
        "test_exporter.py",
    ),
    Sabotage(
        "a request that was given up goes on",
        "wire.py",
        "            self.sock.reset_on_close()\n",
        "            pass\n",
        "test_wire.py",
    ),
    Sabotage(
        "a secret goes to the host that a row names",
        "credentials.py",
        "endpoint = self.endpoint or named_endpoint\n",
        "endpoint = self.endpoint or named_endpoint or route.endpoint\n",
        "test_credentials.py",
    ),
    Sabotage(
        "a route that a call has brought is served with any secret",
        "credentials.py",
        "        if route.name == found.marked().route:\n            return found.marked()\n",
        "        if route.name:\n            return replace(found, route=route.name)\n",
        "test_credentials.py",
    ),
    Sabotage(
        "who has an endpoint sends everybody's spans to it",
        "settings.py",
        "return plain.marked() if headers or",
        "return plain if headers or",
        "test_settings.py",
    ),
    Sabotage(
        "a host that nobody named is remembered over one that somebody did",
        "sql.py",
        "    WHERE named <= excluded.named AND (",
        "    WHERE (",
        "test_store.py",
    ),
    Sabotage(
        "files of other users are used",
        "place.py",
        "    if status.st_uid != owner and not is_roots:\n",
        "    if False:\n",
        "test_place.py",
    ),
    Sabotage(
        "pipes are waited for",
        "place.py",
        "os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK",
        "os.O_NOFOLLOW | os.O_CLOEXEC",
        "test_place.py",
    ),
    Sabotage(
        "others can read what a salvage copies",
        "salvage.py",
        'os.fdopen(place.create(copy, copy), "wb") as writing',
        'copy.open("wb") as writing',
        "test_salvage.py",
    ),
    Sabotage(
        "a span's name reaches the terminal as it is",
        "shown.py",
        "    if text.isprintable():\n",
        "    if text:\n",
        "test_cli.py",
    ),
    Sabotage(
        "one inbox that cannot be read keeps all others back",
        "inbox.py",
        "        unreadable[path] = str(error.strerror)\n",
        "        raise\n",
        "test_intake.py",
    ),
    Sabotage(
        "routes in trouble are sent in the turn of those that are well",
        "store.py",
        "return self.probe_turn if route.is_troubled else self.turn",
        "return self.turn",
        "test_lane.py",
    ),
    Sabotage(
        "each route of a host that answers nobody is tried",
        "lane.py",
        "silence = self._line.hosts.silence(target.endpoint, since)",
        "silence = None",
        "test_lane.py",
    ),
    Sabotage(
        "what comes waits for the next look of a drainer that rests",
        "store.py",
        "            self.come.set()\n",
        "            pass\n",
        "test_drainer.py",
    ),
    Sabotage(
        "all processes look after what others left",
        "neighbours.py",
        "                return False\n            os.utime(looked_at)\n",
        "                pass\n",
        "test_neighbours.py",
    ),
    Sabotage(
        "an idle drainer looks at all that waits",
        "watch.py",
        "return time.monotonic() >= self._until or self._state() != self._seen",
        "return True",
        "test_watch.py",
    ),
    Sabotage(
        "connections stay open when the drainer stops",
        "drainer.py",
        "        self._straight.stop()\n        self.line.connections.close()\n",
        "        self._straight.stop()\n",
        "test_connections.py",
    ),
    Sabotage(
        "a program that is too short for threads sends nothing",
        "ending.py",
        "                self._send_rows()\n",
        "                pass\n",
        "test_ending.py",
    ),
    Sabotage(
        "what only memory holds gets no last request",
        "ending.py",
        "                    self._send_last()\n",
        "                    pass\n",
        "test_ending.py",
    ),
    Sabotage(
        "a child relies on threads of its parent",
        "shared.py",
        "        if self._pid != os.getpid():\n            self._start_over_in_child()\n"
        "        if not self._has_begun:\n",
        "        if not self._has_begun:\n",
        "test_ending.py",
    ),
    Sabotage(
        "who comes later gets no drainer",
        "shared.py",
        "        if settings.drain and not self._settings.drain:\n",
        "        if False:\n",
        "test_shared.py",
    ),
    Sabotage(
        "what is refused after the end is not counted",
        "shared.py",
        "        self.store.refuse(spans)\n        if not self._users:\n",
        "        if not self._users:\n",
        "test_ending.py",
    ),
    Sabotage(
        "the inboxes of others do not count for the limit",
        "keeper.py",
        "        left = max(0, limit - inbound)  # rows are older\n",
        "        left = inbound = limit\n",
        "test_keeper.py",
    ),
    Sabotage(
        "a target whose spans wait is forgotten",
        "targets.py",
        "            if route in pending or self._used",
        "            if self._used",
        "test_targets.py",
    ),
    Sabotage(
        "what is being sent from memory is moved to the file as well",
        "overflow.py",
        "held.target.route != route or held.number in self._sending:",
        "held.target.route != route:",
        "test_overflow.py",
    ),
]


def failed_tests(sabotage: Sabotage, *arguments: str) -> list[str]:
    """Run the tests that must find it out; give the names of those that fail."""
    with tempfile.TemporaryDirectory(prefix="sabotage-") as directory:
        source = Path(directory) / "src"
        sabotage.commit(source)
        tests = [str(HERE / name) for name in sabotage.tests.split()]
        ran = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider",
             *arguments, *tests],
            env={**os.environ, "PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert ran.returncode in (0, 1), ran.stdout + ran.stderr
    return re.findall(r"^(?:FAILED|ERROR) \S+::(\w+)", ran.stdout, re.MULTILINE)


def main() -> int:
    """Commit every sabotage in turn; print the table."""
    survived = 0
    print("| broken on purpose | found out by |\n|---|---|")
    for sabotage in SABOTAGES:
        failed = failed_tests(sabotage)
        survived += not failed
        print(f"| {sabotage.name} | {failed[0] if failed else 'NOBODY'} |", flush=True)
    print(f"\n{len(SABOTAGES)} promises broken, {survived} not found out")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
