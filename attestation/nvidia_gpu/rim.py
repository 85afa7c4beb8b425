"""Reference integrity manifests (RIM): which measurements NVIDIA released for a driver, a VBIOS or a switch's BIOS.

Decides whether a manifest is NVIDIA's and is the one that its id names. Whether a device measured the same is decided in
`rim_match`. Everything is read from the tree that the signature covers, never from the file that arrived.

Source: NVIDIA nvtrust, RIM files of https://rim.attestation.nvidia.com/v1/rim/<id>; ISO/IEC 19770-2:2015 (SWID tags) in
the TCG Reference Integrity Manifest Information Model; W3C XML Signature 1.1.
"""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Literal, Protocol

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from lxml import etree  # type: ignore[import-untyped]
from signxml.algorithms import DigestAlgorithm, SignatureMethod
from signxml.exceptions import SignXMLException
from signxml.verifier import SignatureConfiguration, XMLVerifier

from attestation.certificates import common_name, is_ca, read_der, verify_path
from attestation.errors import EndorsementError, MalformedEvidenceError, SignatureError
from attestation.nvidia_gpu.chain import check_signature, may_sign
from attestation.trust_anchors import TrustAnchor, TrustAnchors

RIM_ROOT = "CoRIM signing"  # product of the trust anchor
MAX_RIM_SIZE = 256 * 1024  # bytes; genuine manifests are below 32 KiB
INDICES = range(64)  # of the manifest, from 0; SPDM counts its blocks from 1

RimKind = Literal["driver", "vbios", "switch"]

_CHAIN_LENGTHS = range(3, 5)  # signer, one or two authorities, root
# "HCC RIM L4 Signer" of GPUs, "NVIDIA Reference Value L4 LS10" of switches. The authority above also certifies OCSP
# responders, which must not sign manifests.
_SIGNER_NAME = re.compile(r"(?:.* )?(?:HCC RIM L4 Signer|Reference Value L4 [A-Z0-9_]+)")

_IDS: Mapping[RimKind, re.Pattern[str]] = {
    "driver": re.compile(r"NV_GPU_(?:CC_)?DRIVER_(?P<model>[A-Z0-9]{1,16})_(?P<version>[0-9]{1,9}(\.[0-9]{1,9}){1,3})"),
    "vbios": re.compile(r"NV_GPU_VBIOS(?:_[A-Z0-9]{1,16}){3}_(?P<version>[0-9A-F]{10})"),
    "switch": re.compile(r"NV_SWITCH_BIOS(?:_[A-Z0-9]{1,16}){3}_(?P<version>[0-9A-F]{10})"),
}
_EDITIONS: Mapping[RimKind, str] = {"driver": "GPU", "vbios": "GPU", "switch": "SWITCH"}

_DS = "{http://www.w3.org/2000/09/xmldsig#}"
_SWID = "{http://standards.iso.org/iso/19770/-2/2015/schema.xsd}"
_HASH = "{http://www.w3.org/2001/04/xmlenc#sha384}Hash"
_C14N_1_1 = {"Algorithm": "http://www.w3.org/2006/12/xml-c14n11"}
_ENVELOPED = {"Algorithm": "http://www.w3.org/2000/09/xmldsig#enveloped-signature"}
_ECDSA_SHA384 = {"Algorithm": "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384"}
_SHA384 = {"Algorithm": "http://www.w3.org/2001/04/xmldsig-more#sha384"}

_DECLARATION = re.compile(
    rb"""<\?xml version=["']1\.0["']( encoding=["'](utf-8|UTF-8)["'])?( standalone=["']yes["'])? ?\?>"""
)
_INDEX = re.compile(r"0|[1-9][0-9]?")
_DIGEST = re.compile(r"[0-9a-fA-F]{96}")
_DIGEST_SIZE = "48"  # bytes

_Outline = tuple[str, dict[str, str], tuple["_Outline", ...]]


