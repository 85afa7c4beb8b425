"""The service's own trust: it proves itself to everybody, and before its first root does nothing else.

Genesis: the service makes its keys inside its machine; k organisations verify its evidence offline and sign root 1, which pins
those keys. Only a root signed by k of the organisations in this machine's own init_data is taken, and only once.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from attestation.attester import Attester
from attestation.binding import service_report_data
from attestation.core import HPKE_SUITE, ServiceCore, ServiceInitData
from attestation.errors import MalformedEvidenceError
from attestation.evidence import CpuEvidence
from attestation.keys import BootKeys, certificate_spki_sha256
from attestation.service.keyring import Keyring
from attestation.service.register import Register
from attestation.snp.report import SnpReport
from attestation.trust import TrustContext, open_trust
from policies.audit.log import AuditLog
from policies.audit.record import Event
from policies.documents import Envelope, raw_public_key
from policies.errors import DocumentSignatureError, StateError
from policies.root import KIND as ROOT

DOCUMENTS = ("root", "roster", "reference-values")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceEvidenceParts:
    """What the service shows of itself."""

    core: bytes
    cpu: CpuEvidence
    init_data: bytes
    tls_certificate: bytes  # PEM
    ca_certificate: bytes  # DER


@dataclass(slots=True, kw_only=True)
class Genesis:
    """Evidence of the service itself, and its first root."""

    name: str
    trust_domain: str
    keys: BootKeys
    keyring: Keyring
    tls_certificate: bytes  # PEM
    init_data: bytes  # JSON, as the machine was launched with
    attester: Attester
    register: Register
    log: AuditLog
    clock: Callable[[], datetime]
    installed: Callable[[TrustContext], None]  # told once, when there is a root
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def evidence(self, client_nonce: bytes) -> ServiceEvidenceParts:
        """Bind the caller's nonce and every key of the service in one report.

        Raises:
            MalformedEvidenceError: The nonce does not have 32 bytes.
            AttesterUnavailableError: The TEE device does not answer.
        """
        if len(client_nonce) != 32:
            raise MalformedEvidenceError(f"client nonce has {len(client_nonce)} bytes, expected 32")
        # The measurement of this machine is whatever its hardware says: ask for a report once to learn it.
        image = SnpReport.parse(self.attester.collect_cpu(bytes(64)).report).measurement
        core = ServiceCore(
            v=1,
            td=self.trust_domain,
            tee="snp",
            boot=self.keys.boot,
            client_nonce=client_nonce,
            tls_spki=self.keys.tls_spki,
            ca_spki=certificate_spki_sha256(self.keyring.authority.certificate),
            result_key=raw_public_key(self.keyring.result),
            log_key=raw_public_key(self.keyring.log),
            hpke_suite=HPKE_SUITE,
            hpke_pk=self.keys.sealing.public,
            image=image,
        ).encode()
        return ServiceEvidenceParts(
            core=core,
            cpu=self.attester.collect_cpu(service_report_data("snp", core)),
            init_data=self.init_data,
            tls_certificate=self.tls_certificate,
            ca_certificate=self.keyring.authority.der,
        )

    def install(self, *, root: bytes, roster: bytes, reference_values: bytes) -> bytes:
        """Take the first root with its roster and reference values; returns the root's digest (32 bytes).

        Raises:
            StateError: There is a root already, and it is another one.
            DocumentSignatureError: Not signed by k of the organisations that this machine was launched for, or it
                pins other keys than this service has.
        """
        with self._lock:
            documents = dict(zip(DOCUMENTS, (root, roster, reference_values), strict=True))
            present = self.register.documents()
            if present:
                if present != documents:
                    raise StateError(
                        "this service has a root already; roots change by succession, not by a new genesis"
                    )
                return Envelope.parse(root).digest
            launched = ServiceInitData.parse(self.init_data)
            Envelope.parse(root).verify(ROOT, launched.organisation_keys, threshold=launched.threshold)
            trust = self.open(documents)
            self.log.append_critical(
                Event(
                    action="service.genesis",
                    actor=self.name,
                    object=trust.root.trust_domain,
                    via="InstallRoot",
                    decision="allow",
                    digests={
                        "root": trust.root_sha256,
                        "roster": trust.roster_sha256,
                        "reference-values": trust.reference_values_sha256,
                    },
                )
            )
            self.register.install(documents)
            self.installed(trust)
            return trust.root_sha256

    def open(self, documents: dict[str, bytes]) -> TrustContext:
        """Open installed documents, and make sure that the root pins this service's own keys.

        Raises:
            PolicyError: One does not open.
            DocumentSignatureError: The root is of another trust domain, or pins another service.
        """
        trust = open_trust(*(documents[name] for name in DOCUMENTS), now=self.clock())
        if trust.root.trust_domain != self.trust_domain:
            raise DocumentSignatureError(f"the root is of {trust.root.trust_domain}, expected {self.trust_domain}")
        pinned = trust.root.service
        for what, found, expected in (
            ("node authority", pinned.ca_certificate, self.keyring.authority.der),
            ("result key", pinned.result_key, raw_public_key(self.keyring.result)),
            ("log key", pinned.log_key, raw_public_key(self.keyring.log)),
        ):
            if found != expected:
                raise DocumentSignatureError(
                    f"the root pins {what} {hashlib.sha256(found).hexdigest()[:16]}, this service has "
                    f"{hashlib.sha256(expected).hexdigest()[:16]}",
                    hint="was the state folder of the service replaced since the root was signed?",
                )
        return trust
