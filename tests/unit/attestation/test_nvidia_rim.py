from contextlib import suppress
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation.errors import AttestationError, EndorsementError, MalformedEvidenceError, SignatureError
from attestation.nvidia_gpu.chain import verify_chain
from attestation.nvidia_gpu.rim import MAX_RIM_SIZE, verify_rim
from tests.fakes.lab_nvidia import good_chain, good_pem, measurement
from tests.fakes.lab_rim import (
    DRIVER_ID,
    NAMES,
    SIGNED_INFO,
    SWITCH_BIOS,
    SWITCH_ID,
    VBIOS,
    VBIOS_ID,
    LabRim,
    good_rim_chain,
    resource,
    rim_anchors,
    rim_chain,
    rim_keys,
    unused,
)
from tests.fakes.lab_x509 import CA, NOW, certificate, ec_key, usage

GOOD = LabRim()
RAW = GOOD.encode()
OCSP_SIGNING = {"2.5.29.37": bytes.fromhex("300a06082b06010505070309")}
SHA256_METHOD = "http://www.w3.org/2001/04/xmlenc#sha256"


def check(xml: bytes, *, rim_id: str = DRIVER_ID, anchors=None, now=NOW):
    return verify_rim(xml, rim_id=rim_id, anchors=anchors or rim_anchors(), now=now)


def check_chain(ders: tuple[bytes, ...], *, now=NOW):
    """Verify a manifest that carries these certificates, under its own root, pinned."""
    return check(GOOD.but(certificates=ders).encode(), anchors=rim_anchors(root=ders[-1]), now=now)


def test_manifest_of_a_driver_says_version_and_active_measurements():
    rim = check(RAW)
    assert (rim.rim_id, rim.kind, rim.version, rim.anchor.mock) == (DRIVER_ID, "driver", "580.95.05", True)
    assert rim.measurements == {index: (measurement(index + 1),) for index in range(20, 41)}
    assert [item.serial_number for item in rim.chain] == [100, 101, 102, 103]


@pytest.mark.parametrize(
    ("rim", "rim_id", "kind"),
    [
        (VBIOS, VBIOS_ID, "vbios"),
        (VBIOS.but(version="96.00.9f.00.01"), VBIOS_ID, "vbios"),
        (SWITCH_BIOS, SWITCH_ID, "switch"),
    ],
)
def test_manifest_of_a_vbios_or_switch_is_found_by_its_version_without_dots_or_case(rim, rim_id, kind):
    found = check(rim.encode(), rim_id=rim_id)
    assert (found.kind, found.version) == (kind, rim.version)


def test_chain_with_one_authority_is_accepted():
    short = rim_chain(changes={1: {"signer": rim_keys()[3]}}, names=(NAMES[0], NAMES[1], NAMES[3]))
    root = certificate(NAMES[3], NAMES[3], key=rim_keys()[3], signer=rim_keys()[3], ca=CA)
    assert len(check_chain((*short[:2], root)).chain) == 3


def test_alternatives_are_read_in_the_order_of_their_numbers():
    digests = [bytes((number,)) * 48 for number in range(12)]
    assert check(GOOD.but(resources=(resource(7, *digests),)).encode()).measurements == {7: tuple(digests)}


@pytest.mark.parametrize(
    "declaration", ['<?xml version="1.0"?>', "<?xml version='1.0' encoding='utf-8' standalone=\"yes\" ?>\n"]
)
def test_xml_declaration_of_utf8_is_accepted(declaration):
    assert check(declaration.encode() + RAW).kind == "driver"


# --- which manifest it is ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rim_id",
    ["", "NV_GPU_DRIVER_GH100_", "NV_GPU_DRIVER_GH100_580.95.05/..", "NV_GPU_VBIOS_1010_0200_885_96.00.9F.00.01", "x"],
)
def test_id_that_names_no_manifest_is_malformed(rim_id):
    with pytest.raises(MalformedEvidenceError, match="RIM id is"):
        check(RAW, rim_id=rim_id)