class _Element(Protocol):
    """What is used of an lxml element; lxml itself is not typed."""

    tag: str
    text: str | None
    attrib: Mapping[str, str]

    def __iter__(self) -> Iterator[_Element]: ...

    def iter(self, tag: str) -> Iterator[_Element]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedRim:
    """What NVIDIA released, signed under a pinned root, and about what the id names."""

    rim_id: str  # "NV_GPU_DRIVER_GH100_550.90.07"
    kind: RimKind
    version: str  # "550.90.07" or "96.00.9F.00.01", as it is signed
    measurements: Mapping[int, tuple[bytes, ...]]  # active indices, from 0, to the accepted digests of 48 bytes
    anchor: TrustAnchor
    chain: tuple[x509.Certificate, ...]  # signer first, the root last


def verify_rim(xml: bytes, *, rim_id: str, anchors: TrustAnchors, now: datetime) -> VerifiedRim:
    """Verify one manifest.

    1. The id is one, and the file is XML without anything that XML parsers disagree on.
    2. The root element has one signature, of exactly the form that NVIDIA's have: over the whole document.
    3. The certificates inside lead from a manifest signer to the pinned root at `now`.
    4. The signature verifies with the first one's key.
    5. The signed tree is a manifest: one version, each index at most once, digests of 48 bytes.
    6. It is of the kind, model and version that the id names.

    Args:
        xml: The manifest as the service gives it, base64 removed; at most 256 KiB.
        rim_id: What the manifest must be, such as `rim_match.rim_ids` makes from a report.
        anchors: The pinned roots; only the one for manifests counts.
        now: The time to verify at, with a time zone.

    Raises:
        MalformedEvidenceError: Step 1 or 5, or a certificate does not decode.
        SignatureError: Step 2 to 4.
        EndorsementError: Step 6.
    """
    # 1. Name and syntax.
    kind, named = _parse_id(rim_id)
    body = _plain_xml(xml)
    root = _parse_xml(body)

    # 2. The form of the signature.
    certificates = _certificates(_only_signature(root))

    # 3. The signer.
    anchor = anchors.find("nvidia", certificates[-1], product=RIM_ROOT)
    chain = tuple(read_der(der, what="RIM") for der in certificates)
    _verify_signer(chain, now=now)

    # 4. The signature.
    signed = _verify_signature(body, signer=chain[0], now=now)

    # 5. The manifest.
    meta, measurements = _parse_manifest(signed)

    # 6. The right one.
    version = _require_named(meta, rim_id=rim_id, kind=kind, named=named)
    return VerifiedRim(rim_id=rim_id, kind=kind, version=version, measurements=measurements, anchor=anchor, chain=chain)


def _parse_id(rim_id: str) -> tuple[RimKind, Mapping[str, str]]:
    for kind, pattern in _IDS.items():
        if (match := pattern.fullmatch(rim_id)) is not None:
            return kind, match.groupdict()
    raise MalformedEvidenceError(f"RIM id is {rim_id!r:.80}, expected one of a driver, a VBIOS or a switch BIOS")


def _plain_xml(xml: bytes) -> bytes:
    """Return the document without its declaration; refuse all markup but elements.

    Document types and entities can read files and grow without bound; comments, CDATA and processing instructions are
    where canonical form and file differ. No genuine manifest has any of them, so they are refused before a parser runs.
    """
    if len(xml) > MAX_RIM_SIZE:
        raise MalformedEvidenceError(f"RIM has {len(xml)} bytes, expected at most {MAX_RIM_SIZE}")
    body = _DECLARATION.sub(b"", xml, count=1) if xml.startswith(b"<?xml ") else xml
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedEvidenceError(f"RIM is not UTF-8 at byte {error.start}, expected XML in UTF-8") from error
    for forbidden in ("<!", "<?", "\0"):  # zeros: UTF-16, in which the others would not be found
        if forbidden in text:
            raise MalformedEvidenceError(f"RIM has {forbidden!r} at {text.index(forbidden)}, expected only elements")
    return body


def _parser() -> etree.XMLParser:
    """Return a parser that opens no file, asks no network, expands no entity and keeps libxml2's limits."""
    return etree.XMLParser(
        encoding="utf-8",
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        dtd_validation=False,
        huge_tree=False,
        recover=False,
    )


