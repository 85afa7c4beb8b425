"""The five messages of a round, each signed by the boot key of the site that sends it.

Layouts are binary and strict: every length is known or prefixed, nothing may follow, and there is one encoding of each
value. A set of sites is a bitmap over the cohort: bit i % 8 of byte i // 8, counted from the lowest, is member i.

    Signed       lp(context) || lp(sender) || lp(body) || signature[64]; the step is known to who reads it
    Advertise    c_pk[32] || s_pk[32]
    Shares       seed commitment[32] || recipients || sealed[80] for each recipient, in order
    Masked       vector digest[32] || u64(words) || u64(clipped)
    Consistency  sharers || survivors
    Unmask       sharers || survivors || b share[32] for each survivor || s share[32] for each other sharer
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fl_runtime.secure_aggregation.agreement import PUBLIC_KEY_SIZE, SEALED_SIZE
from fl_runtime.secure_aggregation.cohort import Cohort
from fl_runtime.secure_aggregation.context import DIGEST_SIZE, RoundContext
from fl_runtime.secure_aggregation.errors import MalformedMessageError, PeerRefusedError
from fl_runtime.secure_aggregation.shamir import SECRET_SIZE
from policies.encoding import domain, lp, u64

SIGNATURE_SIZE = 64
MAX_NAME = 256  # bytes of a job's or a site's name
MAX_BODY = 1 << 16  # bytes; 200 sites need 16,057


class Step(StrEnum):
    """Which of the five messages; part of the signature's domain."""

    ADVERTISE = "advertise"
    SHARE = "share"
    MASKED = "masked"
    CONSISTENCY = "consistency"
    UNMASK = "unmask"


