"""An Intel of the tests' own: a platform, its certificates, its collateral and its quotes, with everything open to be made wrong.

Encodes quotes field by field, independently of `attestation.tdx.quote` and `attestation.tdx.report`.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestation.tdx.collateral import TdxCollateral
from attestation.trust_anchors import TrustAnchor, TrustAnchors
from tests.fakes.lab_x509 import CA, certificate, ec_key, name, pem, usage

ROOT, SIGNER = "Intel SGX Root CA", "Intel SGX TCB Signing"
PCK_CA, PCK = "Intel SGX PCK Platform CA", "Intel SGX PCK Certificate"
SGX_OID = "1.2.840.113741.1.13.1"
PPID, INSTANCE, FMSPC = b"\x11" * 16, b"\x22" * 16, bytes.fromhex("90c06f000000")
CPU_SVN = bytes((3, 3, 2, 2, 4, 1, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0))
TEE_TCB_SVN = bytes((7, 1, 4)) + bytes(13)
QE_MR_SIGNER = b"\xdc" * 32
LAST, UNTIL = datetime(2026, 5, 1, tzinfo=UTC), datetime(2026, 7, 1, tzinfo=UTC)
SERIALS = {PCK_CA: 0x7002, SIGNER: 0x7003, PCK: 0x7004}
SEPT_VE_DISABLE = 1 << 28


@cache
def key(owner: str) -> ec.EllipticCurvePrivateKey:
    """Return the P-256 key of the root, an authority, the signer, the platform or its attestation key."""
    return ec_key(ec.SECP256R1())


def issue(subject: str, issuer: str, **changes) -> bytes:
    """Return a certificate of the lab's, SHA-256, an authority if its name says CA."""
    authority = subject.endswith("CA")
    attributes = {
        "key": key(subject),
        "signer": key(issuer),
        "ca": CA if authority else x509.BasicConstraints(ca=False, path_length=None),
        "key_usage": usage(sign=not authority, certify=authority),
        "digest": SHA256(),
        "serial": SERIALS.get(subject, 0x7001),
    }
    return certificate(subject, issuer, **attributes | changes)


@cache
def root() -> bytes:
    return issue(ROOT, ROOT)


@cache
def pck_ca() -> bytes:
    return issue(PCK_CA, ROOT)


@cache
def pck(flags: tuple[bool, bool, bool] | None = (True, True, False)) -> bytes:
    return issue(PCK, PCK_CA, extensions={SGX_OID: sgx_extension(flags)})


@cache
def signer() -> bytes:
    return issue(SIGNER, ROOT)


@cache
def pck_pem() -> bytes:
    return pem(pck(), pck_ca(), root())


@cache
def signer_pem() -> bytes:
    return pem(signer(), root())


def anchors(*, der: bytes | None = None, mock: bool = True) -> TrustAnchors:
    fingerprint = hashlib.sha256(root() if der is None else der).digest()
    return TrustAnchors((TrustAnchor(vendor="intel", product="SGX Root", sha256=fingerprint, mock=mock),))


def tlv(tag: int, body: bytes) -> bytes:
    size = len(body)
    width = 0 if size < 128 else 1 if size < 256 else 2
    return bytes((tag, 0x80 + width) if width else (tag,)) + size.to_bytes(width or 1, "big") + body


def entry(place: tuple[int, ...], value: bytes) -> bytes:
    return tlv(0x30, tlv(6, bytes.fromhex("2a864886f84d010d01") + bytes(place)) + value)


def sgx_extension(flags: tuple[bool, bool, bool] | None) -> bytes:
    """Return Intel's extension of a PCK certificate; `flags`: dynamic platform, cached keys, SMT; None: a processor's."""
    components = b"".join(entry((2, place), tlv(2, bytes((svn,)))) for place, svn in enumerate(CPU_SVN, start=1))
    tcb = components + entry((2, 17), tlv(2, b"\x0d")) + entry((2, 18), tlv(4, CPU_SVN))
    configuration = [entry((7, place), tlv(1, b"\xff" if on else b"\0")) for place, on in enumerate(flags or (), 1)]
    platform = (entry((6,), tlv(4, INSTANCE)), entry((7,), tlv(0x30, b"".join(configuration)))) if flags else ()
    parts = (
        entry((1,), tlv(4, PPID)),
        entry((2,), tlv(0x30, tcb)),
        entry((3,), tlv(4, bytes(2))),
        entry((4,), tlv(4, FMSPC)),
        entry((5,), tlv(10, b"\x01")),
        *platform,
    )
    return tlv(0x30, b"".join(parts))


