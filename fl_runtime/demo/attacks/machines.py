"""Five machines that are not the one that was granted, each launched with a site's own init_data and all of its documents.

Whoever runs a site's hardware can copy its kit. What they cannot copy is what its hardware says: each machine here differs
from the site's own in one thing, and its evidence is genuine and says so.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from attestation.attester import SocketAttester
from attestation.channel.interceptor import utc_now
from attestation.enrolment import AuditHead, Enrolment, ServiceAddress
from attestation.keys import BootKeys
from attestation.node import load_kit
from fl_runtime.demo.attacks.outcome import attempt
from fl_runtime.demo.errors import DemoError
from fl_runtime.demo.ground import AttackOutcome, DemoGround, Finished, cloister
from policies.documents import Envelope
from policies.grant import Grant
from provisioning.kits import GRANT, INIT_DATA

STALE_TCB = "bootloader=3,tee=0,snp=8,microcode=115"  # from before CacheWarp (AMD-SB-3005) was repaired
OTHER_IMAGE = hashlib.sha384(b"an image that nobody has released").hexdigest()
_LISTED = re.compile(r"^(?P<name>\S+)  .*gpus=(?P<gpus>\S+)")  # a line of `cloister mock-tee list`


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """How a machine is launched, in the words of `cloister mock-tee launch`."""

    name: str
    chip: tuple[str, str]  # option and value
    measurement: str  # 96 hex digits
    gpu: str  # serial number
    more: tuple[str, ...] = ()  # further options


@dataclass(frozen=True, slots=True, kw_only=True)
class Impostor:
    """One attack: a machine, and what must be found wrong with it."""

    attack: str
    machine: Machine
    finding: str  # its field, or the words of the refusal


async def impersonate(ground: DemoGround, *, victim: str, other: str) -> tuple[AttackOutcome, ...]:
    """Let five machines enrol as `victim`, all at the same time.

    Args:
        ground: Where.
        victim: The site whose kit every one of them holds.
        other: A site whose GPU answers for one of them.

    Raises:
        DemoError: The mock TEE does not tell which machines there are.
    """
    gpus = await _gpus(ground)
    granted = _grant_of(ground, victim)
    own = Machine(
        name=victim,
        chip=("--chip", next(item.value.hex() for item in granted.hardware if item.kind == "snp-chip-id")),
        measurement=min(granted.images).hex(),
        gpu=gpus[victim],
    )
    return tuple(
        await asyncio.gather(
            *(
                attempt(
                    impostor.attack,
                    _launch_and_enrol(ground, victim, impostor.machine),
                    code="attestation.appraisal",
                    says=impostor.finding,
                    seconds=ground.timeout_seconds,
                )
                for impostor in _impostors(own, lent_gpu=gpus[other])
            )
        )
    )


def _impostors(own: Machine, *, lent_gpu: str) -> tuple[Impostor, ...]:
    return (
        Impostor(
            attack="evidence relayed by another machine",
            machine=replace(own, name="relay", chip=("--chip-seed", "a machine that the attacker owns")),
            finding="snp-chip-id is",
        ),
        Impostor(
            attack="debug guest", machine=replace(own, name="debug", more=("--debug",)), finding="snp.policy.debug is"
        ),
        Impostor(
            attack="wrong measurement",
            machine=replace(own, name="other-image", measurement=OTHER_IMAGE),
            finding="measurement is",
        ),
        Impostor(
            attack="stale TCB",
            machine=replace(own, name="stale", more=("--tcb", STALE_TCB)),
            finding="snp.reported_tcb",
        ),
        Impostor(
            attack="GPU evidence from another machine",
            machine=replace(own, name="lent-gpu", gpu=lent_gpu),
            finding="gpu-ueid is",
        ),
    )


async def _launch_and_enrol(ground: DemoGround, victim: str, machine: Machine) -> None:
    laboratory = ground.laboratory
    command = cloister(
        *("mock-tee", "launch", "--dir", laboratory.tee, "--name", machine.name, *machine.chip),
        *("--init-data", laboratory.kit(victim) / INIT_DATA, "--measurement", machine.measurement),
        *("--gpu", machine.gpu, *machine.more),
    )
    _require(await ground.programs.run(f"launch-{machine.name}", command))
    await enrol(ground, victim, machine=machine.name)


async def enrol(ground: DemoGround, victim: str, *, machine: str) -> None:
    """Let a machine attest as `victim`, with all of its documents; returns only if the service gives it an identity."""
    laboratory = ground.laboratory
    addresses = laboratory.layout.addresses
    enrolment = Enrolment(
        load_kit(laboratory.kit(victim), now=utc_now()),
        attester=SocketAttester(laboratory.tee_socket(machine)),
        service=ServiceAddress(enrol=addresses.enrol, attested=addresses.attested),
        keys=BootKeys.generate(),
        clock=utc_now,
        audit_head=lambda: AuditHead(0, bytes(32)),
    )
    await enrolment.attest("issue")


async def _gpus(ground: DemoGround) -> Mapping[str, str]:
    """The serial number of each machine's one GPU, as whoever runs the hosts knows it."""
    listed = _require(await ground.programs.run("list", cloister("mock-tee", "list", "--dir", ground.laboratory.tee)))
    found = filter(None, map(_LISTED.match, listed.output))
    return {match["name"]: match["gpus"] for match in found}


def _grant_of(ground: DemoGround, site: str) -> Grant:
    """Which hardware and image `site` was granted: no secret, it travels with every attestation."""
    return Grant.parse(Envelope.parse((ground.laboratory.kit(site) / GRANT).read_bytes()).payload)


def _require(finished: Finished) -> Finished:
    if finished.exit_code:
        raise DemoError(f"the mock TEE refused: {' '.join(finished.errors) or f'exit code {finished.exit_code}'}")
    return finished
