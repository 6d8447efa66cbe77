"""What is broken on purpose: the list of sabotages, each a promise, its place and its tests.

A place that has moved is named anew here; `test_sabotage.py` says which ones no longer apply.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).parents[1]
SOURCE = TESTS.parent / "src"


@dataclass(frozen=True)
class Sabotage:
    """What is broken: in a module `code` becomes `broken`; and the tests that must find it out.

    Those are files, or `file::test` where a file has many that take long.
    """

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
        "journal/file.py",
        "                self._sync_append(self.group_commit)\n",
        "                pass\n",
        "trouble/test_crash_states.py",
    ),
    Sabotage(
        "nothing is synced once an interval",
        "store/ingest.py",
        "    store.journal.sync()\n    store.database.sync()\n    store.journal.unlink(emptied)\n",
        "    pass\n",
        "trouble/test_crash_states.py",
    ),
    Sabotage(
        "a journal is removed before what was moved of it is synced",
        "store/ingest.py",
        "    store.database.sync()\n    store.journal.unlink(emptied)\n",
        "    store.journal.unlink(emptied)\n",
        "store/test_ingest.py",
    ),
    Sabotage(
        "how far a journal was moved is not compared",
        "store/journal_chunks.py",
        "return is_next and not file.is_gone()",
        "return not file.is_gone()",
        "store/test_takeover.py",
    ),
    Sabotage(
        "how far a journal was moved is only in the file that is moved away",
        "store/journal_chunks.py",
        "            file.write_header(salt, chunk.end)\n",
        "            pass\n",
        "store/test_ingest.py trouble/test_interleavings.py",
    ),
    Sabotage(
        "what is being sent becomes rows as well",
        "store/ingest.py",
        "            if not store.journal.is_claimed(file):\n",
        "            if True:\n",
        "delivery/test_journal_delivery_trouble.py",
    ),
    Sabotage(
        "what was sent from the journal is not accepted",
        "store/journal_chunks.py",
        "(spans, route_id))\n        buried = min",
        "(0, route_id))\n        buried = min",
        "delivery/test_journal_delivery.py",
    ),
    Sabotage(
        "spans are appended behind half a frame",
        "journal/file.py",
        "            self.is_left = True  # its end may be half a frame\n",
        "",
        "journal/test_file.py",
    ),
    Sabotage(
        "a child keeps the journal of its dead parent locked",
        "journal/own_files.py",
        "            file.close()\n\n    def unmoved_bytes",
        "            pass\n\n    def unmoved_bytes",
        "journal/test_at_fork.py",
    ),
    Sabotage(
        "threads are begun in a process that uWSGI has still to fork",
        "pipeline/pipeline.py",
        "        if forks.will_fork() or self._threads.is_closed:\n",
        "        if self._threads.is_closed:\n",
        "system/test_forks.py",
    ),
    Sabotage(
        "a file counts as final while somebody appends to it",
        "journal/file.py",
        "return self.is_left and not self.pins",
        "return self.is_left",
        "journal/test_file.py",
    ),
    Sabotage(
        "an fsync counts for what was written after it began",
        "journal/group_commit.py",
        "max(self._synced, number)",
        "max(self._synced, next(self._numbers))",
        "journal/test_group_commit.py",
    ),
    Sabotage(
        "a signal handler that ends a span meets the lock that its thread holds",
        "system/event.py",
        "class SignalSafeEvent:\n",
        "import threading\n\n\nclass SignalSafeEvent(threading.Event):\n    pass\n\n\n"
        "class _Unused:\n",
        "system/test_event.py",
    ),
    Sabotage(
        "spans are deleted before the answer",
        "delivery/row_delivery.py",
        "        started = time.monotonic()\n        longest =",
        "        self._store.settle(take, self._routes.now())\n"
        "        started = time.monotonic()\n        longest =",
        "delivery/test_row_delivery.py",
    ),
    Sabotage(
        "nobody waits for the mutex",
        "system/locks.py",
        "            fcntl.flock(fd, self._operation | fcntl.LOCK_NB)\n",
        "            pass\n",
        "trouble/test_mutex.py system/test_locks.py",
    ),
    Sabotage(
        "a checkpoint does not take the mutex",
        "store/database.py",
        "                sqlite.checkpoint(connection)\n",
        "                pass\n        sqlite.checkpoint(self._connections.writer())\n",
        "trouble/test_mutex.py",
    ),
    Sabotage(
        "checksums are not compared",
        "store/rows.py",
        "checksum(spans, raw_bytes, codec, payload) == crc32",
        "True",
        "store/test_rows.py delivery/test_row_delivery.py",
    ),
    Sabotage(
        "connections cross a fork",
        "store/at_fork.py",
        "    before=_before_fork, after_in_parent=_after_in_parent, after_in_child=_frozen.clear",
        "    before=lambda: None",
        "trouble/test_mutex.py",
    ),
    Sabotage(
        "locks cross a fork",
        "system/forks.py",
        "os.register_at_fork(after_in_child=_start_over)",
        "",
        "system/test_locks.py",
    ),
    Sabotage(
        "the file at the path is not compared with the one that is open",
        "store/connections.py",
        "            if use.writer.inodes == inodes:\n",
        "            if True:\n",
        "store/test_connections.py",
    ),
    Sabotage(
        "a body has a gzip member for each run of rows",
        "otlp/batch.py",
        "        return gzip_member(_deflated(batches))\n",
        '        return b"".join(gzip_member(_deflated([batch])) for batch in batches)\n',
        "otlp/test_batch.py",
    ),
    Sabotage(
        "a body's checksum is that of its first row",
        "otlp/compression.py",
        "        checksum = _library.crc32_combine(checksum, _crc(payload), content_length)\n",
        "        checksum = checksum or _crc(payload)\n",
        "otlp/test_compression.py",
    ),
    Sabotage(
        "whatever says 200 has delivered",
        "delivery/http/classification.py",
        "        return Outcome(Verdict.WAIT, reason, Cause.PORTAL)\n    try",
        "        return Outcome(Verdict.DELIVERED, reason)\n    try",
        "delivery/http/test_classification.py",
    ),
    Sabotage(
        "every receiver must answer as Langfuse does",
        "delivery/http/sender.py",
        "is_strict=self.target.public_key is not None",
        "is_strict=True",
        "delivery/http/test_classification.py",
    ),
    Sabotage(
        "who reads no gzip is sent nothing else",
        "delivery/client.py",
        "            if not is_doubtful or",
        "            if not is_doubtful or spans or",
        "delivery/test_client.py",
    ),
    Sabotage(
        "a body is declared as the next one will be",
        "delivery/http/sender.py",
        "        if body.startswith(_GZIP):",
        "        if self.encoding.is_gzip:",
        "delivery/http/test_sender.py",
    ),
    Sabotage(
        "two threads settle the requests of one route",
        "delivery/row_delivery.py",
        "self._under_way.setdefault(target.route, mine) is not mine:",
        "self._under_way.setdefault(target.route, mine) is None:",
        "delivery/test_row_delivery.py",
    ),
    Sabotage(
        "a bad request is dropped whole",
        "delivery/row_delivery.py",
        "        if take.spans > 1:\n            return Verdict.SPLIT\n        if outcome.is_dam",
        "        if take.spans or outcome.is_dam",
        "delivery/test_row_delivery.py",
    ),
    Sabotage(
        "a span is condemned without evidence",
        "delivery/row_delivery.py",
        "        refusals.refuse(take, outcome.reason)\n",
        "        refusals.refuse(take, outcome.reason)\n        refusals.accept(take)\n"
        "        refusals.words[take.rows[0].id] = ''\n"
        "        refusals.proven.add(take.rows[0].id)\n",
        "delivery/test_row_delivery_refusals.py",
    ),
    Sabotage(
        "a receiver that was doubted condemns when it is well again",
        "delivery/row_delivery.py",
        "        refusals.is_receiver_doubted = True\n",
        "",
        "delivery/test_row_delivery_refusals.py",
    ),
    Sabotage(
        "a delivery clears every target that was refused",
        "store/sql.py",
        "trim(replace(' ' || fingerprints || ' ', ' ' || ? || ' ', ' '))",
        "substr(?, 1, 0)",
        "store/test_route_waits.py delivery/test_routes.py",
    ),
    Sabotage(
        "a held route is tried as often as any",
        "delivery/backoff.py",
        "HOLD_SECONDS: Final = 330.0",
        "HOLD_SECONDS: Final = 1.0",
        "delivery/test_routes.py",
    ),
    Sabotage(
        "waits do not outlive the process",
        "delivery/routes.py",
        "        return wait.is_over(now) or self",
        "        return not self.has_unwritten_wait(route.name) or self",
        "delivery/test_routes.py",
    ),
    Sabotage(
        "what was delivered and not settled is forgotten",
        "delivery/row_delivery.py",
        "        self._unsettled.setdefault(route, []).append((take, outcome, target))\n"
        "        self._settle_again(route)\n",
        "        self._store.settle(take, self._routes.now(), dead=outcome.rejected)\n",
        "delivery/test_row_delivery.py",
    ),
    Sabotage(
        "settling ends what was packed meanwhile",
        "store/rows.py",
        "    if pending(connection, take.route_id)[1] == take.packed:\n",
        "    if True:\n",
        "store/test_row_packing.py",
    ),
    Sabotage(
        "all that waits is looked at to find what is pending",
        "store/sql.py",
        'IS_PENDING: Final = "SELECT 1 FROM batch WHERE id BETWEEN',
        'IS_PENDING: Final = "SELECT 1 FROM batch WHERE id + 0 BETWEEN',
        "store/test_query_plans.py",
    ),
    Sabotage(
        "a delivery counts all that waits",
        "store/rows.py",
        '    connection.execute(sql.COUNT.format("delivered"), (spans, route_id))\n',
        '    connection.execute(sql.COUNT.format("delivered"), (spans, route_id))\n'
        '    connection.execute("SELECT count(*) FROM batch").fetchall()\n',
        "store/test_query_plans.py",
    ),
    Sabotage(
        "a row that leaves is not counted",
        "store/rows.py",
        "    connection.execute(sql.LEAVE, (*map(int, counted), first >> ID_BITS))\n",
        "",
        "store/test_store.py store/test_model.py",
    ),
    Sabotage(
        "a refusal of the disk is not held in memory",
        "pipeline/pipeline.py",
        "        if self._threads.is_closed or not self.overflow.add(target, batch, now):\n",
        "        if batch:\n",
        "pipeline/test_pipeline.py",
    ),
    Sabotage(
        "a request that was given up goes on",
        "delivery/http/connection.py",
        "            self.sock.reset_on_close()\n",
        "            pass\n",
        "delivery/http/test_connection.py",
    ),
    Sabotage(
        "a secret goes to the host that a row names",
        "settings/credentials.py",
        "endpoint = self.endpoint or named_endpoint\n",
        "endpoint = self.endpoint or named_endpoint or route.endpoint\n",
        "settings/test_credentials.py",
    ),
    Sabotage(
        "a route that a call has brought is served with any secret",
        "settings/credentials.py",
        "        if route == found.marked().route:\n            return found.marked()\n",
        "        if route.name:\n            return replace(found, route=route.name)\n",
        "settings/test_credentials.py",
    ),
    Sabotage(
        "who has an endpoint sends everybody's spans to it",
        "settings/target.py",
        "return plain.marked() if headers or",
        "return plain if headers or",
        "settings/test_target.py",
    ),
    Sabotage(
        "a host that nobody named is remembered over one that somebody did",
        "store/sql.py",
        "    WHERE named <= excluded.named AND (",
        "    WHERE (",
        "store/test_store.py",
    ),
    Sabotage(
        "files of other users are used",
        "system/spool_files.py",
        "    if status.st_uid != owner and not is_roots:\n",
        "    if False:\n",
        "system/test_spool_files.py",
    ),
    Sabotage(
        "pipes are waited for",
        "system/spool_files.py",
        "os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK",
        "os.O_NOFOLLOW | os.O_CLOEXEC",
        "system/test_spool_files.py",
    ),
    Sabotage(
        "others can read what a salvage copies",
        "store/salvage.py",
        'os.fdopen(spool_files.create(copy, copy), "wb") as writing',
        'copy.open("wb") as writing',
        "store/test_recovery.py",
    ),
    Sabotage(
        "a span's name reaches the terminal as it is",
        "system/redaction.py",
        "    if text.isprintable():\n",
        "    if text:\n",
        "commands/test_output.py",
    ),
    Sabotage(
        "one journal that cannot be read keeps all others back",
        "journal/directory.py",
        "        unreadable[path] = str(error.strerror)\n",
        "        raise\n",
        "journal/test_directory.py",
    ),
    Sabotage(
        "routes in trouble are sent in the turn of those that are well",
        "store/store.py",
        "return self.probe_lock if route.is_troubled else self.drain_lock",
        "return self.drain_lock",
        "delivery/test_lane.py",
    ),
    Sabotage(
        "each route of a host that answers nobody is tried",
        "delivery/lane.py",
        "silence = self._client.silent_hosts.silence(target.endpoint, since)",
        "silence = None",
        "delivery/test_lane.py",
    ),
    Sabotage(
        "what comes waits for the next look of a drainer that rests",
        "store/store.py",
        "            self.come.set()\n",
        "            pass\n",
        "delivery/test_drainer.py",
    ),
    Sabotage(
        "all processes look after what others left",
        "store/takeover.py",
        "                return False\n            os.utime(looked_at)\n",
        "                pass\n",
        "store/test_takeover.py",
    ),
    Sabotage(
        "an idle drainer looks at all that waits",
        "delivery/file_watch.py",
        "return time.monotonic() >= self._until or self._state() != self._seen",
        "return True",
        "delivery/test_file_watch.py",
    ),
    Sabotage(
        "a drainer that stops begins another request",
        "delivery/drainer.py",
        "        if self.stopping.is_set():  # nobody might see its answer\n",
        "        if False:\n",
        "delivery/test_drainer.py",
    ),
    Sabotage(
        "a drainer that stops leaves the request of a route in trouble",
        "delivery/drainer.py",
        "        if self._prober is not None and self._prober.is_alive():\n",
        "        if False:\n",
        "delivery/test_drainer.py",
    ),
    Sabotage(
        "connections stay open when the drainer stops",
        "delivery/drainer.py",
        "        self._journal_delivery.stop()\n        self.client.connections.close()\n",
        "        self._journal_delivery.stop()\n",
        "delivery/http/test_connection_pool.py",
    ),
    Sabotage(
        "a program that is too short for threads sends nothing",
        "pipeline/shutdown.py",
        "                self._send_rows()\n",
        "                pass\n",
        "trouble/test_program_ends.py",
    ),
    Sabotage(
        "what only memory holds gets no last request",
        "pipeline/shutdown.py",
        "                    self._send_last()\n",
        "                    pass\n",
        "pipeline/test_shutdown.py",
    ),
    Sabotage(
        "a child relies on threads of its parent",
        "pipeline/pipeline.py",
        "        if self._process != forks.own_id():\n            self._start_over_in_child()\n"
        "        if not self._is_working:\n",
        "        if not self._is_working:\n",
        "pipeline/test_threads.py",
    ),
    Sabotage(
        "who comes later gets no drainer",
        "pipeline/pipeline.py",
        "        if settings.drain and not self._settings.drain:\n",
        "        if False:\n",
        "pipeline/test_registry.py",
    ),
    Sabotage(
        "what is refused after the end is not counted",
        "pipeline/pipeline.py",
        "        self.store.refuse(spans, reason)\n        if not self._users:\n",
        "        if not self._users:\n",
        "pipeline/test_pipeline.py",
    ),
    Sabotage(
        "the journals of others do not count for the limit",
        "store/limits.py",
        "        left = max(0, limit - inbound)  # rows are older\n",
        "        left = inbound = limit\n",
        "store/test_limits.py",
    ),
    Sabotage(
        "a target whose spans wait is forgotten",
        "settings/known_targets.py",
        "            if route in pending or self._used",
        "            if self._used",
        "settings/test_known_targets.py",
    ),
    Sabotage(
        "what is being sent from memory is moved to the file as well",
        "journal/overflow.py",
        "held.target.route != route or held.number in self._sending:",
        "held.target.route != route:",
        "journal/test_overflow.py",
    ),
    Sabotage(
        "LiteLLM's v2 puts a batch in front of the projects of keys and teams",
        "litellm_v2.py",
        "(kind, make_exporter)\n    _take_spans_as_they_end()\n",
        "(kind, make_exporter)\n",
        "test_litellm_v2.py::test_a_teams_destination_is_a_route_beside_or_instead_of_the_operators",
    ),
    Sabotage(
        "a kind of LiteLLM's v2 exporters is not spooled",
        "litellm_v2.py",
        '"http/protobuf", "http/json")  # we',
        '"http/protobuf")  # we',
        "test_litellm_v2.py::test_a_destination_is_read_as_the_stock_exporters_read_it"
        "_and_only_for_spans_over_http",
    ),
    Sabotage(
        "LiteLLM's v2 ends before its worker has begun all it was given",
        "litellm_v2.py",
        "    atexit.register(run_what_has_not_begun)\n",
        "",
        "test_litellm_v2.py::test_a_program_that_ends_right_after_its_calls_delivers",
    ),
    Sabotage(
        "whoever names the public key of another is sent for with its secret",
        "litellm_projects.py",
        "return target if target.public_key is None else target.marked()",
        "return target",
        "test_litellm_v2.py::test_a_call_that_names_a_public_key_not_its_own_gets_none_of_its_spans",
    ),
    Sabotage(
        "a tenant that LiteLLM evicts ends the exporter of all",
        "litellm_projects.py",
        "        self._exporter = exporter\n\n",
        "        self._exporter = exporter\n\n"
        "    def shutdown(self) -> None:\n        self._exporter.shutdown()\n\n",
        "test_litellm_routes.py::test_a_keys_provider_that_litellm_drops_takes_nothing_down_with_it",
    ),
    Sabotage(
        "what LiteLLM's worker had not begun is dropped",
        "litellm_worker.py",
        "    left = [one for here in list(_waiting.values()) for one in _take(here)]\n",
        "    left: list[Any] = []\n",
        "test_litellm_worker.py"
        "::test_calls_at_once_right_before_asyncio_run_returns_are_all_there_once",
    ),
    Sabotage(
        "a child makes the spans of its parent's calls again",
        "litellm_worker.py",
        "os.register_at_fork(after_in_child=_forget)\n",
        "",
        "test_litellm_worker.py::test_a_child_makes_no_spans_of_its_parents_calls",
    ),
    Sabotage(
        "what a thread without a loop has to log is not taken",
        "litellm_worker.py",
        "            enqueue(coroutine)\n            return\n",
        "            raise\n",
        "test_litellm_worker.py::test_what_a_thread_without_a_loop_has_to_log_raises_nothing",
    ),
    Sabotage(
        "a late install() leaves LiteLLM's own callback where it is called",
        "litellm.py",
        "        _replace(one, ours)\n",
        "        pass\n",
        "test_litellm.py::test_after_a_late_install_each_call_is_spooled_and_only_that",
    ),
    Sabotage(
        "extra headers go to another host, too",
        "settings/settings.py",
        "or not theirs or not is_same_host(target.endpoint, theirs):",
        "or not theirs:",
        "settings/test_environment.py",
    ),
    Sabotage(
        "routes of the credentials file go without the extra headers",
        "delivery/routes.py",
        'return self._settings.with_extra_headers(found), ""',
        'return found, ""',
        "roads/test_extra_headers.py"
        "::test_routes_of_the_credentials_file_get_them_on_their_host_only",
    ),
    Sabotage(
        "the headers of another receiver go to Langfuse",
        "settings/environment.py",
        "    if is_others or not all(is_same_host(",
        "    if is_others and not all(is_same_host(",
        "settings/test_environment.py",
    ),
    Sabotage(
        "extra headers replace the Authorization",
        "settings/target.py",
        "headers={**headers, **self.headers}",
        "headers={**self.headers, **headers}",
        "settings/test_environment.py",
    ),
    Sabotage(
        "an error shows the value of a bad header",
        "settings/headers.py",
        "the value of {header} has a character",
        "the value {value} of {header} has a character",
        "settings/test_headers.py",
    ),
    Sabotage(
        "a header that cannot be read is passed over, and logged",
        "settings/headers.py",
        "    if not re.fullmatch(rf",
        "    if not said and not re.fullmatch(rf",
        "settings/test_headers.py",
    ),
    Sabotage(
        "one key on two hosts is one route",
        "settings/known_targets.py",
        "    return has_moved or ",
        "    return ",
        "settings/test_known_targets.py",
    ),
    Sabotage(
        "of two exporters with headers of their own the last one's count for both",
        "settings/known_targets.py",
        "    return has_moved or _given_headers(known) != _given_headers(target)",
        "    return has_moved",
        "settings/test_known_targets.py",
    ),
    Sabotage(
        "a given endpoint gets the headers of the environment's host",
        "settings/settings.py",
        "        if self.host:\n",
        "        if self.host and not self.target:\n",
        "settings/test_environment.py",
    ),
    Sabotage(
        "the headers of the default host go to the remembered one",
        "settings/target.py",
        "self.headers if is_same_host(endpoint, self.endpoint) else self.own_headers",
        "self.headers",
        "roads/test_extra_headers.py"
        "::test_those_for_the_default_host_do_not_reach_the_remembered_one",
    ),
    Sabotage(
        "the name of a header that is none, and may be a secret, is shown",
        "settings/headers.py",
        "if _is_header_name(name) else f",
        "if name else f",
        "settings/test_given.py",
    ),
    Sabotage(
        "a destination that hangs from the first holds up what the journal has for another",
        "delivery/journal_delivery.py",
        "is_delaying=self._is_another_host(target)",
        "is_delaying=False",
        "delivery/test_journal_delivery_trouble.py",
    ),
    Sabotage(
        "a route that hangs from the first holds up those whose rows wait",
        "delivery/lane.py",
        "is_delaying=is_delaying",
        "is_delaying=False",
        "delivery/test_lane.py"
        "::test_while_others_wait_an_unknown_host_has_only_a_short_time_at_first",
    ),
    Sabotage(
        "what hung at its first request stays among those that are well",
        "delivery/routes.py",
        "        self.put_off([route], Silence(now, now, reason, cause))\n",
        "",
        "delivery/test_lane.py"
        "::test_while_others_wait_an_unknown_host_has_only_a_short_time_at_first",
    ),
    Sabotage(
        "a MeterProvider that raises breaks the delivery",
        "system/metering.py",
        "        except Exception as error:  # noqa: BLE001, PERF203 -",
        "        except ImportError as error:  # noqa: BLE001, PERF203 -",
        "roads/test_self_observation.py",
    ),
    Sabotage(
        "the thread that makes an exporter makes its instruments, too",
        "system/metering.py",
        "                thread.start()\n",
        "                _make()\n",
        "roads/test_self_observation.py",
    ),
    Sabotage(
        "who sends tells the MeterProvider",
        "delivery/metrics.py",
        "            own.durations.append((seconds, tuple(of_it.items())))\n",
        "            own.durations.append((seconds, tuple(of_it.items())))\n"
        "            self._record_durations()\n",
        "delivery/test_metrics.py",
    ),
    Sabotage(
        "spans count as exported when a request of theirs has failed",
        "delivery/client.py",
        "        return operation.outcome\n",
        "        self._metrics.ended(target, sum(batch.spans for batch in batches), 0)\n"
        "        return operation.outcome\n",
        "delivery/test_metrics.py",
    ),
    Sabotage(
        "each process tells a MeterProvider of the spool that all share",
        "pipeline/observation.py",
        " and self.store.reporter.is_us():",
        ":",
        "pipeline/test_observation.py",
    ),
    Sabotage(
        "what is left when its exporters have ended is not told",
        "pipeline/observation.py",
        "            spool.ended_at = time.monotonic()\n",
        "            del self._spools[store.database.path]\n",
        "pipeline/test_observation.py",
    ),
    Sabotage(
        "a collection during the shutdown closes the file",
        "pipeline/pipeline.py",
        "        self._threads.close()\n        is_used",
        "        self._threads.close()\n        observed.end(self.store)\n        is_used",
        "pipeline/test_observation.py",
    ),
    Sabotage(
        "a process that is asked no longer keeps others from telling",
        "system/first_comer.py",
        "            self.path.unlink(missing_ok=True)\n",
        "            pass\n",
        "system/test_first_comer.py",
    ),
    Sabotage(
        "a child of a fork ends its parent's turn",
        "system/first_comer.py",
        "            os.close(fd)\n\n\nclass",
        "            import fcntl\n\n            fcntl.flock(fd, fcntl.LOCK_UN)\n"
        "            os.close(fd)\n\n\nclass",
        "system/test_first_comer.py",
    ),
    Sabotage(
        "our own statements are spans where sqlite3 is instrumented",
        "store/sqlite.py",
        "    sqlite = sqlite3.Connection(\n",
        "    sqlite = sqlite3.connect(\n",
        "store/test_connections.py",
    ),
    Sabotage(
        "a YAML value of a wrong type is taken",
        "settings/given.py",
        "        if key in found and not isinstance(found[key], types):\n",
        "        if False:\n",
        "settings/test_given.py",
    ),
    Sabotage(
        "where a distro is missing nobody says so",
        "commands/zero_code.py",
        '    if importlib.metadata.entry_points(group="opentelemetry_configurator"):\n',
        "    if asked:\n",
        "roads/test_zero_code.py",
    ),
    Sabotage(
        "an endpoint that a destination of LiteLLM's v2 has in full gets another path",
        "litellm_v2.py",
        '    endpoint = getattr(spec, "traces_endpoint", None)  # newer than 1.94\n',
        "    endpoint = None\n",
        "test_litellm_v2.py::test_a_destination_is_read_as_the_stock_exporters_read_it"
        "_and_only_for_spans_over_http",
    ),
    Sabotage(
        "nobody says that install() comes too late for LiteLLM's v2",
        "litellm_v2.py",
        "    _warn_if_late()\n    _made",
        "    _made",
        "test_litellm_v2.py::test_install_is_quiet_but_says_loudly_when_it_comes_too_late",
    ),
    Sabotage(
        "a header that is no ASCII ends its request with an exception",
        "delivery/http/reason.py",
        "contextlib.suppress(ValueError):  # no Base64",
        "contextlib.suppress(UnicodeDecodeError, base64.binascii.Error):  # no Base64",
        "delivery/http/test_reason.py",
    ),
    Sabotage(
        "a content type that is given stands for that of the body",
        "delivery/http/sender.py",
        '        headers["content-type"] = "application/x-protobuf"\n',
        '        headers.setdefault("content-type", "application/x-protobuf")\n',
        "delivery/http/test_sender.py",
    ),
    Sabotage(
        "the endpoint of a further exporter is not remembered",
        "pipeline/registry.py",
        "        opened.record(target)\n",
        "        pass\n",
        "pipeline/test_registry.py",
    ),
    Sabotage(
        "a thread does not rest after a defect",
        "system/background_thread.py",
        "            self.stopping.wait(_REST_SECONDS)\n",
        "            pass\n",
        "system/test_background_thread.py",
    ),
    Sabotage(
        "a drainer that was killed is taken for a living one",
        "store/drainers.py",
        "        if is_locked(fd):\n",
        "        if is_locked(fd) or True:\n",
        "store/test_drainers.py",
    ),
    Sabotage(
        "a child keeps its parent's drainer alive",
        "store/drainers.py",
        "PerProcess(_OwnFile, _OwnFile.close)",
        "PerProcess(_OwnFile, lambda _: None)",
        "store/test_drainers.py",
    ),
    Sabotage(
        "nobody says that a route works again",
        "delivery/routes.py",
        "            self._say_up(route)\n",
        "            pass\n",
        "delivery/test_routes.py::test_a_route_that_goes_down_is_said_once_an_hour"
        "_and_that_it_works_again_once",
    ),
    Sabotage(
        "systemd is told that a drainer moves which does not",
        "commands/sidecar.py",
        " and self._spool.drainer.presence.is_moving():",
        ":",
        "commands/test_sidecar.py::test_systemd_hears_nothing_while_the_drainer_does_not_move",
    ),
    Sabotage(
        "secrets are in a drainer's file",
        "delivery/routes.py",
        "        return found.union(target.route for target in self.targets.values())\n",
        "        return found.union(str(target.headers) for target in self.targets.values())\n",
        "delivery/test_drainer.py::test_others_see_which_routes_a_drainer_can_send"
        "_and_none_of_its_secrets",
    ),
    Sabotage(
        "a variable whose name is mistyped is passed over in silence",
        "settings/environment.py",
        "            _warn_if_mistyped(variable)\n",
        "            pass\n",
        "settings/test_environment.py",
    ),
    Sabotage(
        "the history grows for ever",
        "store/history.py",
        "    connection.execute(sql.FORGET_EVENTS, (newest - MOST_EVENTS,))\n",
        "    assert newest\n",
        "store/test_history.py",
    ),
    Sabotage(
        "each failure of an outage is an event",
        "store/history.py",
        "    if end_at is None and known_kind in (kind, Kind.HELD):\n        return\n",
        "",
        "store/test_history.py",
    ),
    Sabotage(
        "a drain by hand that fails makes a backoff longer",
        "delivery/routes.py",
        "            route_waits.restore(self._store.database, before)\n",
        "            pass\n",
        "delivery/test_drain_once.py::test_a_drain_that_fails_makes_no_backoff_longer",
    ),
    Sabotage(
        "dead letters are purged though nobody can be asked",
        "commands/consent.py",
        "    if not sys.stdin.isatty():\n",
        "    if not will_be:\n",
        "commands/test_dead.py::test_what_is_purged_is_said_first_and_asked",
    ),
    Sabotage(
        "what servers say is markup on the page",
        "report/page.py",
        "escape(printable(words))",
        "printable(words)",
        "report/test_page.py",
    ),
    Sabotage(
        "a web site's page may look through a name that points to this machine",
        "commands/listen/server.py",
        "if self.server.is_private and host is not None",
        "if False and host is not None",
        "commands/listen/test_server.py",
    ),
    Sabotage(
        "clients that say nothing keep others from asking",
        "commands/listen/server.py",
        "            self._cut_the_longest()\n",
        "",
        "commands/listen/test_server.py",
    ),
    Sabotage(
        "who drips holds a connection for ever",
        "commands/listen/server.py",
        "        self.cut(_SECONDS)\n",
        "        pass\n",
        "commands/listen/test_server.py::test_who_drips_is_cut_off_in_time",
    ),
    Sabotage(
        "each who asks costs a reading of the spool",
        "commands/listen/answers.py",
        "time.monotonic() - at > _SECONDS",
        "True",
        "commands/listen/test_answers.py",
    ),
]