def crl(
    issuer: str = PCK_CA,
    *,
    revoked: str | None = None,
    signed_by: str | None = None,
    critical=False,
    digest=None,
    **time,
) -> bytes:
    """Return a revocation list, DER; `time`: last and until."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(name(issuer))
        .last_update(time.get("last", LAST))
        .next_update(time.get("until", UNTIL))
        .add_extension(x509.CRLNumber(1), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key(issuer).public_key()), critical=False)
    )
    if critical:
        builder = builder.add_extension(x509.DeltaCRLIndicator(1), critical=True)
    if revoked is not None:
        entry_builder = x509.RevokedCertificateBuilder().serial_number(SERIALS[revoked]).revocation_date(LAST)
        builder = builder.add_revoked_certificate(entry_builder.build())
    return builder.sign(key(signed_by or issuer), digest or SHA256()).public_bytes(Encoding.DER)


def crl_without_end(issuer: str = PCK_CA) -> bytes:
    """Return a revocation list, signed, that has no nextUpdate."""
    tbs = x509.load_der_x509_crl(crl(issuer)).tbs_certlist_bytes
    header = 2 + (tbs[1] & 0x7F) * (tbs[1] >> 7)
    edited = tlv(0x30, tbs[header:].replace(b"\x17\x0d260701000000Z", b""))
    algorithm = tlv(0x30, tlv(6, bytes.fromhex("2a8648ce3d040302")))  # ecdsa-with-SHA256
    signature = key(issuer).sign(edited, ec.ECDSA(SHA256()))
    return tlv(0x30, edited + algorithm + tlv(3, b"\0" + signature))


def sign(owner: str, message: bytes) -> bytes:
    """Return r || s, big-endian, 64 bytes."""
    r, s = decode_dss_signature(key(owner).sign(message, ec.ECDSA(SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def svns(raw: bytes) -> list[dict]:
    return [{"svn": svn} for svn in raw]


def level(status: str = "UpToDate", *, tdx: bytes = bytes((5, 0, 4)) + bytes(13), advisories=(), sgx: bytes = CPU_SVN):
    tcb = {"sgxtcbcomponents": svns(sgx), "pcesvn": 13, "tdxtcbcomponents": svns(tdx)}
    return {"tcb": tcb, "tcbDate": "2026-01-01T00:00:00Z", "tcbStatus": status, "advisoryIDs": list(advisories)}


def svn_level(svn: int, status: str = "UpToDate") -> dict:
    return {"tcb": {"isvsvn": svn}, "tcbDate": "2026-01-01T00:00:00Z", "tcbStatus": status}


def body(**changes) -> dict:
    times = {"issueDate": "2026-05-15T00:00:00Z", "nextUpdate": "2026-06-15T00:00:00Z"}
    return times | {"tcbEvaluationDataNumber": 18} | changes


def tcb_info(**changes) -> str:
    module = {"mrsigner": "00" * 48, "attributes": "00" * 8, "attributesMask": "FF" * 8}
    identity = {"id": "TDX_01"} | module | {"tcbLevels": [svn_level(7), svn_level(2, "OutOfDate")]}
    parts = {"id": "TDX", "version": 3, "fmspc": FMSPC.hex(), "pceId": "0000", "tcbType": 0}
    parts |= {"tdxModule": module, "tdxModuleIdentities": [identity], "tcbLevels": [level()]}
    return json.dumps(body(**parts | changes), separators=(",", ":"))


def qe_identity(**changes) -> str:
    parts = {"id": "TD_QE", "version": 2, "miscselect": "00000000", "miscselectMask": "FFFFFFFF"}
    parts |= {"attributes": "11" + "00" * 15, "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000"}
    parts |= {"mrsigner": QE_MR_SIGNER.hex(), "isvprodid": 2, "tcbLevels": [svn_level(4)]}
    return json.dumps(body(**parts | changes), separators=(",", ":"))


def collateral(*, tcb: str | None = None, qe: str | None = None, tcb_signer: str = SIGNER, **changes) -> TdxCollateral:
    """Return collateral that fits the lab's quotes; `tcb` and `qe` are signed as they are."""
    tcb_text, qe_text = tcb or tcb_info(), qe or qe_identity()
    good = TdxCollateral(
        root_ca_crl=crl(ROOT),
        pck_crl=crl(PCK_CA),
        tcb_info_issuer_chain=signer_pem(),
        tcb_info=tcb_text,
        tcb_info_signature=sign(tcb_signer, tcb_text.encode()),
        qe_identity_issuer_chain=signer_pem(),
        qe_identity=qe_text,
        qe_identity_signature=sign(SIGNER, qe_text.encode()),
    )
    return replace(good, **changes)


