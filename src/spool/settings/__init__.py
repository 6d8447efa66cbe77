"""The settings: what is configured, whose secrets there are, and where they may go.

Invariants:

- The environment is read in one place, once: `environment`, for `Settings.from_env`.
- A wrong value is a SettingsError that names the variable, the value and what is allowed.
- No secret is in an error, a `repr` or the name of a route.

In reading order:

- `settings`: `Settings`, every field and its default. `durability`: what a span survives.
- `values`: how each field is read, and what it may be. `spool_path`: where the spool file is.
- `environment`: `SPOOL_*`, `LANGFUSE_*`, `OTEL_*`, proxies, and what they mean together.
- `origins`: which of them set what, for a person to see.
- `given`: what goes before it, in code or in YAML.
- `target`: where spans go, with which secret. `endpoints`, `headers`: what may be in one.
- `credentials`: the file of further secrets. `known_targets`: those that calls bring.
"""