def _parse_xml(body: bytes) -> _Element:
    try:
        root: _Element = etree.fromstring(body, parser=_parser())
    except (etree.LxmlError, ValueError) as error:
        raise MalformedEvidenceError(f"RIM is not well-formed XML: {error}") from error
    if root.tag != f"{_SWID}SoftwareIdentity":
        raise MalformedEvidenceError(f"RIM starts with {root.tag:.80}, expected SoftwareIdentity of ISO 19770-2:2015")
    return root


def _only_signature(root: _Element) -> _Element:
    """Return the signature, which must be the only one, directly below the root, and over the whole document.

    A signature further down, or one that refers to a part, signs something else than what would be read (signature
    wrapping: Somorovsky et al. 2012).
    """
    below = [child for child in root if child.tag == f"{_DS}Signature"]
    count = sum(1 for _ in root.iter(f"{_DS}Signature"))
    if len(below) != 1 or count != 1:
        raise SignatureError(f"RIM has {count} signatures, {len(below)} below its root, expected one, below the root")
    parts = tuple(below[0])
    if _tags(below[0]) != (f"{_DS}SignedInfo", f"{_DS}SignatureValue", f"{_DS}KeyInfo"):
        raise SignatureError("RIM signature has other parts than SignedInfo, SignatureValue and KeyInfo")
    if (found := _outline(parts[0])) != _SIGNED_INFO:
        raise SignatureError(
            f"RIM signature covers {found!r:.400}, expected the document, C14N 1.1, SHA-384 and ECDSA alone"
        )
    return below[0]


def _outline(element: _Element) -> _Outline:
    return (element.tag, dict(element.attrib), tuple(_outline(child) for child in element))


def _ds(name: str, attributes: dict[str, str] | None = None, *children: _Outline) -> _Outline:
    return (_DS + name, attributes or {}, children)


_SIGNED_INFO = _ds(
    "SignedInfo",
    None,
    _ds("CanonicalizationMethod", _C14N_1_1),
    _ds("SignatureMethod", _ECDSA_SHA384),
    _ds(
        "Reference",
        {"URI": ""},
        _ds("Transforms", None, _ds("Transform", _ENVELOPED), _ds("Transform", _C14N_1_1)),
        _ds("DigestMethod", _SHA384),
        _ds("DigestValue"),
    ),
)


def _tags(element: _Element) -> tuple[str, ...]:
    return tuple(child.tag for child in element)


def _certificates(signature: _Element) -> tuple[bytes, ...]:
    """Return the DER of each certificate of KeyInfo, in the order of the file; there is at least one."""
    key_info = tuple(signature)[2]
    if _tags(key_info) != (f"{_DS}X509Data",):
        raise SignatureError("RIM signature has other key information than X509Data, expected certificates alone")
    elements = tuple(next(iter(key_info)))
    if not elements or any(element.tag != f"{_DS}X509Certificate" for element in elements):
        raise SignatureError(
            "RIM signature has no certificates, or something between them, expected certificates alone"
        )
    try:
        return tuple(b64decode("".join((element.text or "").split()), validate=True) for element in elements)
    except (binascii.Error, ValueError) as error:
        raise MalformedEvidenceError(f"certificate of the RIM is not base64: {error}") from error


def _verify_signer(chain: tuple[x509.Certificate, ...], *, now: datetime) -> None:
    """Verify the path to the root, which is pinned, and that the first certificate is for signing manifests."""
    if len(chain) not in _CHAIN_LENGTHS:
        raise SignatureError(f"RIM has {len(chain)} certificates, expected {_CHAIN_LENGTHS[0]} or {_CHAIN_LENGTHS[-1]}")
    signer = chain[0]
    name = common_name(signer.subject)
    if _SIGNER_NAME.fullmatch(name) is None or is_ca(signer) or not may_sign(signer) or _has_extended_usage(signer):
        raise SignatureError(f"RIM is signed by {name!r}, expected a manifest signer (RIM L4) that may sign")
    key = signer.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise SignatureError("RIM signer's key is not on P-384, expected ECDSA P-384")
    verify_path(chain, check_signature=check_signature, now=now)


def _has_extended_usage(certificate: x509.Certificate) -> bool:
    return any(isinstance(extension.value, x509.ExtendedKeyUsage) for extension in certificate.extensions)


