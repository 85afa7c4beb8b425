from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cache

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA224, SHA256, SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation.errors import (
    AttestationError,
    EndorsementError,
    EndorsementUnavailableError,
    MalformedEvidenceError,
    RevokedError,
)
from attestation.nvidia_gpu.ocsp import MAX_RESPONSE_SIZE, verify_status, verify_statuses
from tests.fakes.lab_nvidia import NAMES, chain, keys
from tests.fakes.lab_x509 import CA, NOW, certificate, ec_key, load_rsa_key, usage

OCSP_SIGNING = {"2.5.29.37": bytes.fromhex("300a06082b06010505070309")}
SERVER_AUTH = {"2.5.29.37": bytes.fromhex("300a06082b06010505070301")}
RESPONDER = ec_key()
HOLD = x509.ReasonFlags.certificate_hold


@cache
def path() -> tuple[x509.Certificate, ...]:
    """Boot ROM, provisioner, identity, root: what a device's status is asked about."""
    ders = chain(changes={place: {"serial": 100 + place} for place in range(5)})
    return tuple(x509.load_der_x509_certificate(der) for der in ders[1:])


def delegate(place: int = 0, **changes) -> x509.Certificate:
    """Return the responder's certificate for the certificate at `place`, signed by that one's issuer."""
    attributes = {
        "key": RESPONDER,
        "signer": keys()[place + 2],
        "key_usage": usage(sign=True),
        "extensions": OCSP_SIGNING,
    }
    der = certificate("OCSP Responder", changes.pop("issuer", NAMES[place + 2]), **attributes | changes)
    return x509.load_der_x509_certificate(der)


@dataclass(frozen=True, kw_only=True)
class LabAnswer:
    """What one OCSP response says; good, about the boot ROM, by a delegate, by default."""

    place: int = 0
    subject: x509.Certificate | None = None
    issuer: x509.Certificate | None = None
    status: ocsp.OCSPCertStatus = ocsp.OCSPCertStatus.GOOD
    reason: x509.ReasonFlags | None = None
    this_update: datetime = NOW - timedelta(hours=1)
    next_update: datetime | None = NOW + timedelta(hours=23)
    named_by: object = field(default_factory=SHA384)
    responder: x509.Certificate | None = None
    encoding: ocsp.OCSPResponderEncoding = ocsp.OCSPResponderEncoding.HASH
    certificates: tuple[x509.Certificate, ...] | None = None
    extensions: tuple[tuple[x509.ExtensionType, bool], ...] = ()
    key: object = RESPONDER
    digest: object = field(default_factory=SHA384)

    def but(self, **changes) -> LabAnswer:
        return replace(self, **changes)

    def encode(self) -> bytes:
        responder = self.responder or delegate(self.place)
        revoked = self.status is ocsp.OCSPCertStatus.REVOKED
        builder = ocsp.OCSPResponseBuilder().add_response(
            cert=self.subject or path()[self.place],
            issuer=self.issuer or path()[self.place + 1],
            algorithm=self.named_by,
            cert_status=self.status,
            this_update=self.this_update,
            next_update=self.next_update,
            revocation_time=NOW - timedelta(days=9) if revoked else None,
            revocation_reason=self.reason,
        )
        builder = builder.responder_id(self.encoding, responder)
        held = (responder,) if self.certificates is None else self.certificates
        builder = builder.certificates(held) if held else builder
        for extension, critical in self.extensions:
            builder = builder.add_extension(extension, critical=critical)
        return builder.sign(self.key, self.digest).public_bytes(Encoding.DER)


GOOD = LabAnswer()


def check(answer: LabAnswer | bytes, *, nonce=None, allow_hold=False, now=NOW):
    raw = answer.encode() if isinstance(answer, LabAnswer) else answer
    subject, issuer = path()[:2]
    return verify_status(raw, subject=subject, issuer=issuer, nonce=nonce, allow_hold=allow_hold, now=now)


def test_good_answer_says_until_when_it_may_be_used():
    found = check(GOOD)
    assert (found.serial_number, found.status) == (101, "good")
    assert (found.this_update, found.next_update) == (GOOD.this_update, GOOD.next_update)


def test_responder_may_be_named_instead_of_its_key():
    assert check(GOOD.but(encoding=ocsp.OCSPResponderEncoding.NAME)).status == "good"


def test_issuer_may_answer_itself():
    own = GOOD.but(responder=path()[1], certificates=(), key=keys()[2])
    assert check(own).status == check(own.but(encoding=ocsp.OCSPResponderEncoding.NAME)).status == "good"


def test_responder_without_key_usage_is_accepted():
    assert check(GOOD.but(responder=delegate(key_usage=None))).status == "good"


