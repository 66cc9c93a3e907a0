"""Sealed messages: AES-256-GCM (NIST SP 800-38D), with keys derived by HKDF (RFC 5869).

Layout: one version byte, 4 bytes of key id, 12 bytes of nonce, the ciphertext with its 16-byte tag.
"""

from __future__ import annotations

import os
from functools import lru_cache
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from broker_core.errors import EnvelopeError, UnknownKeyError

if TYPE_CHECKING:
    from collections.abc import Sequence

VERSION = b"\x01"
KEY_ID_SIZE = 4
NONCE_SIZE = 12
TAG_SIZE = 16
OVERHEAD = len(VERSION) + KEY_ID_SIZE + NONCE_SIZE + TAG_SIZE


@lru_cache(maxsize=64)
def _derive(secret: str | bytes) -> tuple[bytes, AESGCM]:
    key = secret if isinstance(secret, bytes) else secret.encode("utf-8", "surrogatepass")
    material = HKDF(SHA256(), length=32 + KEY_ID_SIZE, salt=None, info=b"request-broker envelope 1").derive(key)
    return material[32:], AESGCM(material[:32])


def context(purpose: str, *names: str) -> bytes:
    """Returns associated data that binds an envelope to its purpose and names, without ambiguity."""
    return b"".join(len(part).to_bytes(4, "big") + part for part in (name.encode() for name in (purpose, *names)))


def key_id(sealed: bytes) -> str:
    """Returns the id of an envelope's key, in hex. It reveals nothing about the key."""
    return sealed[len(VERSION) : len(VERSION) + KEY_ID_SIZE].hex()


class Keyring:
    """Seals with the first secret and opens with any of them, so that keys can be rotated."""

    def __init__(self, secrets: Sequence[str | bytes]) -> None:
        if not secrets or not all(secrets):
            raise EnvelopeError("a keyring needs at least one secret, and no secret may be empty")
        self._secrets = tuple(secrets)

    @property
    def key_ids(self) -> list[str]:
        """The ids of the keys, in hex, the sealing key first. They reveal nothing about the keys."""
        return [_derive(secret)[0].hex() for secret in self._secrets]

    def seal(self, plaintext: bytes, associated: bytes) -> bytes:
        key_id, cipher = _derive(self._secrets[0])
        nonce = os.urandom(NONCE_SIZE)
        return VERSION + key_id + nonce + cipher.encrypt(nonce, plaintext, associated)

    def open(self, sealed: bytes, associated: bytes) -> bytes:
        """Raises EnvelopeError if the envelope was altered or sealed for something else.

        Raises UnknownKeyError, a subclass, if it was sealed with a key that the keyring does not contain.
        """
        if len(sealed) < OVERHEAD or sealed[:1] != VERSION:
            raise EnvelopeError("this is not an envelope of a known version")
        key_id, nonce, ciphertext = sealed[1:5], sealed[5:17], sealed[17:]
        for secret in self._secrets:
            known, cipher = _derive(secret)
            if known == key_id:
                try:
                    return cipher.decrypt(nonce, ciphertext, associated)
                except InvalidTag as error:
                    raise EnvelopeError("the envelope was altered, or sealed for another id or queue") from error
        raise UnknownKeyError("the envelope was sealed with an unknown key")
