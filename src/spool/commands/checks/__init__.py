"""The questions that `check` asks, each answered in one line: what is, and where wrong what to do.

Invariants:

- Nothing is changed: no file is made, no row is moved, and no receiver stores anything.
- A secret goes only where a delivery would send it, and nowhere while the settings are wrong.
- Each step on the network ends within SPOOL_TIMEOUT_SECONDS.

In reading order:

- `finding`: one line.
- `configuration`: what is set, by what, and what of it is wrong.
- `place`: the file and its disk. `draining`: who sends.
- `secrets`: whose spans can be sent from here.
- `reach`: the way to a host. `acceptance`: whether it takes spans with these keys; the clock.
- `surroundings`: OpenTelemetry, LiteLLM, the road without code.
"""
