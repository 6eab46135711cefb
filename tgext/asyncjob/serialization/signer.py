"""Signatures of calls, values and messages: made and compared here alone."""

from __future__ import annotations

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
        self._signer = itsdangerous.Signer(key, key_derivation="none", digest_method=hashlib.sha256)

    def sign(self, content: bytes) -> bytes:
        """Return the signature of *content*, in ASCII."""
        return self._signer.get_signature(content)

    def fits(self, signature: bytes, content: bytes) -> bool:
        """Whether *signature* is that of *content*."""
        # Not verify_signature: it decodes base64, which has several spellings of the same bytes.
        return hmac.compare_digest(self.sign(content), signature)