@pytest.mark.parametrize(
    ("rim", "rim_id", "message"),
    [
        (GOOD.but(version="580.95.06"), DRIVER_ID, "version '580.95.06'"),
        (GOOD.but(product="GB100"), DRIVER_ID, "product 'GB100'"),
        (GOOD.but(edition="SWITCH"), DRIVER_ID, "edition 'SWITCH'"),
        (GOOD.but(meta="<ns0:Meta/>"), DRIVER_ID, "edition 'none'"),
        (VBIOS, DRIVER_ID, "version '96.00.9F.00.01'"),
        (GOOD, VBIOS_ID, "version '5809505'"),
        (VBIOS, SWITCH_ID, "edition 'GPU'"),
    ],
)
def test_manifest_of_something_else_than_its_id_names_is_rejected(rim, rim_id, message):
    with pytest.raises(EndorsementError, match=message):
        check(rim.encode(), rim_id=rim_id)


# --- syntax ------------------------------------------------------------------------------------------------------------

BOMB = "<!DOCTYPE x [<!ENTITY a 'aaaaaaaaaa'><!ENTITY b '&a;&a;&a;&a;&a;&a;&a;&a;'>]>"


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        (b"<!DOCTYPE SoftwareIdentity SYSTEM 'file:///etc/passwd'>" + RAW, "RIM has '<!' at 0"),
        (BOMB.encode() + RAW, "RIM has '<!' at 0"),
        (RAW.replace(b"<ns0:Payload>", b"<!-- x --><ns0:Payload>"), "RIM has '<!' at"),
        (RAW.replace(b"<ns0:Payload>", b"<![CDATA[x]]><ns0:Payload>"), "RIM has '<!' at"),
        (RAW.replace(b"<ns0:Payload>", b"<?x y?><ns0:Payload>"), "RIM has '<\\?' at"),
        (b'<?xml version="1.0" encoding="utf-16"?>' + RAW, "RIM has '<\\?' at 0"),
        (b'<?xml version="1.0"?><?xml version="1.0"?>' + RAW, "RIM has '<\\?' at 0"),
        (RAW.decode().encode("utf-16-le"), "RIM has '\\\\x00' at 1"),
        (RAW.decode().encode("utf-16"), "RIM is not UTF-8 at byte 0"),
        (RAW.replace(b"tagId", b"\xff"), "RIM is not UTF-8"),
        (RAW[:-1], "not well-formed"),
        (RAW.replace(b'tagId="x"', b'tagId="&x;"'), "not well-formed"),
        (b"", "not well-formed"),
        (RAW.replace(b"SoftwareIdentity", b"Evil"), "RIM starts with"),
        (RAW.replace(b"19770/-2/2015", b"19770/-2/2009"), "RIM starts with"),
        (bytes(MAX_RIM_SIZE + 1), f"expected at most {MAX_RIM_SIZE}"),
    ],
)
def test_markup_other_than_elements_is_refused_before_it_is_read(xml, message):
    with pytest.raises(MalformedEvidenceError, match=message):
        check(xml)


# --- the form of the signature -----------------------------------------------------------------------------------------

SIGNATURE = RAW[RAW.index(b"<ds:Signature ") : RAW.index(b"</SoftwareIdentity>")]


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        (RAW.replace(SIGNATURE, b""), "0 signatures"),
        (RAW.replace(SIGNATURE, SIGNATURE * 2), "2 signatures, 2 below"),
        (RAW.replace(SIGNATURE, b"<x>" + SIGNATURE + b"</x>"), "1 signatures, 0 below"),
        (RAW.replace(SIGNATURE, SIGNATURE + b"<x>" + SIGNATURE + b"</x>"), "2 signatures, 1 below"),
        (RAW.replace(b"<ds:KeyInfo>", b"<ds:Object/><ds:KeyInfo>"), "other parts"),
        (RAW.replace(b"<ds:KeyInfo>", b"<ds:KeyInfo><ds:KeyName/>"), "other key information"),
        (RAW.replace(b"<ds:X509Certificate>", b"<ds:X509SKI/><ds:X509Certificate>", 1), "something between them"),
        (GOOD.but(certificates=()).encode(), "no certificates"),
    ],
)
def test_signature_of_another_shape_is_rejected(xml, message):
    with pytest.raises(SignatureError, match=message):
        check(xml)


