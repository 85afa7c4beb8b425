"""Writes settings files: a heading, keys in order, and tables after them. The standard library only reads TOML."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

Scalar = str | int | Path
Value = Scalar | Mapping[str, Scalar]


def toml_text(heading: str, values: Mapping[str, Value]) -> str:
    """Return a TOML file.

    Args:
        heading: What the file is, for people: each line of it becomes a comment.
        values: Keys in the order to write them; a mapping becomes a table and stands after all plain keys.
    """
    plain = {key: value for key, value in values.items() if not isinstance(value, Mapping)}
    tables = {key: value for key, value in values.items() if isinstance(value, Mapping)}
    lines = [*(f"# {line}" for line in heading.splitlines()), *_lines(plain)]
    for name, table in tables.items():
        lines += ["", f"[{_quoted(name)}]", *_lines(table)]
    return "\n".join(lines) + "\n"


def _lines(values: Mapping[str, Scalar]) -> list[str]:
    return [f"{_quoted(key)} = {_scalar(value)}" for key, value in values.items()]


def _scalar(value: Scalar) -> str:
    return str(value) if isinstance(value, int) else _string(str(value))


def _quoted(key: str) -> str:
    """A bare key where TOML allows one; a name with a dot in it is quoted, or it would mean a table."""
    bare = key.isascii() and key.replace("_", "").replace("-", "").isalnum()
    return key if bare else _string(key)


def _string(text: str) -> str:
    # A JSON string is a TOML basic string, but for two things: surrogate pairs (hence no ASCII) and DEL.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
