"""The settings: what is configured, whose secrets there are, and where they may go.

- `settings`: variables, defaults, checks. `credentials`: the file of further secrets.
- `durability`: what a span survives. `targets`: the secrets that calls bring.
"""
