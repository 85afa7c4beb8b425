"""A certificate that rotates while others shake hands: in a process of its own, because the fault this guards against ends it."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import asyncio, socket, ssl, threading
from datetime import UTC, datetime, timedelta

import grpc
from cryptography import x509

from attestation.channel.credentials import RotatingServerCredentials, TlsIdentity
from attestation.issue import CertificateAuthority
from attestation.keys import BootKeys

NOW = datetime.now(UTC)
AUTHORITY = CertificateAuthority.create("authority", now=NOW, lifetime=timedelta(days=1))
KEYS = BootKeys.generate()


def identity():
    names, end = [x509.DNSName("a.test")], NOW + timedelta(hours=1)
    leaf = AUTHORITY.issue(KEYS.tls.public_key(), names=names, not_before=NOW, not_after=end, server=True)
    return TlsIdentity(KEYS.tls_key_pem(), leaf)


def serial(port):
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", port), timeout=10) as plain:
        tls = context.wrap_socket(plain, server_hostname="a.test")
        return x509.load_der_x509_certificate(tls.getpeercert(binary_form=True)).serial_number


async def main():
    credentials = RotatingServerCredentials(identity(), client_roots_pem=None)
    server = grpc.aio.server()
    port = server.add_secure_port("127.0.0.1:0", credentials.credentials())
    await server.start()
    over, shaken, seen = threading.Event(), [], set()

    def shake():
        while not over.is_set():
            seen.add(serial(port))
            shaken.append(1)

    threads = [threading.Thread(target=shake) for _ in range(6)]
    for thread in threads:
        thread.start()
    for _ in range(8):
        newest = identity()
        credentials.rotate(newest)
        number = x509.load_pem_x509_certificate(newest.certificate_pem).serial_number
        async with asyncio.timeout(20):
            while number not in seen:
                await asyncio.sleep(0.01)
    over.set()
    await asyncio.to_thread(lambda: [thread.join() for thread in threads])
    print("8 rotations were all seen, in", len(shaken), "handshakes")
    await server.stop(0)

asyncio.run(main())
"""


def test_certificate_rotates_under_concurrent_handshakes_and_none_of_them_fails():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("8 rotations were all seen")
