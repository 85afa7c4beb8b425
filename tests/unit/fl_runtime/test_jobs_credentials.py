from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.channel.credentials import key_pem, new_tls_key
from attestation.issue import CertificateAuthority, admin_spiffe_id
from attestation.reference_values import KIND as REFERENCE
from attestation.reference_values import ReferenceEntry, ReferenceValues, SnpMinimum
from fl_runtime.jobs.credentials import AdministratorSettings, load_credentials
from policies.documents import Envelope, raw_public_key
from policies.errors import DocumentExpiredError, DocumentSignatureError, UsageError
from policies.root import KIND as ROOT
from policies.root import Organisation, Root, ServiceIdentity
from policies.roster import KIND as ROSTER
from policies.roster import Member, Roster
from policies.settings import load_settings

ADA, BOB = admin_spiffe_id("demo.example", "ada"), admin_spiffe_id("demo.example", "bob")
NOW = datetime(2026, 3, 4, tzinfo=UTC)
DOMAIN = "demo.example"
DATES = {"version": 1, "previous": None, "issued_at": NOW, "expires_at": NOW + timedelta(days=30)}
SNP = SnpMinimum(product="Milan", bootloader=4, tee=0, snp=24, microcode=219, fmc=0, min_report_version=3)
ADMIN_TOML = """
kit = "."
name = "ada"
server = "127.0.0.1:4000"
server_node = "server"
service_enrol = "127.0.0.1:4001"
service_attested = "127.0.0.1:4002"
certificate = "admin.pem"
key = "admin.key"
signing_key = "submitter.key"
"""


@pytest.fixture(scope="module")
def organisation():
    return Ed25519PrivateKey.generate()


@pytest.fixture(scope="module")
def authority():
    return CertificateAuthority.create("admins", now=NOW, lifetime=timedelta(days=365))


@pytest.fixture
def kit(tmp_path, organisation, authority):
    entry = ReferenceEntry(name="release-1", roles=frozenset({"server"}), image=bytes(48), snp=SNP, devices=())
    root = Root(
        **DATES,
        trust_domain=DOMAIN,
        organisations={"consortium": Organisation(signing_key=raw_public_key(organisation))},
        threshold=1,
        service=ServiceIdentity(image=bytes(48), ca_certificate=b"x", result_key=bytes(32), log_key=bytes(32)),
        admin_ca_certificate=authority.der,
        development_anchors=(),
    )
    nodes = {"server": Member(organisation="consortium", role="server", tier="attested")}
    documents = {
        "root": (root, ROOT),
        "roster": (Roster(**DATES, trust_domain=DOMAIN, nodes=nodes), ROSTER),
        "reference-values": (ReferenceValues(**DATES, trust_domain=DOMAIN, entries=(entry,)), REFERENCE),
    }
    for name, (document, kind) in documents.items():
        (tmp_path / f"{name}.json").write_bytes(Envelope.sign(document, kind, [organisation]).encode())
    (tmp_path / "admin.toml").write_text(ADMIN_TOML)
    (tmp_path / "submitter.key").write_bytes(os.urandom(32))
    certify(tmp_path, authority)
    return tmp_path


def certify(kit, authority, *, uris=(ADA,), days=7):
    key = new_tls_key()
    (kit / "admin.key").write_bytes(key_pem(key))
    (kit / "admin.pem").write_bytes(
        authority.issue(
            key.public_key(),
            names=[x509.UniformResourceIdentifier(uri) for uri in uris],
            not_before=NOW,
            not_after=NOW + timedelta(days=days),
            server=False,
        )
    )


def loaded(kit, *, now=NOW):
    return load_credentials(load_settings(kit / "admin.toml", AdministratorSettings), now=now)


def test_kit_is_read_from_wherever_the_command_runs(kit):
    credentials = loaded(kit)
    assert credentials.trust.root.trust_domain == DOMAIN
    assert credentials.submitter.name == "ada"
    assert credentials.tls.certificate_pem == (kit / "admin.pem").read_bytes()
    assert credentials.keystore.folder == kit / "keys"


def test_secrets_do_not_show_in_what_is_printed(kit):
    shown = repr(loaded(kit))
    assert "PRIVATE KEY" not in shown
    assert (kit / "submitter.key").read_bytes().hex() not in shown


def test_keys_of_jobs_may_be_kept_elsewhere(kit):
    (kit / "admin.toml").write_text(ADMIN_TOML + 'keys = "../vault"\n')
    assert loaded(kit).keystore.folder == kit / ".." / "vault"


@pytest.mark.parametrize(
    "name", ["root.json", "roster.json", "reference-values.json", "admin.pem", "admin.key", "submitter.key"]
)
def test_missing_part_of_the_kit_is_named(kit, name):
    (kit / name).unlink()
    with pytest.raises(UsageError, match=f"{name} cannot be read: No such file"):
        loaded(kit)


def test_expired_certificate_is_told_in_words_before_anybody_is_called(kit, authority):
    certify(kit, authority, days=1)
    with pytest.raises(UsageError, match=r"admin\.pem ended at 2026-03-05 00:00 UTC"):
        loaded(kit, now=NOW + timedelta(days=1))


def test_certificate_of_another_authority_is_refused(kit):
    certify(kit, CertificateAuthority.create("admins", now=NOW, lifetime=timedelta(days=365)))
    with pytest.raises(UsageError, match="was not issued by the authority"):
        loaded(kit)


@pytest.mark.parametrize("uris", [(BOB,), (ADA, BOB)])
def test_certificate_that_names_somebody_else_is_refused(kit, authority, uris):
    certify(kit, authority, uris=uris)
    with pytest.raises(UsageError, match=r"admin/bob, expected spiffe://demo\.example/admin/ada"):
        loaded(kit)


@pytest.mark.parametrize("content", [b"", b"not a certificate"])
def test_file_that_is_no_certificate_is_refused(kit, content):
    (kit / "admin.pem").write_bytes(content)
    with pytest.raises(UsageError, match="is not an administrator's certificate"):
        loaded(kit)


def test_signing_key_of_another_size_is_refused(kit):
    (kit / "submitter.key").write_bytes(bytes(31))
    with pytest.raises(UsageError, match="has 31 bytes, expected a raw Ed25519 key of 32"):
        loaded(kit)


def test_documents_that_do_not_verify_or_have_expired_are_refused(kit):
    with pytest.raises(DocumentExpiredError):
        loaded(kit, now=NOW + timedelta(days=30))
    envelope = Envelope.parse((kit / "roster.json").read_bytes())
    stranger = Ed25519PrivateKey.generate()
    forged = Envelope.sign(SimpleNamespace(encode=lambda: envelope.payload), ROSTER, [stranger])
    (kit / "roster.json").write_bytes(forged.encode())
    with pytest.raises(DocumentSignatureError):
        loaded(kit)
