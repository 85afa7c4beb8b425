"""One record: who did what to what, what was decided and why. No secrets, no floats, no control characters.

An `Event` is what a program reports; the log adds its own place, time and salt and makes the `Record` whose bytes are stored.
A record names people by pseudonym. The salt keeps others from guessing a record from its hash in a proof.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, ValidationError

from policies.audit.actions import Action
from policies.documents import Document, Name, describe
from policies.errors import MalformedDocumentError, MalformedRecordError

MAX_TEXT = 512  # characters of one text field
MAX_REASONS = 64
MAX_DIGESTS = 64

Decision = Literal["allow", "deny", "note"]

# Characters that could forge a line of a report: controls, line and paragraph separators, and all invisible formatting
# (Unicode category Cf, with its right-to-left overrides). Listed, so that every regular expression engine agrees.
_HIDDEN = (
    "\x00-\x1f\x7f-\x9f\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\ufeff\ufff9-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff"
)
_PLAIN = f"^[^{_HIDDEN}]*$"
_NOT_PLAIN = re.compile(f"[{_HIDDEN}\ud800-\udfff]")


def _require_instant(text: str) -> str:
    datetime.fromisoformat(text)  # the pattern admits a 99th of a month; pydantic reports the ValueError
    return text


Text = Annotated[str, StringConstraints(min_length=1, max_length=MAX_TEXT, pattern=_PLAIN)]
Digest = Annotated[bytes, Field(min_length=16, max_length=64)]  # hex in JSON: a hash or a raw public key
Bytes16 = Annotated[bytes, Field(min_length=16, max_length=16)]  # hex in JSON
Counter = Annotated[int, Field(ge=0, lt=1 << 63)]
Timestamp = Annotated[  # RFC 3339, UTC, microseconds: such texts sort as the times they name
    str,
    StringConstraints(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z$"),
    AfterValidator(_require_instant),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What a program reports. Text of unknown origin goes through `printable` first.

    An effect that a database commits is told twice: first its intent (`next="intended"`), then, under the same action and
    request, its outcome (`previous="intended"`, `next="done"` or `"void"`). An intent alone reads "possibly happened".
    """

    action: Action
    actor: str  # who did it: a role, site or pseudonym
    object: str  # what it was done to
    via: str = "self"  # the way it was asked for: an RPC, a command
    job: str | None = None
    round: int | None = None
    decision: Decision = "note"
    reasons: tuple[str, ...] = ()
    digests: Mapping[str, bytes] = field(default_factory=dict)  # by name: 16 to 64 bytes each
    jti: str | None = None  # the attestation result this rests on
    request: str | None = None
    previous: str | None = None
    next: str | None = None


class Record(Document):
    """One stored record. Its place in the log and its bytes are vouched for by a checkpoint, not by itself."""

    v: Literal[1]
    log: Name
    seq: Counter  # from 0, without gaps
    ts: Timestamp
    mono: Counter  # nanoseconds of the machine's monotonic clock
    boot: Bytes16
    actor: Text
    via: Text
    action: Action
    object: Text
    job: Text | None
    round: Counter | None
    decision: Decision
    reasons: Annotated[tuple[Text, ...], Field(max_length=MAX_REASONS)]
    digests: Annotated[dict[Name, Digest], Field(max_length=MAX_DIGESTS)]
    jti: Text | None
    request: Text | None
    previous: Text | None
    next: Text | None
    salt: Bytes16

    @classmethod
    def make(cls, event: Event, *, log: str, seq: int, ts: str, mono: int, boot: bytes, salt: bytes) -> Self:
        """Put `event` in its place.

        Raises:
            MalformedRecordError: A field is empty, too long, or has control characters.
        """
        try:
            return cls(
                v=1,
                log=log,
                seq=seq,
                ts=ts,
                mono=mono,
                boot=boot,
                actor=event.actor,
                via=event.via,
                action=event.action,
                object=event.object,
                job=event.job,
                round=event.round,
                decision=event.decision,
                reasons=event.reasons,
                digests=dict(event.digests),
                jti=event.jti,
                request=event.request,
                previous=event.previous,
                next=event.next,
                salt=salt,
            )
        except ValidationError as error:
            raise MalformedRecordError(f"event {event.action} cannot be recorded: {describe(error)}") from error

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Parse the stored bytes of one record.

        Raises:
            MalformedRecordError: Not strict JSON, or a field that is missing, unknown or wrong.
        """
        try:
            return super().parse(raw)
        except MalformedDocumentError as error:
            raise MalformedRecordError(error.message, hint=error.hint) from error

    @property
    def time(self) -> datetime:
        """`ts` as a point in time."""
        return datetime.fromisoformat(self.ts)


def timestamp(now: datetime) -> str:
    """Write a point in time as records do: UTC, microseconds, `Z`."""
    return now.astimezone(UTC).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


def printable(text: str) -> str:
    """Make text of unknown origin fit for a record: one `?` for each invisible character, cut to 512, never empty."""
    return _NOT_PLAIN.sub("?", text[:MAX_TEXT]) or "?"
