from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.hashes import SHA384

from attestation.errors import EndorsementError, MalformedEvidenceError, RevokedError, SignatureError
from attestation.tdx.chain import verify_chains
from attestation.tdx.quote import Quote
from tests.fakes.lab_tdx import (
    LAST,
    PCK,
    PCK_CA,
    ROOT,
    SIGNER,
    UNTIL,
    LabQuote,
    anchors,
    collateral,
    crl,
    crl_without_end,
    issue,
    key,
    pck,
    pck_ca,
    pck_pem,
    root,
    sgx_extension,
    signer,
)
from tests.fakes.lab_x509 import CA, NOW, ec_key, load_rsa_key, pem

GOOD, GOOD_COLLATERAL = LabQuote(), collateral()
SGX = {"1.2.840.113741.1.13.1": sgx_extension((True, True, False))}
EXPIRED = {"not_after": datetime(2025, 1, 1, tzinfo=UTC)}


def check(*, pck_chain=None, trusted=None, now=NOW, quote=GOOD, **changes):
    parsed = Quote.parse(quote.but(pck_chain=pck_chain or pck_pem()).encode())
    return verify_chains(parsed, replace(GOOD_COLLATERAL, **changes), anchors=trusted or anchors(), now=now)


@pytest.mark.parametrize("mock", [True, False])
def test_chains_of_one_pinned_root_give_the_root_and_its_label(mock):
    found = check(trusted=anchors(mock=mock))
    assert (found.der, found.anchor.mock) == (root(), mock)


def test_root_that_is_not_pinned_is_rejected():
    with pytest.raises(SignatureError, match="expected one of the pinned intel roots"):
        check(trusted=anchors(der=b"another"))


def test_pinned_certificate_of_another_name_is_no_root():
    other = issue("Another Root CA", "Another Root CA")
    chain, signers = pem(pck(), pck_ca(), other), pem(signer(), other)
    with pytest.raises(SignatureError, match="root is Another Root CA"):
        check(
            pck_chain=chain,
            trusted=anchors(der=other),
            tcb_info_issuer_chain=signers,
            qe_identity_issuer_chain=signers,
        )


@pytest.mark.parametrize("part", ["tcb_info_issuer_chain", "qe_identity_issuer_chain"])
def test_collateral_under_another_root_than_the_quote_is_rejected(part):
    other = issue(ROOT, ROOT, serial=0x9999)
    with pytest.raises(SignatureError, match="another root than the quote"):
        check(**{part: pem(signer(), other)})


@pytest.mark.parametrize(
    "chain",
    [pem(pck(), pck_ca()), pem(pck(), root()), pem(pck(), pck_ca(), pck_ca(), root())],
    ids=["no root", "no authority", "one too many"],
)
def test_pck_chain_of_another_length_is_rejected(chain):
    with pytest.raises(SignatureError, match="PCK chain has"):
        check(pck_chain=chain)


def test_signer_chain_through_an_intermediate_is_rejected():
    with pytest.raises(SignatureError, match="TCB info signer chain has 3"):
        check(tcb_info_issuer_chain=pem(pck(), pck_ca(), root()))


@pytest.mark.parametrize(
    ("leaf", "authority"),
    [
        (issue("Intel SGX PCK Impostor", PCK_CA, key=key(PCK), extensions=SGX), pck_ca()),
        (issue(PCK, PCK_CA, ca=CA, extensions=SGX), pck_ca()),
        (pck(), issue("Intel SGX Another CA", ROOT, key=key(PCK_CA))),
        (signer(), pck_ca()),
    ],
    ids=["leaf of another name", "leaf that is an authority", "authority of another name", "signer as PCK"],
)
def test_certificate_that_is_no_pck_of_intels_is_rejected(leaf, authority):
    with pytest.raises(SignatureError, match="quote is certified by"):
        check(pck_chain=pem(leaf, authority, root()))


@pytest.mark.parametrize(
    "chain",
    [
        lambda: pem(issue(PCK, PCK_CA, signer=key("impostor"), extensions=SGX), pck_ca(), root()),
        lambda: pem(issue(PCK, PCK_CA, extensions=SGX, **EXPIRED), pck_ca(), root()),
        lambda: pem(pck(), issue(PCK_CA, ROOT, **EXPIRED), root()),
        lambda: pem(pck(), issue(PCK_CA, ROOT, ca=None), root()),
        lambda: pem(issue(PCK, PCK_CA, digest=SHA384(), extensions=SGX), pck_ca(), root()),
        lambda: pem(issue(PCK, PCK_CA, key=ec_key(), extensions=SGX), pck_ca(), root()),
    ],
    ids=["forged", "expired leaf", "expired authority", "issuer that is no authority", "SHA-384", "P-384 leaf"],
)
def test_pck_chain_that_does_not_hold_is_rejected(chain):
    with pytest.raises(SignatureError):
        check(pck_chain=chain())


