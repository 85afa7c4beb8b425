"""Keys that two sites share without the server: the seed of their mask, and the channel that carries shares.

Both come from X25519 and HKDF-SHA256. Every key is bound to the attempt (`RoundContext.pair_context`), to both sites'
names and to both public keys: a site that copies another's public key shares no seed with anyone that the other shares,
so two masks can never be made to cancel within one vector.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fl_runtime.secure_aggregation.errors import PeerRefusedError
from fl_runtime.secure_aggregation.shamir import SECRET_SIZE, draw_secret
from fl_runtime.secure_aggregation.stages import Randomness
from policies.encoding import domain, lp, sha256

PUBLIC_KEY_SIZE = 32
KEY_SIZE = 32
SEALED_SIZE = 2 * SECRET_SIZE + 16  # two shares and the tag
NONCE = bytes(12)  # each channel key seals one message, so its nonce need not vary


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicKey:
    """One site's X25519 public key and whose it is."""

    site: str
    raw: bytes  # 32 bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateKey:
    """One site's X25519 key for one attempt. Its bytes are below Shamir's prime, so that it can be shared."""

    secret: bytes = field(repr=False)  # 32 bytes
    public: PublicKey
    _key: X25519PrivateKey = field(repr=False, compare=False)

    @classmethod
    def of(cls, site: str, secret: bytes) -> Self:
        """Return the key of these 32 bytes."""
        key = X25519PrivateKey.from_private_bytes(secret)
        return cls(secret=secret, public=PublicKey(site=site, raw=key.public_key().public_bytes_raw()), _key=key)

    @classmethod
    def draw(cls, site: str, randomness: Randomness) -> Self:
        """Return a fresh key."""
        return cls.of(site, draw_secret(randomness))

    def pair_seed(self, peer: PublicKey, pair_context: bytes) -> bytes:
        """Return the 32-byte mask seed that this site and `peer` share, the same from either side.

        Raises:
            PeerRefusedError: `peer` is a point of low order, whose secret anybody would know.
        """
        first, second = sorted((self.public, peer), key=lambda key: key.site)
        return self._derive(peer, domain("pair") + pair_context + _named(first) + _named(second))

    def channel_key(self, peer: PublicKey, pair_context: bytes, *, sending: bool) -> bytes:
        """Return the 32-byte key for the one message from this site to `peer`, or from `peer` to this site.

        Raises:
            PeerRefusedError: `peer` is a point of low order.
        """
        sender, recipient = (self.public, peer) if sending else (peer, self.public)
        return self._derive(peer, domain("share-channel") + pair_context + _named(sender) + _named(recipient))

    def _derive(self, peer: PublicKey, context: bytes) -> bytes:
        try:
            secret = self._key.exchange(X25519PublicKey.from_public_bytes(peer.raw))
        except ValueError as error:
            raise PeerRefusedError(f"{peer.site} advertised a key of low order", sites=(peer.site,)) from error
        return HKDF(algorithm=SHA256(), length=KEY_SIZE, salt=None, info=context).derive(secret)


def seal_shares(shares: bytes, *, key: bytes, associated: bytes) -> bytes:
    """Seal two shares (64 bytes) for one peer with AES-256-GCM; 80 bytes."""
    return AESGCM(key).encrypt(NONCE, shares, associated)


def open_shares(sealed: bytes, *, key: bytes, associated: bytes, sender: str) -> bytes:
    """Return the two shares (64 bytes) that `sender` sealed.

    Raises:
        PeerRefusedError: They were altered, belong elsewhere, or `sender` saw other keys than this site.
    """
    try:
        shares = AESGCM(key).decrypt(NONCE, sealed, associated)
    except InvalidTag as error:
        raise PeerRefusedError(
            f"the shares of {sender} do not open: altered on the way, or sealed for a set of keys that this site was not shown",
            sites=(sender,),
        ) from error
    if len(shares) != 2 * SECRET_SIZE:
        raise PeerRefusedError(f"{sender} sealed {len(shares)} bytes, expected {2 * SECRET_SIZE}", sites=(sender,))
    return shares


def seed_commitment(self_mask: bytes, site: str, pair_context: bytes) -> bytes:
    """Commit to a self-mask seed, 32 bytes. The seed is uniform, so its hash says nothing about it."""
    return sha256("self-mask", pair_context, lp(site), self_mask)


def _named(key: PublicKey) -> bytes:
    return lp(key.site) + key.raw
