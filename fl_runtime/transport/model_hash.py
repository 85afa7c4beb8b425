"""Names a model by its layout and the bytes of its tensors, in the clear: what every site of a round must agree on."""

from __future__ import annotations

import hashlib

from fl_runtime.arrays import Layout
from fl_runtime.transport.chunks import Buffer
from policies.encoding import domain


def model_hash(layout: Layout, encoded: Buffer) -> bytes:
    """SHA-256 over the layout's digest and the safetensors bytes, 32 bytes."""
    digest = hashlib.sha256(domain("model") + layout.digest)
    digest.update(encoded)
    return digest.digest()