def test_signed_manifest_inside_a_forged_one_is_rejected():
    forged = GOOD.but(resources=(resource(20, bytes(48)),)).body() + "<x>" + RAW.decode() + "</x></SoftwareIdentity>"
    with pytest.raises(SignatureError, match="1 signatures, 0 below"):
        check(forged.encode())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('URI=""', 'URI="#x"'),
        (' URI=""', ""),
        ("2006/12/xml-c14n11", "2001/10/xml-exc-c14n#"),
        ("xmldsig-more#ecdsa-sha384", "xmldsig-more#ecdsa-sha256"),
        ("http://www.w3.org/2001/04/xmldsig-more#sha384", SHA256_METHOD),
        ('<ds:Transform Algorithm="http://www.w3.org/2000/09/xmldsig#enveloped-signature"/>', ""),
        ("<ds:Transforms>", '<ds:Transforms><ds:Transform Algorithm="http://www.w3.org/TR/1999/REC-xpath-19991116"/>'),
        ("</ds:SignedInfo>", '<ds:Reference URI=""/></ds:SignedInfo>'),
    ],
)
def test_signature_over_less_than_the_document_or_by_another_scheme_is_rejected(old, new):
    assert old in SIGNED_INFO
    with pytest.raises(SignatureError, match="RIM signature covers"):
        check(GOOD.but(signed_info=SIGNED_INFO.replace(old, new)).encode())


# --- the signer --------------------------------------------------------------------------------------------------------


def test_manifest_under_a_root_that_is_not_pinned_is_rejected():
    stranger = certificate(NAMES[3], NAMES[3], key=rim_keys()[3], signer=rim_keys()[3], ca=CA, serial=99)
    with pytest.raises(SignatureError, match="root certificate has SHA-256"):
        check(GOOD.but(certificates=(*good_rim_chain()[:3], stranger)).encode())


def test_manifest_under_the_root_of_devices_is_rejected():
    with pytest.raises(SignatureError, match="root certificate has SHA-256"):
        check(RAW, anchors=rim_anchors(product="Device Identity"))


def test_device_under_the_root_of_manifests_is_rejected():
    with pytest.raises(SignatureError, match="root certificate has SHA-256"):
        verify_chain(good_pem(), anchors=rim_anchors(root=good_chain()[-1]), now=NOW)


def test_manifest_signed_by_the_root_itself_is_rejected():
    with pytest.raises(SignatureError, match="RIM has 1 certificates"):
        check(GOOD.but(certificates=good_rim_chain()[3:], key=rim_keys()[3]).encode())


@pytest.mark.parametrize("count", [2, 5])
def test_chain_of_another_length_is_rejected(count):
    signer, *authorities, root = good_rim_chain()
    middle = (authorities * 2)[: count - 2]
    with pytest.raises(SignatureError, match=f"RIM has {count} certificates, expected 3 or 4"):
        check(GOOD.but(certificates=(signer, *middle, root)).encode())


@pytest.mark.parametrize(
    "changes",
    [
        {"ca": CA},
        {"key_usage": None},
        {"key_usage": usage(certify=True)},
        {"key_usage": usage(sign=True, certify=True)},
        {"extensions": OCSP_SIGNING},
    ],
    ids=["authority", "no-usage", "may-not-sign", "may-certify", "ocsp"],
)
def test_signer_that_is_for_something_else_is_rejected(changes):
    with pytest.raises(SignatureError, match="expected a manifest signer"):
        check_chain(rim_chain(changes={0: changes}))


@pytest.mark.parametrize(
    "name", ["OCSP Responder L3 GH100 002", "Reference Value L3 GH100 002", "GH100 A01 GSP FMC LF"]
)
def test_signer_with_another_role_is_rejected(name):
    with pytest.raises(SignatureError, match=f"RIM is signed by '{name}'"):
        check_chain(rim_chain(names=(name, *NAMES[1:])))


@pytest.mark.parametrize("place", [0, 1, 2])
def test_certificate_signed_by_a_stranger_is_rejected(place):
    with pytest.raises(SignatureError, match="does not verify with the key of"):
        check_chain(rim_chain(changes={place: {"signer": ec_key()}}))


@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_certificate_that_expired_is_rejected(place):
    with pytest.raises(SignatureError, match="certificate has expired"):
        check_chain(rim_chain(changes={place: {"not_after": datetime(2025, 1, 1, tzinfo=UTC)}}))


def test_manifest_before_its_signer_is_valid_is_rejected():
    with pytest.raises(SignatureError, match="not yet valid"):
        check(RAW, now=datetime(2023, 1, 1, tzinfo=UTC))


