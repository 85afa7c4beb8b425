"""Fresh evidence for sites: nonces in, one attestation that holds them all out.

Sites that greet at about the same time share one attestation. The newest nonce of every site stays in the list, so that a
rotation for one never takes another's nonce away.
"""

from __future__ import annotations

import asyncio

from attestation.core import Purpose
from attestation.enrolment import Identity
from attestation.errors import MalformedEvidenceError
from attestation.node import Node

GATHER_SECONDS = 0.05
MAX_NONCES = 1024


class Greeter:
    """Attests anew for whoever gives a nonce."""

    def __init__(self, node: Node) -> None:
        """Attest through `node`, whose certificate rotates with it."""
        self._node = node
        self._nonces: dict[str, bytes] = {}  # site -> its newest nonce
        self._shown: tuple[Identity, tuple[bytes, ...]] | None = None  # the newest evidence and the nonces in it
        self._pending: asyncio.Task[tuple[Identity, tuple[bytes, ...]]] | None = None

    async def greet(self, site: str, nonce: bytes) -> tuple[Identity, tuple[bytes, ...]]:
        """Return an identity whose evidence holds `nonce`, and all nonces that it holds.

        A site whose connection failed greets again with the same nonce: if the newest evidence holds it, no other is made.

        Raises:
            MalformedEvidenceError: The nonce does not have 32 bytes, or too many sites greet.
            AttestationError, UnreachableError: This server could not attest.
        """
        if len(nonce) != 32:
            raise MalformedEvidenceError(f"nonce has {len(nonce)} bytes, expected 32")
        if site not in self._nonces and len(self._nonces) >= MAX_NONCES:
            raise MalformedEvidenceError(f"{MAX_NONCES} sites have greeted, no more are taken")
        if self._shown is not None and nonce in self._shown[1] and self._pending is None:
            return self._shown
        self._nonces[site] = nonce
        if self._pending is None:
            self._pending = asyncio.create_task(self._gather())
        return await asyncio.shield(self._pending)

    async def renew(self) -> Identity:
        """Attest again with the nonces as they are: the periodic renewal."""
        return (await self._attest())[0]

    async def _gather(self) -> tuple[Identity, tuple[bytes, ...]]:
        await asyncio.sleep(GATHER_SECONDS)
        self._pending = None  # who greets from here on waits for the next one
        return await self._attest()

    async def attest_for_release(self) -> Identity:
        """Attest so that a key may be released; the nonces stay in the evidence, so that sites may go on greeting."""
        return (await self._attest("release"))[0]

    async def _attest(self, purpose: Purpose = "issue") -> tuple[Identity, tuple[bytes, ...]]:
        held = tuple(self._nonces.values())
        self._shown = await self._node.attest(purpose=purpose, peer_nonces=held), held
        return self._shown
