"""Asking a TEE device socket, and how large the answers may be."""

import socket
import threading
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.attester import (
    MAX_FRAME_BYTES,
    CpuReply,
    CpuRequest,
    DescribeReply,
    DeviceReply,
    DeviceRequest,
    DeviceSocketReply,
    DeviceSocketRequest,
    Refusal,
    SocketAttester,
    receive_frame,
    send_frame,
)
from attestation.errors import AttesterUnavailableError, MalformedEvidenceError
from attestation.evidence import (
    MAX_CHAIN_CERTIFICATES,
    MAX_CPU_BYTES,
    MAX_DEVICE_BYTES,
    MAX_DEVICES,
    CpuEvidence,
    DeviceEvidence,
    Evidence,
)
from policies.encoding import u32
from policies.errors import MalformedDocumentError


@contextmanager
def device(path, answer):
    """A device that gives each connection to `answer` in turn, until the block ends."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen()
    stopped = threading.Event()

    def serve():
        while True:
            connection, _ = listener.accept()
            with connection:
                if stopped.is_set():
                    return
                answer(connection)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield SocketAttester(path, timeout_seconds=0.2)
    finally:
        stopped.set()
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as wake:
            wake.connect(str(path))
        thread.join()
        listener.close()


def replying(reply, seen=None):
    def answer(connection):
        request = DeviceSocketRequest.parse(receive_frame(connection, timeout_seconds=1)).request
        if seen is not None:
            seen.append(request)
        send_frame(connection, DeviceSocketReply(reply=reply).encode())

    return answer


def test_description_names_cpu_and_devices_in_order(tmp_path):
    with device(tmp_path / "s", replying(DescribeReply(kind="snp", devices=("gpu", "switch")))) as attester:
        found = attester.describe()
    assert (found.kind, found.devices) == ("snp", ("gpu", "switch"))


def test_cpu_evidence_arrives_as_it_was_sent_and_report_data_as_it_was_asked(tmp_path):
    seen = []
    reply = CpuReply(kind="snp", report=b"\x00report\xff", endorsements=b"table")
    with device(tmp_path / "s", replying(reply, seen)) as attester:
        found = attester.collect_cpu(bytes(range(64)))
    assert found == CpuEvidence(kind="snp", report=b"\x00report\xff", endorsements=b"table")
    assert seen == [CpuRequest(report_data=bytes(range(64)))]


def test_device_evidence_arrives_as_it_was_sent_and_nonce_as_it_was_asked(tmp_path):
    seen = []
    reply = DeviceReply(device_class="gpu", vendor="nvidia", report=b"r", chain=b"c")
    with device(tmp_path / "s", replying(reply, seen)) as attester:
        found = attester.collect_device(3, b"n" * 32)
    assert found == DeviceEvidence(device_class="gpu", vendor="nvidia", report=b"r", chain=b"c")
    assert seen == [DeviceRequest(index=3, nonce=b"n" * 32)]


def test_absent_socket_is_reported_with_what_to_do(tmp_path):
    with pytest.raises(AttesterUnavailableError, match=r"no TEE device at .*/absent\.sock: No such file") as caught:
        SocketAttester(tmp_path / "absent.sock").describe()
    assert "is `cloister mock-tee serve` running" in caught.value.hint


def test_socket_without_a_process_behind_it_is_reported(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left_behind:
        left_behind.bind(str(tmp_path / "s"))
    with pytest.raises(AttesterUnavailableError, match="Connection refused"):
        SocketAttester(tmp_path / "s").describe()


def test_path_too_long_for_a_socket_is_reported(tmp_path):
    with pytest.raises(AttesterUnavailableError, match="too long"):
        SocketAttester(tmp_path / ("x" * 120)).describe()


def test_refusal_is_reported_with_its_reason(tmp_path):
    refusing = replying(Refusal(reason="no device 7"))
    with (
        device(tmp_path / "s", refusing) as attester,
        pytest.raises(AttesterUnavailableError, match="refused: no device 7"),
    ):
        attester.collect_device(7, bytes(32))


def test_answer_to_another_question_is_refused(tmp_path):
    other = replying(CpuReply(kind="snp", report=b"", endorsements=b""))
    with device(tmp_path / "s", other) as attester, pytest.raises(AttesterUnavailableError, match="answered 'cpu'"):
        attester.describe()


def test_silent_device_is_given_up_after_the_timeout(tmp_path):
    asked = threading.Event()
    given_up = threading.Event()

    def silent(connection):
        receive_frame(connection, timeout_seconds=1)
        asked.set()
        given_up.wait(5)

    with device(tmp_path / "s", silent) as attester:
        with pytest.raises(AttesterUnavailableError, match=r"did not answer within 0\.2 seconds"):
            attester.describe()
        given_up.set()
    assert asked.is_set()


def test_dripping_device_is_given_up_after_the_timeout(tmp_path):
    given_up = threading.Event()

    def dripping(connection):
        receive_frame(connection, timeout_seconds=1)
        connection.sendall(u32(1000))
        while not given_up.wait(0.02):
            connection.sendall(b"x")

    with device(tmp_path / "s", dripping) as attester:
        with pytest.raises(AttesterUnavailableError, match="did not answer within"):
            attester.describe()
        given_up.set()


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (u32(MAX_FRAME_BYTES + 1), "frame announces"),
        (u32(100) + b"short", "closed after 5 bytes, expected 100"),
        (b"\x00", "closed after 1 bytes, expected 4"),
        (u32(9) + b"not json.", "not strict JSON"),
        (u32(2) + b"{}", "DeviceSocketReply"),
        (u32(69) + b'{"reply":{"answer":"cpu","kind":"sgx","report":"","endorsements":""}}', "found 'sgx'"),
    ],
)
def test_unusable_answer_is_refused(tmp_path, sent, reason):
    def answer(connection):
        receive_frame(connection, timeout_seconds=1)
        connection.sendall(sent)

    with device(tmp_path / "s", answer) as attester, pytest.raises(AttesterUnavailableError, match=reason):
        attester.describe()


def test_frame_that_never_comes_is_given_up_on_a_socket_without_a_timeout():
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(TimeoutError):
        receive_frame(ours, timeout_seconds=0.05)


@pytest.mark.parametrize("size", [0, 63, 65])
def test_report_data_of_another_size_is_never_asked_for(tmp_path, size):
    with pytest.raises(ValueError, match="report_data"):
        SocketAttester(tmp_path / "absent.sock").collect_cpu(bytes(size))


def test_nonce_of_another_size_is_never_asked_for(tmp_path):
    with pytest.raises(ValueError, match="nonce"):
        SocketAttester(tmp_path / "absent.sock").collect_device(0, bytes(31))


@given(st.binary(max_size=200))
def test_parsing_any_reply_fails_as_a_malformed_document_or_not_at_all(raw):
    try:
        DeviceSocketReply.parse(raw)
    except MalformedDocumentError:
        return


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_replies_survive_encoding(report, endorsements):
    reply = DeviceSocketReply(reply=CpuReply(kind="tdx", report=report, endorsements=endorsements))
    assert DeviceSocketReply.parse(reply.encode()) == reply


def test_largest_evidence_fits_into_a_frame():
    reply = DeviceReply(device_class="gpu", vendor="nvidia", report=bytes(MAX_DEVICE_BYTES), chain=b"")
    assert len(DeviceSocketReply(reply=reply).encode()) < MAX_FRAME_BYTES


# --- sizes of evidence -----------------------------------------------------------------------------------------------


def cpu(*, report=b"r", endorsements=b""):
    return CpuEvidence(kind="snp", report=report, endorsements=endorsements)


def gpu(*, report=b"r", chain=b""):
    return DeviceEvidence(device_class="gpu", vendor="nvidia", report=report, chain=chain)


CERTIFICATE = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


def test_evidence_at_every_limit_is_accepted():
    full = gpu(report=bytes(MAX_DEVICE_BYTES - 10), chain=bytes(10))
    short = gpu(chain=CERTIFICATE * MAX_CHAIN_CERTIFICATES)
    Evidence(
        cpu=cpu(report=bytes(MAX_CPU_BYTES - 10), endorsements=bytes(10)),
        devices=(full,) + (short,) * (MAX_DEVICES - 1),
    ).check_sizes()


@pytest.mark.parametrize(
    ("evidence", "reason"),
    [
        (Evidence(cpu=cpu(report=bytes(MAX_CPU_BYTES), endorsements=b"1"), devices=()), "CPU evidence has 65537 bytes"),
        (
            Evidence(cpu=cpu(), devices=(gpu(report=bytes(MAX_DEVICE_BYTES), chain=b"1"),)),
            "gpu evidence has 131073 bytes",
        ),
        (Evidence(cpu=cpu(), devices=(gpu(chain=CERTIFICATE * 9),)), "chain has 9 certificates, at most 8"),
        (Evidence(cpu=cpu(), devices=(gpu(),) * 17), "evidence of 17 devices, at most 16"),
    ],
)
def test_evidence_over_a_limit_is_refused(evidence, reason):
    with pytest.raises(MalformedEvidenceError, match=reason):
        evidence.check_sizes()