# --- what it says ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", [None, x509.ReasonFlags.key_compromise])
@pytest.mark.parametrize("allow_hold", [True, False])
def test_revoked_certificate_is_rejected_whether_or_not_hold_is_allowed(reason, allow_hold):
    with pytest.raises(RevokedError, match="GH100 A01 GSP BROM is revoked since"):
        check(GOOD.but(status=ocsp.OCSPCertStatus.REVOKED, reason=reason), allow_hold=allow_hold)


def test_certificate_on_hold_is_rejected_unless_hold_is_allowed():
    held = GOOD.but(status=ocsp.OCSPCertStatus.REVOKED, reason=HOLD)
    with pytest.raises(RevokedError, match="certificateHold"):
        check(held)
    assert check(held, allow_hold=True).status == "hold"


def test_certificate_that_the_responder_does_not_know_is_rejected():
    with pytest.raises(EndorsementError, match="does not know"):
        check(GOOD.but(status=ocsp.OCSPCertStatus.UNKNOWN), allow_hold=True)


# --- whom it is about --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", [SHA224(), SHA256()])
def test_answer_that_names_its_certificate_by_a_weaker_digest_is_rejected(algorithm):
    with pytest.raises(EndorsementError, match="expected sha384"):
        check(GOOD.but(named_by=algorithm))


def test_answer_about_another_certificate_of_the_same_issuer_is_rejected():
    other = x509.load_der_x509_certificate(chain(changes={1: {"serial": 999}})[1])
    with pytest.raises(EndorsementError, match="about serial number 3e7, expected 65"):
        check(GOOD.but(subject=other))


def test_answer_about_the_same_serial_number_of_another_issuer_is_rejected():
    name_of_another = x509.load_der_x509_certificate(
        certificate(NAMES[1], "Another", key=keys()[1], signer=keys()[2], ca=CA, serial=101)
    )
    key_of_another = x509.load_der_x509_certificate(
        certificate(NAMES[2], NAMES[3], key=ec_key(), signer=keys()[3], ca=CA)
    )
    for changes in ({"subject": name_of_another}, {"issuer": key_of_another}):
        with pytest.raises(EndorsementError, match="OCSP response is about"):
            check(GOOD.but(**changes))


# --- who says it -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"extensions": None},
        {"extensions": SERVER_AUTH},
        {"ca": CA, "key_usage": usage(sign=True)},
        {"key_usage": usage(certify=True)},
        {"issuer": "Another"},
    ],
    ids=["no-usage", "other-usage", "authority", "may-not-sign", "other-issuer"],
)
def test_responder_that_is_not_appointed_by_the_issuer_is_rejected(changes):
    with pytest.raises(EndorsementError, match="expected a certificate for OCSP signing of"):
        check(GOOD.but(responder=delegate(**changes)))


@pytest.mark.parametrize("changes", [{"signer": ec_key()}, {"digest": SHA256()}], ids=["key", "digest"])
def test_responder_whose_certificate_the_issuer_did_not_sign_is_rejected(changes):
    with pytest.raises(EndorsementError, match="is not certified by"):
        check(GOOD.but(responder=delegate(**changes)))


@pytest.mark.parametrize(
    "validity", [{"not_after": NOW - timedelta(days=1)}, {"not_before": NOW + timedelta(days=1)}], ids=["old", "new"]
)
def test_responder_that_is_not_valid_is_rejected(validity):
    with pytest.raises(EndorsementError, match="OCSP responder OCSP Responder is not valid at"):
        check(GOOD.but(responder=delegate(**validity)))


def test_answer_without_its_responders_certificate_is_rejected():
    with pytest.raises(EndorsementError, match="carries 0 certificates of its responder"):
        check(GOOD.but(certificates=()))
    with pytest.raises(EndorsementError, match="carries 0 certificates of its responder"):
        check(GOOD.but(certificates=(path()[2],)))
    with pytest.raises(EndorsementError, match="carries 2 certificates of its responder"):
        check(GOOD.but(certificates=(delegate(), delegate())))


def test_answer_whose_signature_is_broken_or_by_another_digest_is_rejected():
    signature = ocsp.load_der_ocsp_response(raw := GOOD.encode()).signature
    broken = raw.replace(signature, signature[:-1] + bytes((signature[-1] ^ 1,)))
    for answer in (broken, GOOD.but(digest=SHA256())):
        with pytest.raises(EndorsementError, match="does not verify with the key of OCSP Responder"):
            check(answer)


@pytest.mark.parametrize("place", [0, -1], ids=["answer", "responder"])
def test_algorithm_named_outside_of_what_is_signed_must_be_the_one_used(place):
    raw, ecdsa_sha384 = GOOD.encode(), bytes.fromhex("300a06082a8648ce3d040303")
    starts = [start for start in range(len(raw)) if raw.startswith(ecdsa_sha384, start)]
    assert len(starts) == 3  # of the answer; inside the responder's certificate, signed; outside of it
    end = starts[place] + len(ecdsa_sha384)
    with pytest.raises(EndorsementError, match=r"does not verify with|is not certified by"):
        check(raw[: end - 1] + b"\2" + raw[end:])


