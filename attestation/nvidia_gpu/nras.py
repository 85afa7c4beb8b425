"""Tokens of NVIDIA's Remote Attestation Service: what NVIDIA itself says about devices, for those who prefer to ask it.

A detached Entity Attestation Token is an overall token and one for each device; the overall one signs digests of the
others. Decides whether NVIDIA signed all of them, for this session, and that they belong together (`verify_token`), and
whether they say that all is well (`appraise_token`). Keys are handed in: a key that comes with a token proves nothing.

Source: https://docs.nvidia.com/attestation/, "NRAS" and its JWKS https://nras.attestation.nvidia.com/.well-known/jwks.json;
RFC 7515 (JWS), RFC 7518 section 3.4 (ES384: r || s, 96 bytes), RFC 9711 (EAT).
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import re
from base64 import urlsafe_b64decode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from types import MappingProxyType
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384

from attestation.certificates import read_der
from attestation.errors import BindingMismatchError, EndorsementError, MalformedEvidenceError, SignatureError
from attestation.findings import Finding, worst_first
from policies.documents import check_strict_json
from policies.errors import MalformedDocumentError

ISSUER = "https://nras.attestation.nvidia.com"
MAX_TOKEN_SIZE = 256 * 1024  # bytes of JSON; a device takes about 3 KiB
MAX_DEVICES = 16

_SUBJECT = "NVIDIA-PLATFORM-ATTESTATION"
_ALGORITHM = "ES384"
_SIGNATURE_SIZE = 96
_BASE64URL = re.compile(r"[A-Za-z0-9_-]+")  # RFC 7515 section 2: no padding
_STATUS_CLAIMS: Mapping[str, str] = {"x-nvidia-cert-status": "valid", "x-nvidia-cert-ocsp-status": "good"}

NrasKeys = Mapping[str, ec.EllipticCurvePublicKey]  # by key id
Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class NrasClaims:
    """What NVIDIA's service signed about the devices of one session; `appraise_token` says whether all is well."""

    overall: Json  # claims of the overall token
    devices: Mapping[str, Json]  # "GPU-0" to the claims of its token; at least one
    expires_at: int  # seconds since 1970: the earliest end of any of the tokens


def parse_keys(jwks: bytes) -> NrasKeys:
    """Read the service's keys from a JWKS that the caller pins.

    Args:
        jwks: JSON Web Key Set; each key as coordinates, as a certificate (x5c), or as both, which must then agree.

    Raises:
        MalformedEvidenceError: Not a key set, a key that is not on P-384, or a key id twice.
    """
    entries = _read_json(jwks, what="NRAS key set").get("keys")
    if not isinstance(entries, list) or not entries:
        raise MalformedEvidenceError("NRAS key set has no keys, expected at least one")
    keys: dict[str, ec.EllipticCurvePublicKey] = {}
    for entry in entries:
        key_id = entry.get("kid") if isinstance(entry, dict) else None
        if not isinstance(key_id, str) or key_id in keys:
            raise MalformedEvidenceError(f"NRAS key set has key id {key_id!r:.80} twice or none, expected one for each")
        keys[key_id] = _parse_key(entry)
    return MappingProxyType(keys)


def verify_token(token: bytes, *, keys: NrasKeys, nonce: bytes, now: datetime, issuer: str = ISSUER) -> NrasClaims:
    """Verify one detached token.

    1. It is an overall token and a map of device tokens, and nothing else.
    2. Every one of them is signed with ES384 by a key of `keys`, and NVIDIA's service issued it.
    3. Every one is in force at `now`.
    4. Every one answers to this session's nonce.
    5. The overall token has a digest for each device token, and there is a device token for each digest; at least one.

    Args:
        token: JSON, as the service gave it; at most 256 KiB.
        keys: From `parse_keys`.
        nonce: 32 bytes, what this session expects.
        now: The time to verify at, with a time zone.
        issuer: Of another instance of the service; NVIDIA's own by default.

    Raises:
        MalformedEvidenceError: Step 1, or a token or claim does not decode.
        SignatureError: Step 2 (signature, algorithm, key) or 5.
        EndorsementError: Step 2 (issuer, subject) or 3.
        BindingMismatchError: Step 4.
    """
    # 1. Shape.
    overall_jwt, device_jwts = _split(token)

    # 2. Signatures and issuers.
    overall = _verify_jwt(overall_jwt, keys, what="overall token")
    devices = {name: _verify_jwt(jwt, keys, what=f"token of {name}") for name, jwt in device_jwts.items()}
    every = {"overall": overall, **devices}
    for name, claims in every.items():
        if claims.get("iss") != issuer:
            raise EndorsementError(f"NRAS token {name} is issued by {claims.get('iss')!r:.80}, expected {issuer}")
    if overall.get("sub") != _SUBJECT:
        raise EndorsementError(f"NRAS token has subject {overall.get('sub')!r:.80}, expected {_SUBJECT}")

    # 3. Time.
    expires_at = min(_require_in_force(claims, name, now=now) for name, claims in every.items())

    # 4. Nonce.
    for name, claims in every.items():
        _require_nonce(claims, name, nonce)

    # 5. Which belong together. NVIDIA's own SDK does not compare, and takes an empty map.
    _require_digests(overall, device_jwts)
    return NrasClaims(overall=overall, devices=MappingProxyType(devices), expires_at=expires_at)