class Reader:
    """Takes fields from the front of untrusted bytes; raises `MalformedMessageError` where they end too soon or too late."""

    def __init__(self, raw: bytes) -> None:
        self._left = memoryview(raw)

    def take(self, size: int) -> bytes:
        """Return the next `size` bytes."""
        if len(self._left) < size:
            raise MalformedMessageError(f"message ends {size - len(self._left)} bytes too soon")
        field, self._left = self._left[:size], self._left[size:]
        return bytes(field)

    def number(self, size: int) -> int:
        """Return the next big-endian integer of `size` bytes."""
        return int.from_bytes(self.take(size), "big")

    def prefixed(self, limit: int) -> bytes:
        """Return the next length-prefixed field, of at most `limit` bytes."""
        size = self.number(4)
        if size > limit:
            raise MalformedMessageError(f"found a field of {size} bytes, at most {limit} are read")
        return self.take(size)

    def text(self) -> str:
        """Return the next length-prefixed name."""
        try:
            return self.prefixed(MAX_NAME).decode()
        except UnicodeDecodeError as error:
            raise MalformedMessageError(f"a name is not UTF-8: {error}") from error

    def places(self, members: int) -> tuple[int, ...]:
        """Return the next set of members of a cohort of `members`, in order."""
        bits = int.from_bytes(self.take((members + 7) // 8), "little")
        if bits >> members:
            raise MalformedMessageError(f"a set names a member beyond the {members} of the cohort")
        return tuple(place for place in range(members) if bits >> place & 1)

    def end(self) -> None:
        """Refuse anything more."""
        if self._left:
            raise MalformedMessageError(f"{len(self._left)} bytes follow the end of a message")


def bitmap(places: Iterable[int], members: int) -> bytes:
    """Return the set of members at `places` of a cohort of `members`."""
    return sum(1 << place for place in set(places)).to_bytes((members + 7) // 8, "little")


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """A message as it travelled: nothing in it is trusted until `verify` returns its body."""

    context: RoundContext  # the attempt as its sender was told
    sender: str
    body: bytes
    signature: bytes  # 64 bytes, Ed25519

    @classmethod
    def sign(cls, body: bytes, *, step: Step, context: RoundContext, sender: str, key: Ed25519PrivateKey) -> Self:
        """Sign `body` as the message of `step`."""
        return cls(context=context, sender=sender, body=body, signature=key.sign(_signed_bytes(step, context, body)))

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Parse the bytes of a message.

        Raises:
            MalformedMessageError: They do not follow the layout.
        """
        reader = Reader(raw)
        message = cls(
            context=_parse_context(reader.prefixed(MAX_NAME + 128)),
            sender=reader.text(),
            body=reader.prefixed(MAX_BODY),
            signature=reader.take(SIGNATURE_SIZE),
        )
        reader.end()
        return message

    def encode(self) -> bytes:
        """Return the bytes that travel."""
        return lp(self.context.encode()) + lp(self.sender) + lp(self.body) + self.signature

    def verify(self, step: Step, *, context: RoundContext, cohort: Cohort) -> bytes:
        """Return the body once it is known to come from a member of the cohort, for this step of this attempt.

        Raises:
            PeerRefusedError: The sender is not in the cohort; its key did not sign this as the message of `step`; or it did,
                but was told another job, round, attempt, model, cohort or parameters.
        """
        member = cohort.members[cohort.index(self.sender)]
        try:
            key = Ed25519PublicKey.from_public_bytes(member.sign_pk)
            key.verify(self.signature, _signed_bytes(step, self.context, self.body))
        except (InvalidSignature, ValueError) as error:
            raise PeerRefusedError(
                f"the {step} message that names {self.sender} was not signed by the key of its boot",
                sites=(self.sender,),
            ) from error
        if differences := context.differences(self.context):
            raise PeerRefusedError(
                f"{self.sender} was shown something else than this site: {', '.join(differences)} differ",
                sites=(self.sender,),
                hint="a replayed message, or a server that shows two models, cohorts or parameters",
            )
        return self.body


def _signed_bytes(step: Step, context: RoundContext, body: bytes) -> bytes:
    return domain(f"secagg-{step}") + context.encode() + lp(body)


def _parse_context(raw: bytes) -> RoundContext:
    reader = Reader(raw)
    context = RoundContext(
        job=reader.text(),
        round=reader.number(4),
        attempt=reader.number(4),
        model_hash=reader.take(DIGEST_SIZE),
        cohort_digest=reader.take(DIGEST_SIZE),
        params_digest=reader.take(DIGEST_SIZE),
        vector_length=reader.number(8),
    )
    reader.end()
    return context


@dataclass(frozen=True, slots=True, kw_only=True)
class Advertise:
    """Step 0: the public keys of one site for one attempt."""

    c_pk: bytes  # 32 bytes, X25519: channel
    s_pk: bytes  # 32 bytes, X25519: seeds

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Parse a body; raises `MalformedMessageError`."""
        reader = Reader(body)
        message = cls(c_pk=reader.take(PUBLIC_KEY_SIZE), s_pk=reader.take(PUBLIC_KEY_SIZE))
        reader.end()
        return message

    def encode(self) -> bytes:
        """Return the body."""
        return self.c_pk + self.s_pk


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """Step 1: for each recipient, by its place, shares that only it can open."""

    seed_commitment: bytes  # 32 bytes; lets the server see whether shares give back the right self-mask seed
    sealed: Mapping[int, bytes]  # 80 bytes each

    @classmethod
    def parse(cls, body: bytes, *, members: int) -> Self:
        """Parse a body; raises `MalformedMessageError`."""
        reader = Reader(body)
        commitment = reader.take(DIGEST_SIZE)
        sealed = {place: reader.take(SEALED_SIZE) for place in reader.places(members)}
        reader.end()
        return cls(seed_commitment=commitment, sealed=sealed)

    def encode(self, *, members: int) -> bytes:
        """Return the body."""
        return (
            self.seed_commitment
            + bitmap(self.sealed, members)
            + b"".join(self.sealed[place] for place in sorted(self.sealed))
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Masked:
    """Step 2: names the masked vector, which travels apart."""

    digest: bytes  # 32 bytes: `ring.vector_digest`
    words: int
    clipped: int  # coordinates that lay outside their bound

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Parse a body; raises `MalformedMessageError`."""
        reader = Reader(body)
        message = cls(digest=reader.take(DIGEST_SIZE), words=reader.number(8), clipped=reader.number(8))
        reader.end()
        return message

    def encode(self) -> bytes:
        """Return the body."""
        return self.digest + u64(self.words) + u64(self.clipped)


@dataclass(frozen=True, slots=True, kw_only=True)
class Consistency:
    """Step 3: who shared keys and who survived, as the signing site was told."""

    sharers: tuple[int, ...]  # places, in order
    survivors: tuple[int, ...]  # places, in order, all among the sharers

    @property
    def dropped(self) -> tuple[int, ...]:
        """The sharers that did not survive. By construction nobody is both, so nobody loses both of its secrets."""
        return tuple(place for place in self.sharers if place not in self.survivors)

    @classmethod
    def read(cls, reader: Reader, *, members: int) -> Self:
        """Take the two sets from the front of a body; raises `MalformedMessageError`."""
        message = cls(sharers=reader.places(members), survivors=reader.places(members))
        if not set(message.survivors) <= set(message.sharers):
            raise MalformedMessageError("a survivor is not among those that shared keys")
        return message

    @classmethod
    def parse(cls, body: bytes, *, members: int) -> Self:
        """Parse a body; raises `MalformedMessageError`."""
        reader = Reader(body)
        message = cls.read(reader, members=members)
        reader.end()
        return message

    def encode(self, *, members: int) -> bytes:
        """Return the body."""
        return bitmap(self.sharers, members) + bitmap(self.survivors, members)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unmask:
    """Step 4: one share for each sharer: of its self-mask seed if it survived, of its seed key if it dropped out."""

    agreed: Consistency
    shares: Mapping[int, bytes]  # 32 bytes each, by the place of their owner

    @classmethod
    def parse(cls, body: bytes, *, members: int) -> Self:
        """Parse a body; raises `MalformedMessageError`."""
        reader = Reader(body)
        agreed = Consistency.read(reader, members=members)
        shares = {place: reader.take(SECRET_SIZE) for place in (*agreed.survivors, *agreed.dropped)}
        reader.end()
        return cls(agreed=agreed, shares=shares)

    def encode(self, *, members: int) -> bytes:
        """Return the body."""
        owners = (*self.agreed.survivors, *self.agreed.dropped)
        return self.agreed.encode(members=members) + b"".join(self.shares[place] for place in owners)
