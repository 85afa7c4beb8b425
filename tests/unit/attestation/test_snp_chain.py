from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation.errors import AttestationError, EndorsementError, MalformedEvidenceError, RevokedError, SignatureError
from attestation.snp.chain import SnpEndorsements, verify_chain
from attestation.snp.tcb import Tcb
from tests.fakes import lab_snp
from tests.fakes.lab_snp import ASK_SERIAL, CHIP_ID, CSP, OID, anchors, ark_key, ask, ask_key, endorsements, vek
from tests.fakes.lab_x509 import CA, NOW, certificate, ec_key, usage


def check(given_: SnpEndorsements, *, product="Milan", now=NOW):
    return verify_chain(given_, anchors=anchors(product), now=now)


def but(product="Milan", kind="vcek", **changes) -> SnpEndorsements:
    return replace(endorsements(product, kind), **changes)


def with_extensions(product="Milan", kind="vcek", **changes: bytes | None) -> SnpEndorsements:
    """Change extensions by suffix, "_3_8" for .3.8; None takes one away."""
    extensions = dict(lab_snp.vek_extensions(product, kind=kind))
    for suffix, value in changes.items():
        oid = OID + suffix.replace("_", ".")
        extensions.pop(oid, None)
        if value is not None:
            extensions[oid] = value
    return but(product, kind, vek=vek(product, kind=kind, extensions=extensions))


def test_vcek_says_chip_and_tcb():
    claims = check(endorsements())
    assert (claims.product, claims.kind, claims.chip_id, claims.csp_id) == ("Milan", "vcek", CHIP_ID, None)
    assert claims.tcb == Tcb(bootloader=4, tee=0, snp=0x18, microcode=0xDB)


def test_turin_vcek_says_fmc_and_a_short_chip_id():
    claims = check(endorsements("Turin"), product="Turin")
    assert claims.tcb == Tcb(fmc=1, bootloader=1, tee=1, snp=4, microcode=0x51)
    assert claims.chip_id == CHIP_ID[:8] + bytes(56)


def test_vlek_says_the_cloud_provider():
    claims = check(endorsements("Milan", "vlek"))
    assert (claims.kind, claims.chip_id, claims.csp_id) == ("vlek", None, CSP)


def test_hwid_wrapped_in_an_octet_string_is_the_same_chip():
    assert check(with_extensions(_4=b"\x04\x40" + CHIP_ID)).chip_id == CHIP_ID


def test_root_that_is_not_pinned_is_rejected():
    other = certificate("ARK-Milan", "ARK-Milan", key=ark_key(), signer=ark_key(), ca=CA, serial=99)
    with pytest.raises(SignatureError, match="root certificate has SHA-256"):
        check(but(root=other))


def test_root_pinned_for_another_product_is_rejected():
    with pytest.raises(SignatureError, match="root ARK-Genoa is pinned as Milan"):
        verify_chain(endorsements("Genoa"), anchors=anchors("Milan", root=lab_snp.ark("Genoa")), now=NOW)


@pytest.mark.parametrize("name", ["ARK-Naples", "ARK-None"])
def test_root_pinned_for_an_unknown_product_is_rejected(name):
    root = certificate(name, name, key=ark_key(), signer=ark_key(), ca=CA)
    with pytest.raises(SignatureError, match="pinned as Naples"):
        verify_chain(but(root=root), anchors=anchors("Naples", root=root), now=NOW)


@pytest.mark.parametrize(
    "given_",
    [
        but(intermediate=ask("Milan", "SEV-VLEK")),
        but(kind="vlek", intermediate=ask("Milan", "SEV")),
        but(intermediate=ask("Genoa")),
        but(vek=ask()),
    ],
    ids=["vcek-under-asvk", "vlek-under-ask", "ask-of-another-product", "ask-as-leaf"],
)
def test_certificates_whose_roles_do_not_belong_together_are_rejected(given_):
    with pytest.raises(SignatureError, match="expected SEV-VCEK under SEV-Milan"):
        check(given_)


@pytest.mark.parametrize("key", [ec_key(ec.SECP256R1()), lab_snp.ask_key()], ids=["p256", "rsa"])
def test_vek_with_a_key_that_is_not_on_p384_is_rejected(key):
    with pytest.raises(SignatureError, match="not on P-384"):
        check(but(vek=vek(key=key)))


def test_vek_that_is_a_certificate_authority_is_rejected():
    with pytest.raises(SignatureError, match="VCEK is a certificate authority"):
        check(but(vek=vek(ca=CA)))


