"""The system: files and their rights, locks, forks, threads, the log. Nothing here knows of spans.

Invariants:

- Nothing waits without a bound.
- What a signal handler may call takes no lock that it can have interrupted.
- A child of a fork begins anew.

The locks lie beside the spool, whose name comes first (all mode 0600, never removed but for the
last two: a reporter's is taken from one that nobody asks any more, a drainer's goes with it):

    file                                       locked by                           content
    spool.db.lock                              who writes or checkpoints           none
    spool.db.turn                              who sends                           a signature
    spool.db.deputy                            who sends past one that is stopped  none
    spool.db.probe.turn, spool.db.probe.deputy the same, for routes in trouble     as above
    spool.db.drainer                           all that have a drainer, shared     none
    spool.db.reporter                          who tells metrics of the spool      none
    spool.db.drainer-<pid>-<hex>               one process that drains             what it can send

The bytes of a signature are drawn in `locks`, those of a drainer's file in `store.drainers`.

In reading order:

- `location`: where a spool may live. `spool_files`: how its files are named, made and opened.
- `disk`: what room there is, and what is said where a disk refuses.
- `locks`: between processes and threads. `drain_lock`: who may send. `first_comer`: who of many
  does something.
- `forks`: what a child has for itself. `importing`: imports that a fork waits for.
- `event`: what a signal handler may set.
- `background_thread`: a thread that begins when it is told to, and ends when it is asked.
- `exits`: what a process does last. `service_manager`: what systemd is told.
- `metering`: how instruments come to a MeterProvider, and nobody waits for it.
- `log`, `redaction`: log lines that cannot flood, and what may be shown. `words`: numbers as people
  read them.
"""
