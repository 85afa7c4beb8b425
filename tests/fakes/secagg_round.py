"""A whole round of the masked sum, in memory: the sites, the server and the messages between them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fl_runtime.secure_aggregation import (
    ClippedUpdate,
    Cohort,
    Member,
    Parameters,
    RoundContext,
    RoundMemory,
    Segment,
    ServerRound,
    SiteRound,
    Sum,
    Update,
    accumulate,
    encode,
    new_vector,
    vector_digest,
)
from fl_runtime.secure_aggregation.messages import Step
from policies.documents import raw_public_key

MODEL = hashlib.sha256(b"model").digest()


class SeededRandomness:
    """Bytes that look random and are the same for the same seed. Never twice the same within one object."""

    def __init__(self, seed: str) -> None:
        self._seed, self._count = seed, 0

    def __call__(self, size: int) -> bytes:
        self._count += 1
        return hashlib.shake_256(f"{self._seed}/{self._count}".encode()).digest(size)


def segments(length: int = 6) -> tuple[Segment, ...]:
    return (
        Segment(name="model", length=length, clip_micros=4_000_000, weight="samples"),
        Segment(name="controls", length=2, clip_micros=1_000_000, weight="one"),
    )


def signing_key(site: str, boot: int = 0) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(f"{site}/{boot}".encode()).digest())


def member(site: str, *, organisation: str | None = None, boot: int = 0) -> Member:
    return Member(
        site=site,
        organisation=organisation or f"org-{site}",
        sign_pk=raw_public_key(signing_key(site, boot)),
        boot=boot.to_bytes(16, "big"),
    )


def names(count: int) -> tuple[str, ...]:
    return tuple(f"site-{index:03}" for index in range(count))


@dataclass(kw_only=True)
class Federation:
    """What lasts from round to round: cohort, parameters, and each site's memory."""

    cohort: Cohort
    parameters: Parameters
    memories: dict[str, RoundMemory] = field(default_factory=dict)
    boots: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(
        cls, count: int, *, organisations: Sequence[str] | None = None, parameters: Parameters | None = None
    ) -> Federation:
        sites = names(count)
        owners = organisations or [f"org-{site}" for site in sites]
        cohort = Cohort.of(member(site, organisation=owner) for site, owner in zip(sites, owners, strict=True))
        agreed = parameters or Parameters.for_sites(count, segments=segments(), weight_cap=1000)
        return cls(cohort=cohort, parameters=agreed, memories={site: RoundMemory() for site in sites})

    def context(self, *, round_number: int = 0, attempt: int = 1, model_hash: bytes = MODEL) -> RoundContext:
        return RoundContext.of(
            job="mortality",
            round_number=round_number,
            attempt=attempt,
            model_hash=model_hash,
            cohort=self.cohort,
            parameters=self.parameters,
        )

    def site(self, name: str, context: RoundContext) -> SiteRound:
        boot = self.boots.get(name, 0)
        return SiteRound(
            context=context,
            cohort=self.cohort,
            parameters=self.parameters,
            site=name,
            signing_key=signing_key(name, boot),
            memory=self.memories[name],
            randomness=SeededRandomness(f"{name}/{boot}/{context.job}/{context.round}/{context.attempt}"),
        )

    def restart(self, name: str) -> None:
        """Give a site a new boot: new keys; what it had saved is read back."""
        self.boots[name] = self.boots.get(name, 0) + 1
        self.memories[name] = RoundMemory.parse(self.memories[name].encode())
        others = [m for m in self.cohort.members if m.site != name]
        old = self.cohort.members[self.cohort.index(name)]
        self.cohort = Cohort.of([*others, member(name, organisation=old.organisation, boot=self.boots[name])])

    def round(self, **context: int | bytes) -> Round:
        return Round(self, self.context(**context))  # type: ignore[arg-type]


def update_of(name: str, parameters: Parameters) -> Update:
    generator = np.random.default_rng(list(name.encode()))
    return Update(
        segments={s.name: generator.normal(0, s.clip / 3, s.length).astype(np.float32) for s in parameters.segments},
        sample_count=int(generator.integers(1, 2000)),
    )


def clipped_of(name: str, parameters: Parameters) -> ClippedUpdate:
    return encode(update_of(name, parameters), parameters=parameters, randomness=SeededRandomness(f"rounding {name}"))


class Round:
    """One attempt. Each step can be run alone, with the sites that are still there; `run` runs them all."""

    def __init__(self, federation: Federation, context: RoundContext) -> None:
        self.federation, self.context = federation, context
        self.parameters = federation.parameters
        self.server = ServerRound(context=context, cohort=federation.cohort, parameters=self.parameters)
        self.sites = {name: federation.site(name, context) for name in federation.cohort.names}
        self.plain: dict[str, np.ndarray] = {}  # each site's words, in the clear, for comparison
        self.masked: dict[str, np.ndarray] = {}
        self.shares: dict[str, bytes] = {}
        self.answers: dict[str, bytes] = {}
        self.adverts: tuple[bytes, ...] = ()
        self.accumulator = new_vector(self.parameters)

    def advertise(self, present: Iterable[str]) -> None:
        for name in present:
            self.server.receive_advert(self.sites[name].advertise())
        self.adverts = self.server.close_adverts()

    def share(self, present: Iterable[str]) -> None:
        for name in present:
            self.shares[name] = self.sites[name].share(self.adverts)
            self.server.receive_shares(self.shares[name])
        self.server.close_shares()

    def upload(self, present: Iterable[str]) -> tuple[str, ...]:
        for name in present:
            update = clipped_of(name, self.parameters)
            self.plain[name] = update.vector.copy()
            masked = self.sites[name].mask(update, self.server.mailbox(name))
            self.masked[name] = masked.vector.copy()
            digest = vector_digest(masked.vector)
            self.server.receive_masked(self.sites[name].announce(masked, digest=digest), digest=digest)
            accumulate(self.accumulator, masked.vector)
        return self.server.close_uploads()

    def agree(self, present: Iterable[str], survivors: Iterable[str]) -> tuple[bytes, ...]:
        for name in present:
            self.server.receive_consistency(self.sites[name].consistency(survivors))
        return self.server.agreement()

    def answer(self, present: Iterable[str], agreement: Iterable[bytes]) -> None:
        agreed = tuple(agreement)
        for name in present:
            self.answers[name] = self.sites[name].unmask(agreed)
            self.server.receive_unmask(self.answers[name])

    def run(self, *, lost: Mapping[Step, Iterable[str]] | None = None, order: int = 1) -> Sum:
        """Run every step; the sites of `lost[step]` are gone before they send the message of that step."""
        gone: set[str] = set()

        def present(step: Step) -> list[str]:
            gone.update((lost or {}).get(step, ()))
            return [name for name in self.federation.cohort.names if name not in gone][::order]

        self.advertise(present(Step.ADVERTISE))
        self.share(present(Step.SHARE))
        survivors = self.upload(present(Step.MASKED))
        agreement = self.agree(present(Step.CONSISTENCY), survivors)
        self.answer(present(Step.UNMASK), agreement)
        return self.server.unmask(self.accumulator)

    def plain_sum(self, survivors: Iterable[str]) -> np.ndarray:
        return np.sum([self.plain[name] for name in survivors], axis=0, dtype=self.accumulator.dtype)