def _verify_signature(body: bytes, *, signer: x509.Certificate, now: datetime) -> _Element:
    """Return the tree that the signature covers, parsed from its canonical form."""
    configuration = SignatureConfiguration(
        location="./",
        expect_references=1,
        signature_methods=frozenset({SignatureMethod.ECDSA_SHA384}),
        digest_algorithms=frozenset({DigestAlgorithm.SHA384}),
        verification_time=now,
    )
    try:
        result = XMLVerifier().verify(
            body,
            x509_cert=signer,  # never the one that KeyInfo names
            expect_config=configuration,
            parser=_parser(),
            validate_schema=False,  # `_only_signature` asks for more than the schema does
        )
    except (SignXMLException, InvalidSignature, etree.LxmlError, ValueError, TypeError) as error:
        raise SignatureError(f"RIM signature does not verify with its signer's key: {error}") from error
    if isinstance(result, list) or result.signed_xml is None:
        raise SignatureError("RIM signature covers something else than one XML document")
    signed: _Element = result.signed_xml
    return signed


def _parse_manifest(root: _Element) -> tuple[Mapping[str, str], Mapping[int, tuple[bytes, ...]]]:
    """Return the attributes of Meta, and the active measurements."""
    resources = tuple(_only(root, "Payload"))
    measurements, seen = dict[int, tuple[bytes, ...]](), set[int]()
    for resource in resources:
        attributes = resource.attrib
        index = attributes.get("index", "")
        active = {"True": True, "False": False}.get(attributes.get("active", ""))
        if (resource.tag, attributes.get("type")) != (f"{_SWID}Resource", "Measurement") or active is None:
            raise MalformedEvidenceError(
                f"RIM payload has a {resource.tag:.80} that is no active or inactive Measurement"
            )
        if _INDEX.fullmatch(index) is None or int(index) not in INDICES or int(index) in seen:
            raise MalformedEvidenceError(
                f"RIM has index {index!r:.20}, expected each of 0 to {INDICES[-1]} at most once"
            )
        seen.add(int(index))
        if active:
            measurements[int(index)] = _alternatives(attributes, index=index)
    return _only(root, "Meta").attrib, MappingProxyType(measurements)


def _only(root: _Element, name: str) -> _Element:
    found = [child for child in root if child.tag == f"{_SWID}{name}"]
    if len(found) != 1:
        raise MalformedEvidenceError(f"RIM has {len(found)} {name} elements, expected one")
    return found[0]


def _alternatives(attributes: Mapping[str, str], *, index: str) -> tuple[bytes, ...]:
    """Return Hash0, Hash1 and so on: any one of them is what NVIDIA released."""
    hashes = {name: value for name, value in attributes.items() if name.startswith(_HASH)}
    expected = [f"{_HASH}{number}" for number in range(len(hashes))]
    if attributes.get("alternatives") != str(len(hashes)) or sorted(hashes) != sorted(expected) or not hashes:
        raise MalformedEvidenceError(f"RIM index {index} has other digests than the Hash0, Hash1, ... that it counts")
    if attributes.get("size") != _DIGEST_SIZE or not all(_DIGEST.fullmatch(value) for value in hashes.values()):
        raise MalformedEvidenceError(f"RIM index {index} has a digest that is not SHA-384, expected 96 hex digits")
    return tuple(bytes.fromhex(hashes[name]) for name in expected)


def _require_named(meta: Mapping[str, str], *, rim_id: str, kind: RimKind, named: Mapping[str, str]) -> str:
    """Return the signed version, once edition, model and version are those of the id."""
    version = meta.get("colloquialVersion", "")
    comparable = version if kind == "driver" else version.replace(".", "").upper()
    for field, found, expected in (
        ("edition", meta.get("edition", "none"), _EDITIONS[kind]),
        ("product", meta.get("product", "none"), named.get("model", meta.get("product", "none"))),
        ("version", comparable, named["version"]),
    ):
        if found != expected:
            raise EndorsementError(
                f"RIM has {field} {found!r:.40}, expected {expected} as its id {rim_id} says",
                hint="fetch the manifest again by this id; the file belongs to another driver, VBIOS or device",
            )
    return version