@pytest.mark.parametrize(
    ("ca", "key_usage"),
    [(x509.BasicConstraints(ca=False, path_length=None), None), (None, usage(certify=True)), (None, None)],
    ids=["ca-false", "only-key-usage", "nothing"],
)
def test_intermediate_that_may_not_issue_is_rejected(ca, key_usage):
    intermediate = certificate("SEV-Milan", "ARK-Milan", key=ask_key(), signer=ark_key(), ca=ca, key_usage=key_usage)
    with pytest.raises(SignatureError, match="SEV-Milan issued another, expected basicConstraints CA:TRUE"):
        check(but(intermediate=intermediate))


@pytest.mark.parametrize(
    "scheme",
    [
        {"rsa_padding": padding.PKCS1v15()},
        {"rsa_padding": padding.PSS(mgf=padding.MGF1(SHA256()), salt_length=32), "digest": SHA256()},
    ],
    ids=["pkcs1v15", "pss-sha256"],
)
def test_certificate_signed_by_another_scheme_is_rejected(scheme):
    intermediate = certificate("SEV-Milan", "ARK-Milan", key=ask_key(), signer=ark_key(), ca=CA, **scheme)
    with pytest.raises(SignatureError, match="signature of certificate SEV-Milan"):
        check(but(intermediate=intermediate))


def test_issuer_with_a_short_key_is_rejected():
    short = rsa.generate_private_key(65537, 2048)
    intermediate = certificate("SEV-Milan", "ARK-Milan", key=short, signer=ark_key(), ca=CA)
    with pytest.raises(SignatureError, match="signature of certificate SEV-VCEK"):
        check(but(intermediate=intermediate, vek=vek(signer=short)))


def test_issuer_with_an_elliptic_curve_key_is_rejected():
    key = ec_key()
    intermediate = certificate("SEV-Milan", "ARK-Milan", key=key, signer=ark_key(), ca=CA)
    with pytest.raises(SignatureError, match="signature of certificate SEV-VCEK"):
        check(but(intermediate=intermediate, vek=vek(signer=key)))


def test_vek_signed_by_a_stranger_is_rejected():
    with pytest.raises(SignatureError, match="signature of certificate SEV-VCEK does not verify"):
        check(but(vek=vek(signer=ark_key())))


def test_vek_that_names_another_issuer_is_rejected():
    stranger = certificate(
        "SEV-VCEK", "SEV-Genoa", key=lab_snp.vek_key(), signer=ask_key(), extensions=lab_snp.vek_extensions()
    )
    with pytest.raises(SignatureError, match="certificate path fails at SEV-VCEK"):
        check(but(vek=stranger))


@pytest.mark.parametrize("now", [datetime(2023, 1, 1, tzinfo=UTC), datetime(2050, 1, 1, tzinfo=UTC)])
def test_chain_outside_its_validity_is_rejected(now):
    with pytest.raises(SignatureError, match=r"certificate path fails at .*(expired|not yet valid)"):
        check(endorsements(), now=now)


def test_vek_that_expired_is_rejected_though_its_issuers_have_not():
    with pytest.raises(SignatureError, match="SEV-VCEK: certificate has expired"):
        check(but(vek=vek(not_after=datetime(2025, 1, 1, tzinfo=UTC))))


def test_intermediate_that_expired_is_rejected():
    old = certificate(
        "SEV-Milan",
        "ARK-Milan",
        key=ask_key(),
        signer=ark_key(),
        ca=CA,
        not_after=datetime(2025, 1, 1, tzinfo=UTC),
    )
    with pytest.raises(SignatureError, match="SEV-Milan: certificate has expired"):
        check(but(intermediate=old))


def test_unknown_critical_extension_is_rejected():
    extensions = lab_snp.vek_extensions()
    with pytest.raises(SignatureError, match="unhandled critical extension"):
        check(but(vek=vek(extensions=extensions, critical=True)))


@pytest.mark.parametrize("role", ["vek", "intermediate"])
def test_byte_behind_a_certificate_is_malformed(role):
    with pytest.raises(MalformedEvidenceError, match="does not decode"):
        check(but(**{role: getattr(endorsements(), role) + b"\0"}))


def test_revocation_list_without_the_intermediate_is_accepted():
    assert check(but(crl=lab_snp.crl(revoked=(1, 2)))).kind == "vcek"


def test_revoked_intermediate_is_rejected():
    with pytest.raises(RevokedError, match="SEV-Milan is on the revocation list"):
        check(but(crl=lab_snp.crl(revoked=(ASK_SERIAL,))))


