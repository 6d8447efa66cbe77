"""What the code says: the strings that stand in it, to compare the pages with."""

from __future__ import annotations

import ast
import inspect
import textwrap
from typing import Any


def texts(function: Any) -> list[str]:
    """Give the strings of a function or module: one each, with {} for what is put in."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    parts = {
        part for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values
    }
    docstrings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return [
        said
        for node in ast.walk(tree)
        if node not in parts and node not in docstrings and (said := text_of(node)) is not None
    ]


def text_of(node: ast.AST) -> str | None:
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part) or "{}" for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None