def test_signer_with_a_key_on_another_curve_is_rejected():
    key = ec_key(ec.SECP256R1())
    ders = rim_chain(changes={0: {"key": key}})
    with pytest.raises(SignatureError, match="signer's key is not on P-384"):
        check(GOOD.but(certificates=ders, key=key).encode(), anchors=rim_anchors(root=ders[-1]))


def test_certificate_that_is_not_base64_is_malformed():
    with pytest.raises(MalformedEvidenceError, match="not base64"):
        check(RAW.replace(b"<ds:X509Certificate>", b"<ds:X509Certificate>*", 1))


def test_certificate_that_does_not_decode_is_malformed():
    with pytest.raises(MalformedEvidenceError, match="RIM certificate does not decode"):
        check(GOOD.but(certificates=(b"x", *good_rim_chain()[1:])).encode())


# --- the signature -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "xml",
    [
        GOOD.but(key=ec_key()).encode(),
        RAW.replace(b'active="False"', b'active="True"', 1),
        RAW.replace(b'active="True"', b'active="False"', 1),
        RAW.replace(measurement(21).hex().encode(), bytes(48).hex().encode()),
        RAW.replace(b"580.95.05", b"580.95.06"),
        RAW.replace(b"<ds:SignatureValue>", b"<ds:SignatureValue>AAAA"),
        RAW.replace(b"<ds:DigestValue>", b"<ds:DigestValue>AAAA"),
        RAW[: RAW.index(b"<ds:SignatureValue>") + 19] + RAW[RAW.index(b"</ds:SignatureValue>") :],
    ],
    ids=["key", "activated", "deactivated", "digest", "version", "value", "digest-value", "empty"],
)
def test_manifest_that_was_edited_or_is_signed_by_another_key_is_rejected(xml):
    with pytest.raises(SignatureError, match="RIM signature does not verify with its signer's key"):
        check(xml)


# --- the manifest ------------------------------------------------------------------------------------------------------

D = bytes(48)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"meta": ""}, "0 Meta elements"),
        ({"meta": "<ns0:Meta/><ns0:Meta/>"}, "2 Meta elements"),
        ({"resources": ("</ns0:Payload><ns0:Payload>",)}, "2 Payload elements"),
        ({"resources": (resource(7, D), resource(7, D))}, "index '7'"),
        ({"resources": (unused(7), resource(7, D))}, "index '7'"),
        ({"resources": (resource(64, D),)}, "index '64'"),
        ({"resources": (resource("07", D),)}, "index '07'"),
        ({"resources": (resource("-1", D),)}, "index '-1'"),
        ({"resources": (resource(7, D, active="true"),)}, "no active or inactive Measurement"),
        ({"resources": (resource(7, D, type="Other"),)}, "no active or inactive Measurement"),
        ({"resources": (resource(7, D, tag="File"),)}, "no active or inactive Measurement"),
        ({"resources": (resource(7),)}, "index 7 has other digests"),
        ({"resources": (resource(7, D, D, alternatives="1"),)}, "index 7 has other digests"),
        ({"resources": (resource(7, D).replace("Hash0", "Hash1"),)}, "index 7 has other digests"),
        ({"resources": (resource(7, bytes(32)),)}, "index 7 has a digest that is not SHA-384"),
        (
            {"resources": (resource(7, D, **{"ns2:Hash0": "0x" + "0" * 94}),)},
            "index 7 has a digest that is not SHA-384",
        ),
        ({"resources": (resource(7, D, size="32"),)}, "index 7 has a digest that is not SHA-384"),
    ],
)
def test_signed_content_that_is_no_manifest_is_malformed(changes, message):
    with pytest.raises(MalformedEvidenceError, match=message):
        check(GOOD.but(**changes).encode())


@settings(max_examples=60, deadline=None)
@given(st.integers(0), st.binary(min_size=1, max_size=4))
def test_edited_manifest_raises_nothing_but_attestation_errors(position, piece):
    raw = bytearray(RAW)
    start = position % len(raw)
    raw[start : start + len(piece)] = piece
    with suppress(AttestationError):
        assert check(bytes(raw)).measurements == check(RAW).measurements


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200) | st.text(alphabet='<>&;"=/ax:!?[]', max_size=80).map(str.encode))
def test_bytes_that_are_no_manifest_raise_nothing_but_attestation_errors(raw):
    with pytest.raises(AttestationError):
        check(raw)