def test_revocation_list_signed_by_a_stranger_is_rejected():
    with pytest.raises(EndorsementError, match="CRL signature failure"):
        check(but(crl=lab_snp.crl(signer=ask_key())))


@pytest.mark.parametrize(
    "times",
    [
        {"until": datetime(2026, 5, 31, tzinfo=UTC)},
        {"last": datetime(2026, 6, 2, tzinfo=UTC)},
    ],
    ids=["expired", "not-yet"],
)
def test_revocation_list_that_is_not_in_force_is_rejected(times):
    with pytest.raises(EndorsementError, match="revocation list for SEV-Milan is not usable"):
        check(but(crl=lab_snp.crl(**times)))


def test_revocation_list_without_an_end_is_rejected():
    with pytest.raises(EndorsementError, match="no nextUpdate"):
        check(but(crl=lab_snp.crl_without_end()))


def test_revocation_list_of_another_root_is_rejected():
    with pytest.raises(EndorsementError, match="not usable"):
        check(but("Genoa", crl=lab_snp.crl()), product="Genoa")


@pytest.mark.parametrize(
    "crl",
    [b"", b"nonsense", lab_snp.crl() + b"\0", lab_snp.crl().replace(b"\x02\x01\x01", b"\x02\x01\x28", 1)],
    ids=["empty", "nonsense", "byte-behind", "version-40"],
)
def test_revocation_list_that_does_not_decode_is_malformed(crl):
    with pytest.raises(MalformedEvidenceError, match="revocation list does not decode"):
        check(but(crl=crl))


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        (with_extensions(_2=None), "no product name"),
        (with_extensions(_2=lab_snp.text("Genoa")), "for product 'Genoa', expected Milan"),
        (with_extensions(_2=lab_snp.text("Milano")), "for product 'Milano', expected Milan"),
        (with_extensions(_2=b"\x0c\x05Milan"), "expected one DER value with tag 0x16"),
        (with_extensions(_2=lab_snp.text("Milan") + b"\0"), "expected one DER value"),
        (with_extensions(_2=b"\x16\x82Milan-" + b"x" * 124), "expected one DER value"),
        (with_extensions(_3_8=b""), "expected one DER value"),
        (with_extensions(_1=lab_snp.integer(1)), "struct version 1, expected 0 on Milan"),
        (with_extensions(_1=None), "no struct version"),
        (with_extensions(_3_1=None), "no bootloader SPL"),
        (with_extensions(_3_2=None), "no TEE SPL"),
        (with_extensions(_3_3=None), "no SNP SPL"),
        (with_extensions(_3_8=None), "no microcode SPL"),
        (with_extensions(_3_8=b"\x02\x02\x01\x00"), "microcode SPL 0100, expected an INTEGER of 0 to 255"),
        (with_extensions(_3_8=b"\x02\x01\xdb"), "microcode SPL db, expected"),
        (with_extensions(_3_8=b"\x02\x02\x00\x01"), "microcode SPL 0001, expected"),
        (with_extensions(_3_5=lab_snp.integer(1)), "reserved SPL"),
        (with_extensions(_3_9=lab_snp.integer(0)), "has an FMC SPL, expected none on Milan"),
        (with_extensions(_4=None), "no hwID"),
        (with_extensions(_4=CHIP_ID[:8]), "hwID of 8 bytes, expected 64"),
        (with_extensions(kind="vlek", _5=None), "no cspID"),
    ],
)
def test_vek_whose_extensions_are_not_amds_is_rejected(given_, message):
    with pytest.raises(EndorsementError, match=message):
        check(given_)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"_3_9": None}, "no FMC SPL"), ({"_4": CHIP_ID}, "hwID of 64 bytes, expected 8")],
)
def test_turin_vek_whose_extensions_are_of_the_older_kind_is_rejected(changes, message):
    with pytest.raises(EndorsementError, match=message):
        check(with_extensions("Turin", **changes), product="Turin")


def test_label_of_the_anchor_is_carried_on():
    assert check(endorsements()).anchor.mock
    assert not verify_chain(endorsements(), anchors=anchors(mock=False), now=NOW).anchor.mock


@settings(max_examples=80, deadline=None)
@given(st.integers(0), st.integers(0, 7))
def test_edited_vek_raises_nothing_but_attestation_errors(position, bit):
    raw = bytearray(endorsements().vek)
    raw[position % len(raw)] ^= 1 << bit
    with suppress(AttestationError):
        check(but(vek=bytes(raw)))
        pytest.fail("an edited VEK was accepted")
