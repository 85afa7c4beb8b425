"""Events of a job as lines: for people in words, for programs as JSON. What a server sends is text, never an instruction."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from fl_runtime.errors import JobFailedError
from fl_runtime.transport.federation_pb2 import JobEvent
from policies.command import harmless
from policies.errors import CloisterError

ENDED = frozenset({"completed", "failed", "aborted"})
SEPARATOR = "   "
_UNITS = ("B", "kB", "MB", "GB", "TB")


def in_words(event: JobEvent, *, sites: int | None) -> str | None:
    """Return one line about an event, or None where another event says the same.

    Args:
        event: As the server sent it.
        sites: How many sites the job has, where that is known.
    """
    match event.kind:
        case "round":
            line = _round(event, sites)
        case "key":
            line = f"job key released to {event.text}"
        case "waiting":
            line = event.text or f"waiting for {', '.join(event.sites)}"
        case "state" if event.state in ENDED:
            line = f"job {event.state}"  # why is told by the error that it ends with
        case "state" if event.state == "parked":
            return None  # an event "waiting" follows
        case "state":
            line = f"job {event.state}" + (f": {event.text}" if event.text else "")
        case "failure":
            return None
        case _:
            line = event.text or event.kind
    return line if event.kind == "round" else one_line(line)


def as_json(event: JobEvent) -> str:
    """Return an event as one line of JSON; fields that say nothing are left out."""
    fields: dict[str, Any] = {
        "number": event.number,
        "time": datetime.fromtimestamp(event.time_ms / 1000, UTC).isoformat(timespec="milliseconds"),
        "kind": event.kind,
    }
    told = {
        "state": event.state,
        "text": event.text,
        "round": event.round,
        "rounds": event.rounds,
        "sites": list(event.sites),
        "metrics": {
            name: {"by_site": dict(value.by_site), "mean": value.mean} for name, value in sorted(event.metrics.items())
        },
        "bytes_up": event.bytes_up,
        "bytes_down": event.bytes_down,
        "seconds": event.seconds,
        "code": event.code,
        "hint": event.hint,
    }
    return json.dumps(fields | {name: value for name, value in told.items() if value})


def has_ended(event: JobEvent) -> bool:
    """Whether this event says how a job has ended."""
    return event.kind == "state" and event.state in ENDED


def failure_of(event: JobEvent | None, *, cause: JobEvent | None) -> CloisterError | None:
    """Return the error that a job's last event stands for, or None if the job has completed.

    Args:
        event: The last one; None if there was none.
        cause: The last failure that was told before it.
    """
    if event is None or not has_ended(event):
        return JobFailedError("the server stopped telling about the job before it had ended", hint="watch it again")
    if event.state == "completed":
        return None
    told = cause if cause is not None and cause.text else event
    because = f": {one_line(told.text)}" if told.text else ""
    was = "failed" if event.state == "failed" else f"was {event.state}"
    code = f" ({one_line(told.code)})" if told.code else ""
    return JobFailedError(f"the job {was}{because}{code}", hint=one_line(told.hint) or None)


def size_in_words(size: int) -> str:
    """Return a number of bytes as a person reads it: `1.2 MB`."""
    number, unit = float(size), 0
    while number >= 1000 and unit < len(_UNITS) - 1:
        number, unit = number / 1000, unit + 1
    return f"{size} B" if unit == 0 else f"{number:.1f} {_UNITS[unit]}"


def _round(event: JobEvent, sites: int | None) -> str:
    """`round 2/5   4/4 sites   accuracy 0.84   1.2 MB up   0.9 s`, and what went wrong at sites that are missing."""
    parts = (
        f"round {event.round}/{event.rounds}",
        f"{len(event.sites)}/{sites} sites" if sites else f"{len(event.sites)} sites",
        *(f"{name} {value.mean:.2f}" for name, value in sorted(event.metrics.items())),
        f"{size_in_words(event.bytes_up)} up",
        f"{event.seconds:.1f} s",
        *([f"({event.text})"] if event.text else []),
    )
    return SEPARATOR.join(one_line(part) for part in parts)


def one_line(text: str) -> str:
    """Return text that somebody else wrote as a single harmless line."""
    return " ".join(harmless(text).split())