def appraise_token(claims: NrasClaims) -> tuple[Finding, ...]:
    """Return everything that NVIDIA's service says is not well, worst first; nothing where it vouches for all."""
    findings = [*_expect(claims.overall, "overall", {"x-nvidia-overall-att-result": True})]
    for name, device in claims.devices.items():
        kind = "switch" if "SWITCH" in name.upper() else "gpu"
        report = f"x-nvidia-{kind}-attestation-report"
        required: Json = {
            "measres": "success",
            "secboot": True,
            "dbgstat": "disabled",
            f"{report}-nonce-match": True,
            f"{report}-signature-verified": True,
        }
        findings += _expect(device, name, required)
        findings += _unwell(device, name, known=required)
    return worst_first(findings)


def _expect(claims: Json, name: str, required: Json) -> Iterator[Finding]:
    for claim, expected in required.items():
        found = claims.get(claim)
        if type(found) is not type(expected) or found != expected:  # the number 1 is not True
            yield _finding(f"{name}.{claim}", found, expected)


def _unwell(claims: Json, name: str, *, known: Mapping[str, object]) -> Iterator[Finding]:
    """Every other check that the service lists must have passed too, those of newer versions included."""
    if (warning := claims.get("x-nvidia-attestation-warning")) is not None:
        yield replace(_finding(f"{name}.x-nvidia-attestation-warning", warning, "none"), status="warning")
    for claim, value in claims.items():
        if value is False and claim not in known:
            yield _finding(f"{name}.{claim}", value, expected=True)
        if isinstance(value, dict):
            for inner, expected in _STATUS_CLAIMS.items():
                if (found := value.get(inner)) != expected:
                    yield _finding(f"{name}.{claim}.{inner}", found, expected)


def _finding(field: str, found: object, expected: str | bool) -> Finding:
    repair = "collect evidence again; if it stays so, verify the report here to see what differs"
    return Finding(
        field=f"nras.{field}", found=f"{found!s:.200}", expected=str(expected), status="contraindicated", repair=repair
    )


def _split(token: bytes) -> tuple[str, Mapping[str, str]]:
    """Read [["JWT", overall], {"GPU-0": token, ...}]."""
    if len(token) > MAX_TOKEN_SIZE:
        raise MalformedEvidenceError(f"NRAS token has {len(token)} bytes, expected at most {MAX_TOKEN_SIZE}")
    match _load(token, what="NRAS token"):
        case [["JWT", str(overall)], dict(devices)] if all(isinstance(value, str) for value in devices.values()):
            pass
        case _:
            raise MalformedEvidenceError('NRAS token is no detached token, expected [["JWT", token], {device: token}]')
    if len(devices) > MAX_DEVICES:
        raise MalformedEvidenceError(f"NRAS token is about {len(devices)} devices, expected at most {MAX_DEVICES}")
    return overall, devices


def _verify_jwt(jwt: str, keys: NrasKeys, *, what: str) -> Json:
    """Return the claims of a compact JWS whose header names a known key and no algorithm but ES384."""
    parts = jwt.split(".")
    if len(parts) != 3 or not jwt.isascii():
        raise MalformedEvidenceError(f"{what} has {len(parts)} parts or is not ASCII, expected 3 parts of base64url")
    header = _read_json(_unbase64url(parts[0], what=what), what=f"header of the {what}")
    # The header is the attacker's until the signature holds: it chooses among our keys, and nothing else.
    if header.get("alg") != _ALGORITHM or "crit" in header:
        raise SignatureError(
            f"{what} has algorithm {header.get('alg')!r:.20}, expected {_ALGORITHM} without extensions"
        )
    key = keys.get(str(header.get("kid")))
    if key is None:
        raise SignatureError(f"{what} names key {header.get('kid')!r:.80}, expected one of {len(keys)} pinned keys")
    signature = _unbase64url(parts[2], what=what) if parts[2] else b""
    if len(signature) != _SIGNATURE_SIZE:
        raise SignatureError(f"{what} has a signature of {len(signature)} bytes, expected {_SIGNATURE_SIZE}")
    r, s = int.from_bytes(signature[:48], "big"), int.from_bytes(signature[48:], "big")
    try:
        key.verify(encode_dss_signature(r, s), f"{parts[0]}.{parts[1]}".encode(), ec.ECDSA(SHA384()))
    except InvalidSignature as error:
        raise SignatureError(f"signature of the {what} does not verify with key {header['kid']}") from error
    return _read_json(_unbase64url(parts[1], what=what), what=what)


