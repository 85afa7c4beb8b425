"""One attempt at one round: the server's side of the secure sum, step by step, with deadlines and drop-outs.

The steps are those of PROTOCOL: advertise, share, mask and upload, agree on the survivors, unmask. Each waits until every
site it waits for has answered or is gone, or until its deadline; what the answers mean is decided in
`fl_runtime.secure_aggregation.server`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from fl_runtime.errors import JobFailedError, PeerTooLateError, SiteLostError
from fl_runtime.secure_aggregation.cohort import Cohort
from fl_runtime.secure_aggregation.context import RoundContext
from fl_runtime.secure_aggregation.messages import Masked, Signed, Step
from fl_runtime.secure_aggregation.parameters import Parameters
from fl_runtime.secure_aggregation.server import ServerRound
from fl_runtime.secure_aggregation.stages import Sum
from fl_runtime.server.bell import Bell
from fl_runtime.server.sites import SiteLink, Sites
from fl_runtime.transport import federation_pb2 as pb
from fl_runtime.transport.spool import Spool, SpooledSum
from policies.errors import DeniedError

logger = logging.getLogger(__name__)

STEP_SECONDS = 30.0  # for steps that only exchange keys and signatures

ADVERTS, SHARES, SURVIVORS, AGREEMENT = 1, 2, 3, 4  # SumStep.step


@dataclass(frozen=True, slots=True, kw_only=True)
class Announced:
    """What a site said beside its masked vector: only what its own policy lets out."""

    metrics: Mapping[str, float]
    clipped: int
    seconds: float  # of training


@dataclass(slots=True, kw_only=True)
class Attempt:
    """Conducts one attempt; the edge hands the sites' answers to it."""

    context: RoundContext
    cohort: Cohort
    parameters: Parameters
    links: Mapping[str, SiteLink]
    sites: Sites
    spool: Spool
    upload_seconds: float  # from the round's opening to the last upload
    announced: dict[str, Announced] = field(default_factory=dict)
    failures: dict[str, pb.Failure] = field(default_factory=dict)
    bytes_up: int = 0
    _bell: Bell = field(default_factory=Bell)
    _round: ServerRound = field(init=False)
    _answered: dict[Step, set[str]] = field(default_factory=lambda: {step: set() for step in Step})
    _counting: asyncio.Lock = field(default_factory=asyncio.Lock)
    _closed: bool = False  # uploads
    _aborted: str | None = None

    def __post_init__(self) -> None:
        self._round = ServerRound(context=self.context, cohort=self.cohort, parameters=self.parameters)

    # --- what the sites answer ---

    def answer(self, site: str, answer: pb.SiteAnswer) -> None:
        """Take one signed message of `site`, or its word that it failed.

        Raises:
            AggregationError: The message is not what this step takes; the site is told.
            DeniedError: It is another site's message.
        """
        match answer.WhichOneof("what"):
            case "advertise":
                self._take(Step.ADVERTISE, site, self._round.receive_advert, answer.advertise)
            case "share":
                self._take(Step.SHARE, site, self._round.receive_shares, answer.share)
            case "consistency":
                self._take(Step.CONSISTENCY, site, self._round.receive_consistency, answer.consistency)
            case "unmask":
                self._take(Step.UNMASK, site, self._round.receive_unmask, answer.unmask)
            case "failure":
                self.failures[site] = answer.failure
            case other:
                raise PeerTooLateError(
                    f"{site} answered {other} in round {self.context.round}, which does not ask for it"
                )
        self._bell.ring()

    async def count(self, site: str, answer: pb.MaskedUpdate) -> None:
        """Add the vector that `site` has uploaded to the sum, once its signed name matches it.

        Raises:
            AggregationError: The message is forged, or names another vector.
            TransportError: Bytes are missing or differ.
            PeerTooLateError: The uploads are closed.
            DeniedError: It is another site's message.
        """
        signed = Signed.parse(answer.message)
        self._require_sender(site, signed)
        body = signed.verify(Step.MASKED, context=self.context, cohort=self.cohort)
        async with self._counting:
            if self._closed:
                raise PeerTooLateError(f"{site} is too late for round {self.context.round}: its uploads are closed")
            if site in self._answered[Step.MASKED]:
                return
            await asyncio.to_thread(self.spool.finish, site, Masked.parse(body).digest)
            self._round.receive_masked(answer.message, digest=Masked.parse(body).digest)
            self._answered[Step.MASKED].add(site)
            self.announced[site] = Announced(
                metrics=dict(answer.metrics), clipped=answer.clipped, seconds=answer.seconds
            )
        logger.info("update counted", extra={"job": self.context.job, "round": self.context.round, "site": site})
        self._bell.ring()

    def may_upload(self, site: str) -> bool:
        """Whether a vector of `site` is still taken."""
        return not self._closed and site in self._answered[Step.SHARE]

    def abort(self, reason: str) -> None:
        """Let no step be waited for any more."""
        self._aborted = reason
        self._bell.ring()

    def ring(self) -> None:
        """Look again: something outside has changed."""
        self._bell.ring()

    # --- what the server does ---

    async def conduct(
        self, *, before_unmask: Callable[[SpooledSum, tuple[str, ...]], None], may_unmask: Callable[[], bool]
    ) -> Sum:
        """Go through all steps and return the unmasked sum.

        Args:
            before_unmask: Makes the masked sum and its survivors durable and records the unmask; called once, in a thread.
            may_unmask: Whether enough witnesses have cosigned; waited for.

        Raises:
            BelowThresholdError: Too few sites are left, which names who is missing.
            JobFailedError: A site's script raised, or the job was aborted.
            SiteLostError: The witnesses did not cosign in time.
        """
        with self.sites.rings(self._bell):
            everyone = set(self.cohort.names)
            deadline = time.monotonic() + self.upload_seconds
            await self._wait(Step.ADVERTISE, everyone, seconds=STEP_SECONDS)
            adverts = self._round.close_adverts()
            advertised = self._answered[Step.ADVERTISE]
            self._tell(advertised, ADVERTS, messages=adverts)

            await self._wait(Step.SHARE, advertised, seconds=STEP_SECONDS)
            sharers = self._round.close_shares()
            for site in sharers:
                mailbox = self._round.mailbox(site)
                self._tell([site], SHARES, messages=mailbox.values(), named=mailbox.keys())

            await self._wait(Step.MASKED, set(sharers), seconds=deadline - time.monotonic())
            total, survivors = await self._close_uploads()
            self._tell(sharers, SURVIVORS, named=survivors)

            await self._wait(Step.CONSISTENCY, set(sharers), seconds=STEP_SECONDS)
            agreement = self._round.agreement()
            if not await self._bell.until(may_unmask, deadline=time.monotonic() + STEP_SECONDS):
                raise SiteLostError("fewer than half of the cohort have cosigned the server's log: nothing is unmasked")
            await asyncio.to_thread(before_unmask, total, survivors)
            self._tell(sharers, AGREEMENT, messages=agreement)

            await self._wait(Step.UNMASK, self._answered[Step.CONSISTENCY], seconds=STEP_SECONDS)
            return await asyncio.to_thread(self._round.unmask, total.words)

    async def _close_uploads(self) -> tuple[SpooledSum, tuple[str, ...]]:
        async with self._counting:
            survivors = self._round.close_uploads()
            self._closed = True
            total = await asyncio.to_thread(self.spool.close)
        if total.sites != tuple(sorted(survivors)):
            raise JobFailedError(f"the sum holds {total.sites}, the round counts {survivors}")
        return total, survivors

    async def _wait(self, step: Step, expected: set[str], *, seconds: float) -> None:
        """Wait until each of `expected` has answered `step`, failed or is gone; a script that raised fails the job."""

        def settled() -> bool:
            self._raise_if_over()
            return all(site in self._answered[step] or self._is_out(site) for site in expected)

        await self._bell.until(settled, deadline=time.monotonic() + max(0.0, seconds))

    def _is_out(self, site: str) -> bool:
        return site in self.failures or self.sites.is_gone(self.links[site])

    def _raise_if_over(self) -> None:
        if self._aborted is not None:
            raise JobFailedError(self._aborted)
        for failure in self.failures.values():
            if failure.phase == "train":
                raise JobFailedError(failure.message, hint=failure.hint or None)

    def _take(self, step: Step, site: str, receive: Callable[[bytes], str], raw: bytes) -> None:
        self._require_sender(site, Signed.parse(raw))
        receive(raw)
        self._answered[step].add(site)

    @staticmethod
    def _require_sender(site: str, signed: Signed) -> None:
        if signed.sender != site:
            raise DeniedError(f"{site} sent a message that {signed.sender} signed")

    def _tell(
        self, sites: Iterable[str], step: int, *, messages: Iterable[bytes] = (), named: Iterable[str] = ()
    ) -> None:
        instruction = pb.Instruction(
            step=pb.SumStep(
                job_id=self.context.job,
                round=self.context.round,
                attempt=self.context.attempt,
                step=step,
                messages=list(messages),
                sites=list(named),
            )
        )
        for site in sites:
            self.links[site].send(instruction)
