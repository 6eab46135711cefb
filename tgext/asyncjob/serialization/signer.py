"""Signatures of calls, values and messages: made and compared here alone."""

from __future__ import annotations

import base64
import hashlib
import hmac

import itsdangerous


class Signer:
    """Signs for one purpose under one secret; a signature for one purpose fits no other."""

    def __init__(self, secret: str, purpose: str) -> None:
        # The key is derived once: itsdangerous derives it for each signature.
        key = itsdangerous.Signer(
            secret,
            salt=f"tgext.asyncjob.{purpose}",
            key_derivation="hmac",
            digest_method=hashlib.sha256,
        ).derive_key()
        # The HMAC of RFC 2104, of whose two hashes the key, 32 bytes, is the same beginning each
        # time. hmac.digest() has OpenSSL look the algorithm up again, which takes twice as long as
        # all the rest.
        self._inner = hashlib.sha256(_block(key, 0x36))
        self._outer = hashlib.sha256(_block(key, 0x5C))

    def sign(self, content: bytes) -> bytes:
        """Return the signature of *content*, in ASCII."""
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(content)
        outer.update(inner.digest())
        return base64.urlsafe_b64encode(outer.digest()).rstrip(b"=")

    def fits(self, signature: bytes, content: bytes) -> bool:
        """Whether *signature* is that of *content*."""
        # Not verify_signature: it decodes base64, which has several spellings of the same bytes.
        return hmac.compare_digest(self.sign(content), signature)


def _block(key: bytes, pad: int) -> bytes:
    """Return the block of 64 bytes with which one of the two hashes begins."""
    return bytes(byte ^ pad for byte in key.ljust(64, b"\0"))
