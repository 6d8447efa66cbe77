"""The store: spans that wait, as rows of one SQLite file that all processes share.

Invariants:

- Nothing is lost uncounted: accepted + imported = delivered + dead + evicted + purged + exported +
  damaged + pending. What leaves `pending` is counted in the same transaction.
- Nothing is in a journal and in the file: what becomes of a span, and how far its journal was
  moved, is one commit.
- One mutex, `.lock`, is held around every write and every checkpoint, in all processes. While it is
  held nothing else runs.
- Nothing grows with the backlog: every statement finds its rows by their ids.
- A damaged file, or one that is not ours, stops nobody, and nothing of it is thrown away.

In reading order:

- `store`: the way of a span: accepted, appended, taken, settled. `records`: what the store gives.
- `journal_chunks`: what becomes of a journal's chunk: rows, a delivery, an eviction.
- `rows`, `dead_letters`: how rows are chosen, divided, taken out, within a caller's transaction.
- `sql`: the statements, by name. `schema`: the tables. `migrations`: the steps that change them.
- `history`: what happened, and how much came and went by the hour.
- `route_waits`: which routes wait and why. `row_packing`: few large rows of many small ones.
- `eviction`: the oldest go. `operations`: what a person does.
- `drainers`: which processes drain, with whose secrets, and whether they move.
- `ingest`: from this process's journal to rows. `takeover`: from those of others.
- `maintenance`: what keeps a spool well. `maintenance_thread`: when. `limits`: age, size, disk.
- `database`: the mutex, transactions, durability. `connections`: the reader and the writer.
- `sqlite`: one connection. `at_fork`: none crosses a fork. `version`: whose a file is.
- `recovery`: after a crash. `repair`: a damaged file. `salvage`: what can be read of it.

The file (https://www.sqlite.org/fileformat.html; numbers are big-endian):

    offset  bytes  field            value
        18      2  format versions  2, 2: it has a WAL
        52      4  largest root     not 0: free pages can be given back (auto_vacuum), ...
        60      4  user_version     the schema, 100 to 103; the hundreds are the major version
        64      4  incremental      1: ... when we say so
        68      4  application_id   53 50 4F 4C, "SPOL"

Its tables, as all migrations leave them; times are seconds since 1970, sizes bytes:

    meta: one row
      salt           BLOB     16 random bytes: they tell this file from any other, and salt the
                              fingerprints
      checkpoints    INTEGER  changed by one small commit after each
      refused        INTEGER  spans that were never accepted
      refused_at, evicted_at, damaged_at
                     REAL     when that happened last; NULL for never
      watched        REAL     seconds that somebody watched the spool, for the age limit
      watched_at     REAL     until when, by the machine's monotonic clock

    route: one row an identity
      id             INTEGER  1 to 2^23 - 1
      name           TEXT     the public key, or a plain endpoint with a salted mark; unique
      endpoint       TEXT     last used, without userinfo and query; '' after a salvage
      public_key     TEXT     NULL for a plain OTLP target
      named          INTEGER  who named the endpoint (`settings.target.Named`): a lower number never
                              replaces what a higher one named
      next           INTEGER  spans that it ever took in, which number them
      accepted, imported, delivered, dead, evicted, purged, exported, damaged
                     INTEGER  its share of the ledger, in spans
      pending_spans, pending_batches, pending_bytes
                     INTEGER  what is in `batch`; bytes before compression
      packed         INTEGER  rows up to this id need no packing any more
      attempts       INTEGER  failures since the last delivery
      waited_at      REAL     when the wait began, and ...
      wait_seconds   REAL     ... how long it is
      held_at        REAL     when a target was refused last
      fingerprints   TEXT     of the targets refused since, by spaces, 16 at most; '' for none
      suspect_to     INTEGER  the last id that waited when single spans were refused or failed;
                              0 where it is the receiver that is in trouble
      probes         INTEGER  of what came behind it, so many were refused as well
      last_error     TEXT     the receiver's words, redacted; '' where all is well
      last_success_at
                     REAL     NULL for never
      cause          TEXT     why it fails (a value of `delivery.causes.Cause`); '' for none
      failing_since  REAL     when the first request failed since the last success; NULL for none

    batch: one row what came together, and waits
      id             INTEGER  route << 40 | the number of its first span: so a route's rows stand
                              together, in order, without an index; none is used twice, and a row
                              is divided in its place
      route          INTEGER  as in the id
      created_at     REAL
      spans          INTEGER
      raw_bytes      INTEGER  of the payload before compression
      codec          INTEGER  `otlp.batch.Codec`; any other number is damage
      crc32          INTEGER  of the payload, then of "spans raw_bytes codec" in decimal
      payload        BLOB     an ExportTraceServiceRequest, or several joined

    dead: one row a dead letter, of columns as in `batch`, and
      id             INTEGER  from 1, never used twice
      died_at        REAL
      reason         TEXT     the receiver's words, or what damage it is

    inbox: one row a journal of which something was moved
      name           TEXT     of its file
      moved          INTEGER  up to which offset

    mark: for the age limit
      id             INTEGER  a batch's, or a dead letter's with 0 as its route: all up to it ...
      watched        REAL     ... had come when `meta.watched` stood so

    event: what happened, the oldest go
      id             INTEGER  later ones have larger ones
      kind           TEXT     `history.Kind`
      route          TEXT     its name; '' where it was none's
      begin_at       REAL
      end_at         REAL     NULL while it lasts
      times          INTEGER  how often it happened in that time
      spans          INTEGER  whose fate it was
      words          TEXT     why, or by whom, redacted

    hour: how much had come and gone, about once an hour; the oldest go
      id             INTEGER  later ones have larger ones, whatever the clock said
      at             REAL
      accepted, delivered, pending_spans, pending_bytes
                     INTEGER  totals over all routes at that time

    _sqlite_migrations: sqlite-utils' own, which steps were taken

Beside it stand, each with its name first (all mode 0600):

    file                     content
    -wal, -shm               SQLite's: commits that no checkpoint has moved, and their index
    .lock                    nothing: the mutex. Once it is there, a damaged file is known as ours
    .drainer                 nothing: locked, shared, by all that have a drainer. Its change time
                             says when somebody looked after others' journals last
    .drainer-<pid>-<hex>     one process that drains, see `drainers`: locked by it
    .reporter                nothing: locked by who tells a MeterProvider of the spool
    .turn, .deputy, .probe.turn, .probe.deputy
                             who sends: see the package `system`
    .inbox-<pid>-<hex>       spans that are no rows yet: see the package `journal`
    .salvaging, .grafted     a salvage under way: the new file, and a copy of the damaged one
    .salvaged                the new file, complete: the next writer puts it in place
    .corrupt-<ns>[-wal]      a damaged file and its WAL, as they were; for a person, never removed
    .orphaned-<ns>-wal|-shm  what stood beside a main file that was gone; the same
"""
