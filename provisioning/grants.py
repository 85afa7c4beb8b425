"""The third step: each organisation looks at its own machines, which run by now, and grants them their nodes.

A machine is granted only as what its kit says: launched from the released image, with the kit's own init_data. Granting again
is the same command: the new grant names the one before it.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from pydantic import ValidationError

from attestation.attester import Attester, SocketAttester
from attestation.nvidia_gpu.verify import verify as verify_gpu
from attestation.trust_anchors import TrustAnchors
from attestation.verifier import verify_cpu
from policies import grant as grant_document
from policies.documents import Envelope, describe, raw_public_key
from policies.files import write_atomically
from policies.grant import Grant, HardwareId
from policies.init_data import init_data_digest
from provisioning.documents import draft_grant
from provisioning.errors import StepError, UnexpectedMachineError
from provisioning.genesis import image_of, load_trust
from provisioning.keys import load_signing_key
from provisioning.kits import GRANT, INIT_DATA
from provisioning.layout import Laboratory

REPORT_DATA = bytes(
    64
)  # binds nothing: the report is read here, by the machine's own organisation, and goes no further
NONCE_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What a machine's own hardware says about it, verified up to the vendor's root."""

    image: bytes  # 48 bytes, launch measurement
    host_data: bytes  # 32 bytes, digest of its init_data
    chip_id: bytes  # 64 bytes
    gpus: tuple[bytes, ...]  # ueids, 32 bytes each

    @property
    def hardware(self) -> tuple[HardwareId, ...]:
        """The identities of its hardware, as a grant names them.

        Raises:
            UnexpectedMachineError: One is masked (all zero), and so names no hardware.
        """
        try:
            return (
                HardwareId(kind="snp-chip-id", value=self.chip_id),
                *(HardwareId(kind="gpu-ueid", value=ueid) for ueid in self.gpus),
            )
        except ValidationError as error:
            raise UnexpectedMachineError(f"this machine's hardware cannot be granted: {describe(error)}") from error


def read_machine(attester: Attester, *, anchors: TrustAnchors, now: datetime) -> Machine:
    """Ask a machine's TEE device what the machine is, and verify the answers.

    Raises:
        AttesterUnavailableError: There is no device, or it does not answer.
        AttestationError: What it says does not verify under `anchors`.
    """
    cpu = verify_cpu(attester.collect_cpu(REPORT_DATA), anchors=anchors, now=now)
    gpus = []
    for index in range(len(attester.describe().devices)):
        nonce = secrets.token_bytes(NONCE_BYTES)
        device = attester.collect_device(index, nonce)
        gpus.append(verify_gpu(device.report, device.chain, nonce=nonce, anchors=anchors, now=now).ueid)
    return Machine(image=cpu.report.measurement, host_data=cpu.report.host_data, chip_id=cpu.chip_id, gpus=tuple(gpus))


@dataclass(frozen=True, slots=True, kw_only=True)
class Granted:
    """One grant that was signed and written."""

    grant: Grant
    sha256: bytes  # 32 bytes, of its payload: how cores and records name it


def grant_nodes(laboratory: Laboratory, *, nodes: Iterable[str] | None = None, now: datetime) -> Iterator[Granted]:
    """Sign a grant for each node's machine and put it into the node's kit; yields each when it is written.

    Args:
        laboratory: Founded; its machines run.
        nodes: Which; None for all of them.
        now: The time to verify and sign at.

    Raises:
        UsageError: There is no such node.
        StepError: The laboratory was not founded yet.
        UnexpectedMachineError: A machine was launched for something else than its kit says.
        AttestationError: A machine does not run, or what it says does not verify.
    """
    trust = load_trust(laboratory, now=now)
    image = image_of(trust)
    for node in laboratory.nodes if nodes is None else nodes:
        member = laboratory.member(node)
        machine = read_machine(SocketAttester(laboratory.tee_socket(node)), anchors=trust.anchors, now=now)
        _require_launched_for(laboratory, node, machine, image=image)
        key = load_signing_key(laboratory.organisation_key(member.organisation))
        path = laboratory.kit(node) / GRANT
        before = None
        if path.exists():
            envelope = Envelope.parse(path.read_bytes())
            before = (envelope.open(Grant, grant_document.KIND, [raw_public_key(key)]), envelope.digest)
        grant = draft_grant(laboratory, node, hardware=machine.hardware, image=image, succeeds=before, now=now)
        signed = Envelope.sign(grant, grant_document.KIND, [key])
        write_atomically(path, signed.encode(), mode=0o600)
        yield Granted(grant=grant, sha256=signed.digest)


def _require_launched_for(laboratory: Laboratory, node: str, machine: Machine, *, image: bytes) -> None:
    path = laboratory.kit(node) / INIT_DATA
    try:
        expected = init_data_digest(path.read_bytes())
    except OSError as error:
        raise StepError(
            f"the init_data of {node} cannot be read: {error.strerror}",
            hint=f"write its kit: cloister provision genesis {laboratory.directory}",
        ) from error
    for what, found, wanted in (("image", machine.image, image), ("init_data", machine.host_data, expected)):
        if found != wanted:
            raise UnexpectedMachineError(
                f"the machine of {node} was launched with {what} {found.hex()[:16]}…, expected {wanted.hex()[:16]}…",
                hint=f"launch it from the released image with --init-data {path}",
            )