def frame(given: TdxCollateral, **changes) -> bytes:
    """Return collateral as the JSON that PCCS and dcap-qvl write."""
    parts = {
        "pck_crl_issuer_chain": pem(pck_ca(), root()).decode(),
        "root_ca_crl": given.root_ca_crl.hex(),
        "pck_crl": given.pck_crl.hex(),
        "tcb_info_issuer_chain": given.tcb_info_issuer_chain.decode(),
        "tcb_info": given.tcb_info,
        "tcb_info_signature": given.tcb_info_signature.hex(),
        "qe_identity_issuer_chain": given.qe_identity_issuer_chain.decode(),
        "qe_identity": given.qe_identity,
        "qe_identity_signature": given.qe_identity_signature.hex(),
    }
    return json.dumps({name: value for name, value in (parts | changes).items() if value is not None}).encode()


@dataclass(frozen=True, kw_only=True)
class LabQuote:
    """One quote; `but` changes an attribute, and everything is signed after the change."""

    version: int = 4
    key_type: int = 2
    tee: int = 0x81
    vendor: bytes = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
    body_type: int | None = None
    body_size: int | None = None
    extended: bool = False  # TDX 1.5; version 5 only
    tee_tcb_svn: bytes = TEE_TCB_SVN
    mr_signer_seam: bytes = bytes(48)
    seam_attributes: bytes = bytes(8)
    attributes: int = SEPT_VE_DISABLE
    xfam: int = 0x602E7
    report_data: bytes = bytes(range(64))
    tee_tcb_svn_2: bytes = TEE_TCB_SVN
    mr_service_td: bytes = bytes(48)
    qe_isv_svn: int = 4
    qe_prod_id: int = 2
    qe_mr_signer: bytes = QE_MR_SIGNER
    qe_attributes: bytes = bytes((0x15,)) + bytes(7) + bytes((0xE7,)) + bytes(7)
    qe_misc_select: int = 0
    qe_report_data_tail: bytes = bytes(32)
    qe_signed_by: str = PCK
    vouched_key: str = "attestation"
    report_signed_by: str = "attestation"
    auth: bytes = bytes(range(32))
    pck_chain: bytes = field(default_factory=pck_pem)
    inner_type: int = 5
    outer_type: int = 6
    inner_behind: bytes = b""
    outer_behind: bytes = b""
    padding: bytes = b""

    def but(self, **changes) -> LabQuote:
        return replace(self, **changes)

    def report(self) -> bytes:
        base = (
            self.tee_tcb_svn
            + b"\x5e" * 48
            + self.mr_signer_seam
            + self.seam_attributes
            + self.attributes.to_bytes(8, "little")
            + self.xfam.to_bytes(8, "little")
            + b"\x4d" * 48
            + b"".join(bytes((mark,)) * 48 for mark in (0xC1, 0x01, 0x02))
            + b"".join(bytes((0xA0 + number,)) * 48 for number in range(4))
            + self.report_data
        )
        return base + (self.tee_tcb_svn_2 + self.mr_service_td if self.extended else b"")

    def signed(self) -> bytes:
        numbers = ((self.version, 2), (self.key_type, 2), (self.tee, 4), (0, 2), (0, 2))
        header = b"".join(number.to_bytes(size, "little") for number, size in numbers) + self.vendor + b"\x33" * 20
        report = self.report()
        kind = self.body_type if self.body_type is not None else 3 if self.extended else 2
        size = len(report) if self.body_size is None else self.body_size
        descriptor = kind.to_bytes(2, "little") + size.to_bytes(4, "little") if self.version == 5 else b""
        return header + descriptor + report

    def qe_report(self) -> bytes:
        bound = hashlib.sha256(public(self.vouched_key) + self.auth).digest() + self.qe_report_data_tail
        return (
            CPU_SVN
            + self.qe_misc_select.to_bytes(4, "little")
            + bytes(28)
            + self.qe_attributes
            + b"\xe0" * 32
            + bytes(32)
            + self.qe_mr_signer
            + bytes(96)
            + self.qe_prod_id.to_bytes(2, "little")
            + self.qe_isv_svn.to_bytes(2, "little")
            + bytes(60)
            + bound
        )

    def encode(self) -> bytes:
        """Return the signed quote."""
        signed, qe_report = self.signed(), self.qe_report()
        inner = certification(self.inner_type, self.pck_chain) + self.inner_behind
        auth = len(self.auth).to_bytes(2, "little") + self.auth
        certified = qe_report + sign(self.qe_signed_by, qe_report) + auth + inner
        outer = certification(self.outer_type, certified) + self.outer_behind
        data = sign(self.report_signed_by, signed) + public("attestation") + outer
        return signed + len(data).to_bytes(4, "little") + data + self.padding


def certification(kind: int, given: bytes) -> bytes:
    return kind.to_bytes(2, "little") + len(given).to_bytes(4, "little") + given


def public(owner: str) -> bytes:
    """Return x || y, 64 bytes."""
    return key(owner).public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]