@pytest.mark.parametrize("key", [ec_key(ec.SECP256R1()), load_rsa_key("snp_ask")], ids=["p256", "rsa"])
def test_responder_with_another_kind_of_key_is_rejected(key):
    with pytest.raises(EndorsementError, match="not on"):
        check(GOOD.but(responder=delegate(key=key), key=key))


# --- when it says it ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("now", [GOOD.this_update - timedelta(seconds=1), GOOD.next_update])
def test_answer_is_usable_neither_before_its_time_nor_from_its_end(now):
    with pytest.raises(EndorsementError, match="OCSP response holds from"):
        check(GOOD, now=now)
    assert check(GOOD, now=GOOD.this_update).status == "good"


def test_answer_without_an_end_is_rejected():
    with pytest.raises(EndorsementError, match="to None"):
        check(GOOD.but(next_update=None))


def test_answer_to_another_request_is_rejected_where_a_nonce_was_sent():
    answer = GOOD.but(extensions=((x509.OCSPNonce(b"mine"), False),))
    assert check(answer, nonce=b"mine").status == "good"
    with pytest.raises(EndorsementError, match="nonce 6d696e65, expected"):
        check(answer, nonce=b"other")
    with pytest.raises(EndorsementError, match="nonce none, expected"):
        check(GOOD, nonce=b"mine")


# --- the bytes ---------------------------------------------------------------------------------------------------------


def test_answer_with_a_critical_extension_is_rejected():
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.5703.1"), b"\5\0")
    assert check(GOOD.but(extensions=((unknown, False),))).status == "good"
    with pytest.raises(EndorsementError, match="critical extensions"):
        check(GOOD.but(extensions=((unknown, True),)))


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (ocsp.OCSPResponseStatus.TRY_LATER, EndorsementUnavailableError),
        (ocsp.OCSPResponseStatus.INTERNAL_ERROR, EndorsementUnavailableError),
        (ocsp.OCSPResponseStatus.UNAUTHORIZED, EndorsementError),
    ],
)
def test_refusal_of_the_responder_is_no_answer(status, error):
    refusal = ocsp.OCSPResponseBuilder.build_unsuccessful(status).public_bytes(Encoding.DER)
    with pytest.raises(EndorsementError, match=f"answers {status.name}") as refused:
        check(refusal)
    assert type(refused.value) is error


@pytest.mark.parametrize("raw", [b"", b"\x30\x00", GOOD.encode()[:-1], GOOD.encode() + b"\0"])
def test_bytes_that_are_no_response_are_malformed(raw):
    with pytest.raises(MalformedEvidenceError, match="OCSP response"):
        check(raw)


def test_response_that_is_too_large_is_malformed():
    with pytest.raises(MalformedEvidenceError, match=f"expected at most {MAX_RESPONSE_SIZE}"):
        check(bytes(MAX_RESPONSE_SIZE + 1))


# --- a whole path ------------------------------------------------------------------------------------------------------


def check_path(*answers: LabAnswer, allow_hold=False):
    return verify_statuses(path(), [answer.encode() for answer in answers], allow_hold=allow_hold, now=NOW)


def test_every_certificate_but_the_root_needs_an_answer():
    answers = [GOOD.but(place=place) for place in (2, 0, 1)]
    assert [status.serial_number for status in check_path(*answers)] == [101, 102, 103]
    with pytest.raises(EndorsementUnavailableError, match="no OCSP response about Provisioner ICA 1"):
        check_path(*answers[:2])


def test_one_revoked_certificate_of_a_path_is_enough():
    revoked = GOOD.but(place=2, status=ocsp.OCSPCertStatus.REVOKED)
    with pytest.raises(RevokedError, match="GH100 Identity is revoked"):
        check_path(GOOD, GOOD.but(place=1), revoked)


@pytest.mark.parametrize("order", [1, -1])
def test_second_answer_does_not_hide_a_revocation(order):
    answers = [GOOD, GOOD.but(status=ocsp.OCSPCertStatus.REVOKED)][::order]
    with pytest.raises(RevokedError):
        check_path(*answers, GOOD.but(place=1), GOOD.but(place=2))


def test_hold_in_a_path_is_reported_where_it_is_allowed():
    held = GOOD.but(status=ocsp.OCSPCertStatus.REVOKED, reason=HOLD)
    found = check_path(held, GOOD.but(place=1), GOOD.but(place=2), allow_hold=True)
    assert [status.status for status in found] == ["hold", "good", "good"]


@settings(max_examples=60, deadline=None)
@given(st.integers(0), st.integers(0, 255))
def test_edited_answer_raises_nothing_but_attestation_errors(position, value):
    raw = bytearray(EDITED)
    raw[position % len(raw)] = value
    with suppress(AttestationError):
        assert check(bytes(raw)).status == "good"


EDITED = GOOD.encode()
