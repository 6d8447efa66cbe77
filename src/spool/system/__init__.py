"""What the operating system gives: files, locks, forks, signals, the log.

- `filesystem`: where a spool may live, and how its files are opened.
- `locks`, `drain_lock`: who may write, and who may send.
- `forks`, `event`: what survives a fork, and what a signal handler may set.
- `background_thread`: a thread that begins when it is told to, and ends when it is asked.
- `log`, `redaction`: log lines that cannot flood, and what may be shown.
"""