def _require_in_force(claims: Json, name: str, *, now: datetime) -> int:
    """Return when the token ends."""
    begins, ends = claims.get("nbf"), claims.get("exp")
    if type(begins) is not int or type(ends) is not int:
        raise MalformedEvidenceError(f"NRAS token {name} has no times nbf and exp, expected seconds since 1970")
    if not begins <= now.timestamp() < ends:
        raise EndorsementError(
            f"NRAS token {name} holds from {begins} to {ends}, expected a time around {int(now.timestamp())}",
            hint="ask NVIDIA's service again",
        )
    return ends


def _require_nonce(claims: Json, name: str, nonce: bytes) -> None:
    found = claims.get("eat_nonce")
    if not isinstance(found, str) or not found.isascii() or not hmac.compare_digest(found.lower(), nonce.hex()):
        raise BindingMismatchError(
            f"NRAS token {name} has nonce {found!r:.80}, expected {nonce.hex()}",
            hint="the token was made for another session; ask NVIDIA's service again with this session's nonce",
        )


def _require_digests(overall: Json, device_jwts: Mapping[str, str]) -> None:
    found = overall.get("submods")
    expected = {
        name: ["DIGEST", ["SHA-256", hashlib.sha256(jwt.encode()).hexdigest()]] for name, jwt in device_jwts.items()
    }
    if found != expected or not expected:
        names = sorted(found) if isinstance(found, dict) else found
        raise SignatureError(
            f"NRAS overall token signs digests of {names!r:.200}, expected those of the tokens that came: {sorted(expected)}"
        )


def _parse_key(entry: Json) -> ec.EllipticCurvePublicKey:
    key_id = entry["kid"]
    certified, listed = entry.get("x5c"), ("x" in entry or "y" in entry)
    if (entry.get("kty"), entry.get("crv", "P-384"), entry.get("alg", _ALGORITHM)) != ("EC", "P-384", _ALGORITHM):
        raise MalformedEvidenceError(f"NRAS key {key_id:.80} is not an EC key on P-384 for {_ALGORITHM}")
    keys = []
    if listed:
        x, y = (int.from_bytes(_unbase64url(str(entry.get(name)), what="NRAS key"), "big") for name in ("x", "y"))
        try:
            keys.append(ec.EllipticCurvePublicNumbers(x, y, ec.SECP384R1()).public_key())
        except ValueError as error:
            raise MalformedEvidenceError(f"NRAS key {key_id:.80} is not a point of P-384") from error
    if certified is not None:
        keys.append(_certified_key(certified, key_id))
    if not keys or any(key != keys[0] for key in keys):
        raise MalformedEvidenceError(f"NRAS key {key_id:.80} has {len(keys)} keys that differ, expected one")
    return keys[0]


def _certified_key(certificates: object, key_id: str) -> ec.EllipticCurvePublicKey:
    """Return the key of the first certificate; the key set is pinned as a whole, so its path is not asked for."""
    if not isinstance(certificates, list) or not certificates or not isinstance(certificates[0], str):
        raise MalformedEvidenceError(f"NRAS key {key_id:.80} has no certificates in x5c, expected base64 of DER")
    try:
        der = binascii.a2b_base64(certificates[0], strict_mode=True)
    except ValueError as error:
        raise MalformedEvidenceError(f"NRAS key {key_id:.80} has a certificate that is not base64") from error
    key = read_der(der, what="NRAS").public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise MalformedEvidenceError(f"NRAS key {key_id:.80} has a certificate with a key that is not on P-384")
    return key


def _unbase64url(text: str, *, what: str) -> bytes:
    if _BASE64URL.fullmatch(text) is None or len(text) % 4 == 1:
        raise MalformedEvidenceError(f"{what} has {text!r:.40}, expected base64url without padding")
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _read_json(raw: bytes, *, what: str) -> Json:
    value = _load(raw, what=what)
    if not isinstance(value, dict):
        raise MalformedEvidenceError(f"{what} is no JSON object, expected one")
    return value


def _load(raw: bytes, *, what: str) -> Any:  # noqa: ANN401 - JSON is any value
    try:
        return check_strict_json(raw)
    except MalformedDocumentError as error:
        raise MalformedEvidenceError(f"{what}: {error}") from error
