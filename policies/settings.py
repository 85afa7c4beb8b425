"""Settings of a program, read from a TOML file: every problem is named with its file and line, all at once.

A program describes its settings as a subclass of `Settings` and reads them with `load_settings`. What a file says is
taken as it is written: text is never turned into a number, nothing unknown is let in, and a path is relative to the
folder of the file that names it, so that a program may be started from anywhere.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator

from policies.errors import UsageError

MAX_SETTINGS_BYTES = 1 << 20
HINT = "correct the lines named above, then run the command again"

Key = tuple[int | str, ...]  # where a value stands: names of tables and keys, and indexes into arrays of tables
S = TypeVar("S", bound="Settings")


class Settings(BaseModel):
    """Base of every settings file, and of every table within one: frozen, strict, and nothing unknown is let in."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    @field_validator("*", mode="after")
    @classmethod
    def _paths_start_at_the_file(cls, value: object, context: ValidationInfo) -> object:
        return value if context.context is None else _anchored(value, context.context["folder"])


def load_settings(path: Path, model: type[S]) -> S:
    """Read the settings in a TOML file.

    Args:
        path: The file, UTF-8, at most 1 MiB.
        model: What it must say.

    Raises:
        UsageError: The file cannot be read or is not TOML; a key is unknown, missing or of the wrong type. Every
            problem of the file is listed with its line.
    """
    text = _read(path)
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}:{_syntax_line(error, text)}: not TOML: {error}", hint=HINT) from error
    try:
        # As JSON, because strict JSON is what TOML can say: text for a path, an array for a tuple, never "5" for 5.
        return model.model_validate_json(json.dumps(values, default=_plain), context={"folder": path.absolute().parent})
    except ValidationError as error:
        lines = _lines_of_keys(text)
        problems = sorted(_problem(item, lines, model) for item in error.errors(include_url=False))
        listed = [f"{path}:{line}: {problem}" for line, problem in problems]
        heading = "" if len(listed) == 1 else f"{path} has {len(listed)} problems:\n  "
        raise UsageError(heading + "\n  ".join(listed), hint=HINT) from error


def _read(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UsageError(f"{path}: cannot be read: {reason}", hint="name an existing TOML file") from error
    if len(raw) > MAX_SETTINGS_BYTES:
        raise UsageError(f"{path} has {len(raw)} bytes, at most {MAX_SETTINGS_BYTES} are read")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise UsageError(
            f"{path}:{line}: found the byte 0x{raw[error.start]:02x}, expected UTF-8", hint=HINT
        ) from error


def _anchored(value: object, folder: Path) -> object:
    """Return `value` with every path in it made absolute, starting at `folder`."""
    match value:
        case Path():
            return folder / value
        case tuple() | list() | frozenset() | set():
            return type(value)(_anchored(item, folder) for item in value)
        case dict():
            return {key: _anchored(item, folder) for key, item in value.items()}
        case _:
            return value


def _plain(value: Any) -> str:  # noqa: ANN401 - the dates and times of TOML, which JSON writes as text
    return str(value.isoformat())


# --- what is wrong, in words -----------------------------------------------------------------------------------------


def _problem(item: Mapping[str, Any], lines: Mapping[Key, int], model: type[BaseModel]) -> tuple[int, str]:
    """Return the line and the description of one problem that pydantic found."""
    place: Key = item["loc"]
    name = ".".join(str(part) for part in place) or "file"
    match item["type"]:
        case "extra_forbidden":
            guesses = difflib.get_close_matches(str(place[-1]), _names_allowed(model, place[:-1]), n=1)
            text = f"unknown key {name!r}" + (f", did you mean {guesses[0]!r}?" if guesses else "")
        case "missing":
            text = f"missing key {name!r}"
        case _:
            found = item["input"]
            message = item["msg"].removeprefix("Value error, ")
            text = f"{name}: {message[:1].lower()}{message[1:]}"
            text += "" if isinstance(found, dict | list) else f", found {found!r:.80}"
    return _line_of(place, lines), text


def _names_allowed(model: type[BaseModel], place: Key) -> list[str]:
    """Return the keys that a table may have; `place` leads to it from the top of the file."""
    models = {model}
    for part in place:
        # An index or the tag of a union is not the name of a field: it stays within the same models.
        fields = [each.model_fields[part] for each in models if isinstance(part, str) and part in each.model_fields]
        models = {inner for field in fields for inner in _models_in(field.annotation)} or models
    return sorted(name for each in models for name in each.model_fields)


def _models_in(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)


# --- where it stands -------------------------------------------------------------------------------------------------


def _line_of(place: Key, lines: Mapping[Key, int]) -> int:
    """Return the line of the innermost key or table on the way to `place`; the first line where there is none."""
    known: Key = ()
    for part in place:
        known = (*known, part) if (*known, part) in lines else known
    return lines.get(known, 1)


def _lines_of_keys(text: str) -> Mapping[Key, int]:
    """Return where each key and table of a valid TOML text is first mentioned, in lines counted from one.

    `tomllib` keeps no positions, so the text is taken apart into its statements: a header, or a key and its value, is a
    piece that is TOML by itself, and a value that runs over several lines is not TOML before its last.
    """
    lines: dict[Key, int] = {}
    table: Key = ()
    counts: dict[Key, int] = {}  # array of tables -> how many tables it has had so far
    pending, start = "", 1
    for number, line in enumerate(text.split("\n"), start=1):
        pending, start = (pending + line + "\n", start) if pending else (line + "\n", number)
        try:
            statement = tomllib.loads(pending)
        except tomllib.TOMLDecodeError:
            continue
        if pending.lstrip().startswith("["):
            table = _table_of(statement, counts)
            mentioned = [table[:depth] for depth in range(1, len(table) + 1)]
        else:
            mentioned = [table + key for key in _keys_in(statement)]
        for key in mentioned:
            lines.setdefault(key, start)
        pending = ""
    return lines


def _table_of(statement: Mapping[str, Any], counts: dict[Key, int]) -> Key:
    """Return the table that a header opens, and count it where it is one more of an array of tables."""
    table: Key = ()
    node: Any = statement
    while node:
        if isinstance(node, list):
            counts[table] = counts.get(table, 0) + 1
            return (*table, counts[table] - 1)
        if table in counts:  # [a.b] after [[a]] lies in the last table of a
            table = (*table, counts[table] - 1)
        ((name, node),) = node.items()
        table = (*table, name)
    return table


def _keys_in(statement: Mapping[str, Any]) -> Iterator[Key]:
    for name, value in statement.items():
        yield (name,)
        if isinstance(value, dict):
            yield from ((name, *rest) for rest in _keys_in(value))


def _syntax_line(error: tomllib.TOMLDecodeError, text: str) -> int:
    """Return the line that the parser names in its message; the last where it came to the end of the file."""
    named = re.search(r"at line (\d+)", str(error))
    return int(named[1]) if named else max(1, len(text.splitlines()))
