"""The very first contact with an attestation service: nothing about it is pinned yet, so its evidence alone decides.

A channel needs some certificate to believe before the evidence can travel. That one is taken from whoever answers and proves
nothing; what follows believes only the certificate whose key was in the evidence.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Literal

import grpc
from pydantic import TypeAdapter, ValidationError

from attestation.appraisal import appraise_service
from attestation.channel.credentials import open_channel, service_dns_name
from attestation.channel.status import UnreachableError, error_of
from attestation.core import ServiceInitData
from attestation.enrolment import CALL_SECONDS, fetch_service_evidence
from attestation.errors import AppraisalError
from attestation.service import attestation_pb2 as pb
from attestation.service import attestation_pb2_grpc as rpc
from attestation.service_claims import ServiceClaims
from attestation.trust_anchors import TrustAnchor, with_development
from policies.documents import Document, Sha256, check_strict_json, describe
from policies.errors import MalformedDocumentError
from policies.root import DevelopmentAnchor
from provisioning.errors import LaboratoryError, StepError, UnexpectedMachineError
from provisioning.layout import Laboratory

PROBE_SECONDS = 10.0


class _Anchor(Document):
    """One entry of anchors.json, which `cloister mock-tee roots` writes."""

    vendor: Literal["amd", "nvidia"]
    product: str
    sha256: Sha256


def load_anchors(path: Path) -> tuple[DevelopmentAnchor, ...]:
    """Read the mock vendor's roots.

    Raises:
        StepError: They have not been written yet.
        LaboratoryError: The file is not one that `cloister mock-tee roots` wrote.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise StepError(
            f"the mock vendor's roots {path} cannot be read: {error.strerror}",
            hint=f"write them: cloister mock-tee roots --dir {path.parent}",
        ) from error
    try:
        anchors = TypeAdapter(tuple[_Anchor, ...]).validate_json(json.dumps(check_strict_json(raw)), strict=True)
    except ValidationError as error:
        raise LaboratoryError(f"{path}: {describe(error)}") from error
    except MalformedDocumentError as error:
        raise LaboratoryError(f"{path}: {error.message}") from error
    if not anchors:
        raise LaboratoryError(f"{path} names no root, expected at least one")
    return tuple(
        DevelopmentAnchor(vendor=anchor.vendor, product=anchor.product, certificate_sha256=anchor.sha256)
        for anchor in anchors
    )


async def meet_service(
    laboratory: Laboratory,
    *,
    image: bytes,
    launched_for: ServiceInitData,
    anchors: Iterable[DevelopmentAnchor],
    now: datetime,
) -> ServiceClaims:
    """Fetch the attestation service's evidence and decide whether a root may name this service.

     1. whoever answers is asked for evidence over a fresh nonce; it verifies under a pinned vendor root
     2. it was launched for our organisations, our threshold and our trust domain
     3. its image is the expected one; it cannot be debugged or moved

    Raises:
        UnreachableError: Nobody answers.
        AttestationError: The evidence does not verify, or is not what was expected.
        UnexpectedMachineError: It was launched for others.
    """
    address, domain = laboratory.layout.addresses.enrol, laboratory.layout.trust_domain
    leaf = await asyncio.to_thread(_leaf_of_whoever_answers, laboratory)
    believed = with_development(
        TrustAnchor(vendor=anchor.vendor, product=anchor.product, sha256=anchor.certificate_sha256, mock=True)
        for anchor in anchors
    )
    claims = await fetch_service_evidence(  # 1
        address, trusted_pem=leaf, trust_domain=domain, anchors=believed, now=now
    )
    if claims.launched_for != launched_for or claims.core.td != domain:  # 2
        raise UnexpectedMachineError(
            f"the attestation service at {address} was launched for other organisations, another threshold or another "
            f"trust domain than this laboratory's",
            hint=f"launch its machine with --init-data {laboratory.service_init_data}",
        )
    findings = appraise_service(claims.cpu, image)  # 3
    if any(finding.status == "contraindicated" for finding in findings):
        raise AppraisalError("the attestation service is not what was expected", findings=findings)
    return claims


async def install_root(
    laboratory: Laboratory, service: ServiceClaims, *, root: bytes, roster: bytes, reference_values: bytes
) -> bytes:
    """Hand the first documents to the service that was verified; returns the root's digest (32 bytes).

    The service answers once it takes attestations. Repeating the same documents is answered in the same way.

    Raises:
        UnreachableError: It cannot be reached any more.
        RemoteError: It refused; it carries the service's own code and reason.
    """
    address, domain = laboratory.layout.addresses.enrol, laboratory.layout.trust_domain
    request = pb.InstallRootRequest(root=root, roster=roster, reference_values=reference_values)
    async with open_channel(address, trusted_pem=service.tls_certificate, name=service_dns_name(domain)) as channel:
        try:
            reply = await rpc.EnrolStub(channel).InstallRoot(request, timeout=CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise error_of(error, what=f"the attestation service at {address}") from error
    return bytes(reply.root_sha256)


def _leaf_of_whoever_answers(laboratory: Laboratory) -> bytes:
    """Return the certificate (PEM) that the other side of a TLS handshake presents. It proves nothing."""
    address = laboratory.layout.addresses.enrol
    host, _, port = address.rpartition(":")
    try:
        return ssl.get_server_certificate((host, int(port)), timeout=PROBE_SECONDS).encode()
    except OSError as error:
        raise UnreachableError(
            f"the attestation service at {address} cannot be reached: {error}",
            hint=f"start it: cloister attestation serve --config {laboratory.service_settings}",
        ) from error