@pytest.mark.parametrize("part", ["tcb_info_issuer_chain", "qe_identity_issuer_chain"])
@pytest.mark.parametrize(
    ("leaf", "reason"),
    [
        (issue(PCK, ROOT, key=key(PCK)), "collateral is signed by Intel SGX PCK Certificate"),
        (pck_ca(), "collateral is signed by Intel SGX PCK Platform CA"),
        (issue(SIGNER, ROOT, ca=CA), "expected Intel SGX TCB Signing, an end entity"),
        (issue(SIGNER, PCK_CA), "does not verify"),
        (issue(SIGNER, ROOT, signer=key("impostor")), "does not verify"),
        (issue(SIGNER, ROOT, **EXPIRED), "certificate path fails"),
    ],
    ids=["PCK", "authority", "signer that is an authority", "issued by an authority", "forged", "expired"],
)
def test_collateral_signer_in_another_role_or_without_a_path_is_rejected(part, leaf, reason):
    with pytest.raises(SignatureError, match=reason):
        check(**{part: pem(leaf, root())})


def test_qe_report_that_the_pck_did_not_sign_is_rejected():
    with pytest.raises(SignatureError, match="QE report signature"):
        check(quote=GOOD.but(qe_signed_by="impostor"))


def test_foreign_pck_is_named_before_its_revocation_list():
    with pytest.raises(SignatureError, match="QE report signature"):
        check(quote=GOOD.but(qe_signed_by="impostor"), pck_crl=b"")


@pytest.mark.parametrize(
    ("part", "issuer", "revoked"),
    [("pck_crl", PCK_CA, PCK), ("root_ca_crl", ROOT, PCK_CA), ("root_ca_crl", ROOT, SIGNER)],
)
def test_certificate_on_the_list_of_its_issuer_is_revoked(part, issuer, revoked):
    with pytest.raises(RevokedError, match=f"{revoked} is on the revocation list of {issuer}"):
        check(**{part: crl(issuer, revoked=revoked)})


@pytest.mark.parametrize(("part", "issuer"), [("pck_crl", PCK_CA), ("root_ca_crl", ROOT)])
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"signed_by": "impostor"}, "not signed by"),
        ({"digest": SHA384()}, "not signed by"),
        ({"critical": True}, "critical extension"),
        ({"last": LAST - timedelta(days=60), "until": NOW - timedelta(seconds=1)}, "holds from"),
        ({"last": NOW + timedelta(seconds=1)}, "holds from"),
    ],
    ids=["forged", "SHA-384", "partial", "expired", "not yet"],
)
def test_revocation_list_that_is_not_usable_is_rejected(part, issuer, change, reason):
    with pytest.raises(EndorsementError, match=reason):
        check(**{part: crl(issuer, **change)})


@pytest.mark.parametrize(("part", "other"), [("pck_crl", ROOT), ("root_ca_crl", PCK_CA)])
def test_revocation_list_of_another_issuer_is_rejected(part, other):
    with pytest.raises(EndorsementError, match="not signed by"):
        check(**{part: crl(other)})


def test_revocation_list_by_the_right_key_under_another_name_is_rejected():
    with pytest.raises(EndorsementError, match="not signed by"):
        check(pck_crl=crl("Intel SGX PCK Processor CA", signed_by=PCK_CA))


@pytest.mark.parametrize("part", ["pck_crl", "root_ca_crl"])
def test_absent_revocation_list_is_an_endorsement_that_is_missing(part):
    with pytest.raises(EndorsementError, match="is absent"):
        check(**{part: b""})


@pytest.mark.parametrize("part", ["pck_crl", "root_ca_crl"])
@pytest.mark.parametrize(
    "raw", [b"\x30\x00", crl().replace(b"\x02\x01\x01", b"\x02\x01\x1f", 1)], ids=["empty", "version 31"]
)
def test_revocation_list_that_does_not_decode_is_malformed(part, raw):
    with pytest.raises(MalformedEvidenceError, match="revocation list"):
        check(**{part: raw})


@pytest.mark.parametrize(("part", "issuer"), [("pck_crl", PCK_CA), ("root_ca_crl", ROOT)])
def test_revocation_list_without_an_end_is_rejected(part, issuer):
    with pytest.raises(EndorsementError, match="to None"):
        check(**{part: crl_without_end(issuer)})


@pytest.mark.parametrize("authority", [ec_key(), load_rsa_key("snp_ask")], ids=["P-384", "RSA"])
def test_authority_with_another_kind_of_key_is_rejected(authority):
    chain = pem(issue(PCK, PCK_CA, signer=authority, extensions=SGX), issue(PCK_CA, ROOT, key=authority), root())
    with pytest.raises(SignatureError, match="Certificate does not verify with the key of Intel SGX PCK Platform CA"):
        check(pck_chain=chain)


@pytest.mark.parametrize("now", [LAST, UNTIL])
def test_lists_hold_from_the_first_second_to_the_last(now):
    assert check(now=now).anchor.vendor == "intel"
