"""One node for the life of one boot: what it starts from must open, be its own, and be no older than before."""

import asyncio
from datetime import timedelta

import pytest

from attestation import node as node_module
from attestation.channel.credentials import TlsIdentity
from attestation.channel.status import UnreachableError
from attestation.enrolment import Identity, ServiceAddress
from attestation.errors import AttestationError
from attestation.node import Node, NodeSettings, advance_floor, load_kit, open_site_policy, start_node
from policies import site_policy
from policies.documents import Envelope
from policies.errors import (
    DocumentExpiredError,
    DocumentSignatureError,
    MalformedDocumentError,
    RollbackError,
    UsageError,
)
from policies.site_policy import Execute, Persist, Receive, Return, SitePolicy
from policies.version_floor import FloorFile, VersionFloor
from tests.fakes.drafts import draft_result
from tests.fakes.trust_domain import (
    IMAGE,
    IN_FORCE,
    NOW,
    domain,
    draft_root,
    signed,
)

SITE = "hospital-a"
NOTHING = VersionFloor({})


def policy_of(*, signer="north", kind=site_policy.KIND, **changes):
    fields = {
        **IN_FORCE,
        "site": SITE,
        "receive": Receive(
            server_images=frozenset({IMAGE}),
            accept_mock=True,
            peer_tiers=frozenset({"attested"}),
            max_model_bytes=1,
        ),
        "execute": Execute(submitters=frozenset(), code_sha256=frozenset(), max_rounds=1),
        "returns": Return(
            profiles=frozenset({"tee+mask"}),
            metrics=frozenset(),
            min_cohort=2,
            min_survivors=2,
            max_clip_micros=1,
            max_weight_cap=1,
            script_errors=False,
        ),
        "persist": Persist(model=False, logs=False),
    }
    return signed(SitePolicy(**(fields | changes)), kind, signer)


def kit_of(folder, node=SITE, **changed):
    """Write a start-up kit; a file that is None is left out."""
    files = {
        "root": domain().root,
        "roster": domain().roster,
        "reference-values": domain().reference_values,
        "grant": domain().grant(node),
        "init-data": domain().init_data(node),
        "policy": policy_of(),
    }
    folder.mkdir(exist_ok=True)
    for name, content in (files | changed).items():
        if content is not None:
            (folder / f"{name}.json").write_bytes(content)
    return folder


@pytest.fixture
def load(tmp_path):
    return lambda node=SITE, **changed: load_kit(kit_of(tmp_path / "kit", node, **changed), now=NOW)


# --- the kit ---------------------------------------------------------------------------------------------------------


def test_kit_opens_for_its_node(load):
    documents = load()
    assert documents.trust == domain().trust
    assert (documents.grant, documents.site_policy) == (domain().grant(SITE), policy_of())
    assert open_site_policy(documents, now=NOW).site == SITE


def test_server_has_no_policy_of_a_site(load):
    documents = load("server")
    assert documents.site_policy is None
    with pytest.raises(UsageError, match="server has no policy"):
        open_site_policy(documents, now=NOW)


@pytest.mark.parametrize("name", ["root", "roster", "reference-values", "grant", "init-data", "policy"])
def test_file_that_is_missing_is_named(load, name):
    with pytest.raises(UsageError, match=rf"{name}\.json cannot be read"):
        load(**{name: None})


def test_root_that_init_data_does_not_pin_is_refused(load):
    another = signed(draft_root(threshold=1), "root")
    with pytest.raises(DocumentSignatureError, match="expected the pinned"):
        load(root=another)


def test_init_data_that_names_another_organisation_is_refused(load):
    with pytest.raises(DocumentSignatureError, match="init_data names another organisation for hospital-a"):
        load(**{"init-data": domain().init_data(SITE, organisation_key=bytes(32))})


def test_init_data_that_is_malformed_is_refused(load):
    with pytest.raises(MalformedDocumentError):
        load(**{"init-data": b"{}"})


# --- the policy ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "error", "said"),
    [
        (policy_of(signer="east"), DocumentSignatureError, "0 valid signatures"),
        (policy_of(kind="grant"), DocumentSignatureError, "expected application/vnd.cloister.site-policy"),
        (policy_of(site="hospital-b"), DocumentSignatureError, "the policy is of hospital-b"),
        (policy_of(trust_domain="other.mock"), DocumentSignatureError, "in other.mock, this is hospital-a"),
        (policy_of(issued_at=NOW - timedelta(days=9), expires_at=NOW), DocumentExpiredError, "SitePolicy version 1"),
    ],
)
def test_policy_that_is_not_the_sites_own_and_in_force_is_refused(load, policy, error, said):
    with pytest.raises(error, match=said):
        open_site_policy(load(policy=policy), now=NOW)


# --- versions --------------------------------------------------------------------------------------------------------


