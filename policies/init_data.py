"""What never changes for one launch of a guest, and the digest of it that the launch puts into the hardware's evidence."""

from __future__ import annotations

from pydantic import Field

from policies.documents import Document, Name, Sha256
from policies.encoding import lp, sha256
from policies.errors import MalformedDocumentError
from policies.roster import Role

MAX_BYTES = 16 * 1024


class InitData(Document):
    """Handed to a guest at launch; holds no secret. Everything else is fetched at boot."""

    trust_domain: Name
    node: Name
    role: Role
    root_sha256: Sha256  # digest of the payload of root version 1
    organisation_key: bytes = Field(min_length=32, max_length=32)  # Ed25519, of the organisation that runs the node


def parse_init_data(raw: bytes) -> InitData:
    """Parse the bytes of `init_data`.

    Raises:
        MalformedDocumentError: Over 16 KiB, or not an init_data document.
    """
    if len(raw) > MAX_BYTES:
        raise MalformedDocumentError(f"init_data has {len(raw)} bytes, at most {MAX_BYTES} are allowed")
    return InitData.parse(raw)


def init_data_digest(raw: bytes) -> bytes:
    """The 32 bytes that a launch puts into HOST_DATA (SNP) or, zero padded to 48, into MRCONFIGID (TDX)."""
    return sha256("init-data", lp(raw))
