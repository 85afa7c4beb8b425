from contextlib import suppress

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from attestation.errors import MalformedEvidenceError
from attestation.tdx.quote import MAX_QUOTE_SIZE, Quote
from attestation.tdx.report import ATTRIBUTE_BITS, TdReport, parse_attributes
from tests.fakes.lab_tdx import SEPT_VE_DISABLE, TEE_TCB_SVN, LabQuote, pck_pem

GOOD = LabQuote()
EXTENDED = LabQuote(version=5, extended=True)


def test_quote_gives_every_field_at_its_offset():
    lab = EXTENDED.but(mr_signer_seam=b"\x51" * 48, seam_attributes=b"\x5a" * 8, mr_service_td=b"\x5d" * 48)
    lab = lab.but(tee_tcb_svn_2=b"\x52" * 16)
    quote = Quote.parse(lab.encode())
    report = quote.report
    assert (quote.version, quote.user_data, quote.pck_chain) == (5, b"\x33" * 20, pck_pem())
    assert (quote.qe_report, len(quote.qe_report_signature)) == (lab.qe_report(), 64)
    assert (report.tee_tcb_svn, report.mr_seam, report.mr_signer_seam) == (TEE_TCB_SVN, b"\x5e" * 48, b"\x51" * 48)
    assert (report.seam_attributes, report.attributes, report.xfam) == (b"\x5a" * 8, {"sept_ve_disable"}, 0x602E7)
    assert (report.mr_td, report.mr_config_id) == (b"\x4d" * 48, b"\xc1" * 48)
    assert (report.mr_owner, report.mr_owner_config) == (b"\x01" * 48, b"\x02" * 48)
    assert report.rtmrs == tuple(bytes((0xA0 + index,)) * 48 for index in range(4))
    assert (report.report_data, report.mr_service_td) == (bytes(range(64)), b"\x5d" * 48)
    assert report.tee_tcb_svn_2 == b"\x52" * 16


@pytest.mark.parametrize("quote", [GOOD, LabQuote(version=5)], ids=["version 4", "version 5"])
def test_report_of_tdx_1_0_has_no_second_svn_and_no_service(quote):
    report = Quote.parse(quote.encode()).report
    assert (report.tee_tcb_svn_2, report.mr_service_td) == (None, None)


def test_zeros_behind_the_end_are_padding_and_are_left_out():
    raw = GOOD.encode()
    assert Quote.parse(raw + bytes(70)).raw == raw


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"padding": bytes(8) + b"EVIL"}, "12 bytes behind its end"),
        ({"padding": bytes(MAX_QUOTE_SIZE)}, "expected 48 to 32768"),
        ({"version": 3}, "quote version is 3"),
        ({"version": 6}, "quote version is 6"),
        ({"key_type": 3}, "attestation key type is 3"),
        ({"tee": 0}, "quote is of TEE 0x0"),
        ({"vendor": bytes(16)}, "quoting enclave is of vendor"),
        ({"version": 5, "body_type": 1}, "body is of type 1 and 584"),
        ({"version": 5, "body_type": 4}, "body is of type 4 and 584"),
        ({"version": 5, "body_type": 3}, "body is of type 3 and 584"),
        ({"version": 5, "body_size": 583}, "body is of type 2 and 583"),
        ({"qe_report_data_tail": bytes(31) + b"\1"}, "longer than a SHA-256"),
        ({"inner_type": 3}, "of type 3 and"),
        ({"outer_type": 5}, "of type 5 and"),
        ({"inner_behind": b"\0"}, "of type 5 and"),
        ({"outer_behind": b"\0"}, "of type 6 and"),
    ],
)
def test_quote_that_breaks_the_format_is_rejected(change, reason):
    with pytest.raises(MalformedEvidenceError, match=reason):
        Quote.parse(GOOD.but(**change).encode())


def test_buffer_of_the_largest_size_is_read():
    raw = GOOD.encode()
    assert Quote.parse(raw.ljust(MAX_QUOTE_SIZE, b"\0")).raw == raw


def test_quote_cut_anywhere_is_rejected():
    raw = GOOD.encode()
    for size in (*range(0, len(raw), 97), len(raw) - 1):
        with pytest.raises(MalformedEvidenceError):
            Quote.parse(raw[:size])


@pytest.mark.parametrize("name", ATTRIBUTE_BITS)
def test_attribute_is_read_by_name(name):
    assert parse_attributes(1 << ATTRIBUTE_BITS[name]) == {name}


@pytest.mark.parametrize("bit", sorted(set(range(64)) - set(ATTRIBUTE_BITS.values())))
def test_attribute_bit_that_intel_does_not_define_is_rejected(bit):
    with pytest.raises(MalformedEvidenceError, match=f"expected bits {1 << bit:#x} to be zero"):
        parse_attributes(SEPT_VE_DISABLE | 1 << bit)


@pytest.mark.parametrize("size", [0, 583, 585, 647, 649])
def test_report_of_another_size_is_rejected(size):
    with pytest.raises(MalformedEvidenceError, match=f"TD report has {size} bytes"):
        TdReport.parse(bytes(size))


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=1500))
@example(b"")
def test_quote_parser_raises_nothing_but_malformed_evidence(raw):
    with suppress(MalformedEvidenceError):
        Quote.parse(raw)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([GOOD, EXTENDED]), st.integers(0, 1500), st.binary(min_size=1, max_size=8))
def test_quote_with_bytes_overwritten_parses_or_is_malformed(quote, offset, patch):
    raw = bytearray(quote.encode())
    raw[offset : offset + len(patch)] = patch
    with suppress(MalformedEvidenceError):
        assert bytes(raw).startswith(Quote.parse(bytes(raw)).raw)