def test_floor_knows_every_document_of_the_kit(load):
    floor = advance_floor(NOTHING, load(), now=NOW)
    assert {name: version for name, (version, _) in floor.seen.items()} == dict.fromkeys(
        ("root", "roster", "reference values", "grant", "site policy"), 1
    )
    assert floor.seen["grant"][1] == Envelope.parse(domain().grant(SITE)).digest
    assert advance_floor(floor, load(), now=NOW) == floor


@pytest.mark.parametrize("name", ["root", "roster", "reference values", "grant", "site policy"])
def test_document_that_is_older_than_before_is_refused(load, name):
    with pytest.raises(RollbackError, match=f"{name} has version 1, version 2 was already seen"):
        advance_floor(VersionFloor({name: (2, bytes(32))}), load(), now=NOW)


def test_grant_of_another_organisation_is_not_counted(load):
    with pytest.raises(DocumentSignatureError):
        advance_floor(NOTHING, load(grant=domain().grant(SITE, signer="east")), now=NOW)


# --- the program -----------------------------------------------------------------------------------------------------


def settings_of(tmp_path, **changed):
    return NodeSettings(
        kit=kit_of(tmp_path / "kit", **changed),
        service=ServiceAddress(enrol="127.0.0.1:1", attested="127.0.0.1:2"),
        tee_socket=tmp_path / "tee.sock",
        state=tmp_path / "state",
        audit=tmp_path / "audit" / SITE,
    )


def identity_of(**changes):
    return Identity(
        result=draft_result(**changes),
        token=b"",
        certificate_pem=b"",
        attestation=b"",
        tls=TlsIdentity(b"", b""),
    )


class Enrolment:
    """Answers attestations from a list of identities and errors."""

    node = SITE

    def __init__(self, *answers):
        self.answers, self.asked = list(answers), []

    async def attest(self, purpose, *, peer_nonces=()):
        self.asked.append((purpose, tuple(peer_nonces)))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def test_node_starts_with_a_log_that_its_own_key_signs_and_remembers_its_documents(tmp_path):
    node = start_node(settings_of(tmp_path), clock=lambda: NOW)
    try:
        assert node.name == SITE
        assert node.log.checkpoint().verify(origin=f"{domain().trust.root.trust_domain}/{SITE}", key=node.keys.sign_pk)
        assert set(FloorFile(tmp_path / "state" / "versions.json").load().seen) >= {"root", "grant"}
        with pytest.raises(AttestationError, match="hospital-a has not attested yet"):
            _ = node.identity
    finally:
        node.log.release()


def test_node_does_not_start_from_an_older_grant_than_it_had(tmp_path):
    newer = domain().grant(SITE, version=2, previous=Envelope.parse(domain().grant(SITE)).digest)
    start_node(settings_of(tmp_path, grant=newer), clock=lambda: NOW).log.release()
    with pytest.raises(RollbackError, match="grant has version 1, version 2 was already seen"):
        start_node(settings_of(tmp_path), clock=lambda: NOW)


async def test_new_identity_is_told_to_everybody_who_asked():
    one, two = identity_of(jti="1" * 32), identity_of(jti="2" * 32)
    enrolment = Enrolment(one, two)
    node, told = Node(enrolment, None, None, clock=lambda: NOW), []
    node.on_renewal(told.append)
    await node.attest()
    await node.attest(purpose="release", peer_nonces=[bytes(32)])
    assert (told, node.identity) == ([one, two], two)
    assert enrolment.asked == [("issue", ()), ("release", (bytes(32),))]


async def test_node_says_that_mock_evidence_is_not_attested_by_hardware():
    node = Node(Enrolment(identity_of()), None, None, clock=lambda: NOW)
    await node.attest()
    assert "mock TEE, nothing here is attested by hardware" in node.describe()


async def test_identity_is_renewed_in_the_way_that_a_program_asks_for(monkeypatch):
    async def at_once(_):
        pass

    async def renew():
        raise asyncio.CancelledError

    monkeypatch.setattr(node_module.asyncio, "sleep", at_once)
    node = Node(Enrolment(identity_of()), None, None, clock=lambda: NOW)
    await node.attest()
    with pytest.raises(asyncio.CancelledError):
        await node.keep_fresh(renew)


async def test_identity_is_renewed_at_half_life_and_a_failure_is_tried_again(monkeypatch):
    waits = []

    async def sleep(seconds):
        waits.append(seconds)
        if len(waits) > 3:
            raise asyncio.CancelledError

    monkeypatch.setattr(node_module.asyncio, "sleep", sleep)
    enrolment = Enrolment(identity_of(), UnreachableError("gone"), identity_of(jti="2" * 32))
    node = Node(enrolment, None, None, clock=lambda: NOW)
    await node.attest()
    with pytest.raises(asyncio.CancelledError):
        await node.keep_fresh()
    assert node.identity.result.jti == "2" * 32
    assert 0.45 * 1800 <= waits[0] <= 0.55 * 1800
    assert waits[1] == 10
