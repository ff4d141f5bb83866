"""How reports, certificates and errors name a sample."""

from __future__ import annotations

_LENGTH = 16


def sample_id(digest: str) -> str:
    """The id of a sample: the first 16 hex digits of the SHA-256 of its content."""
    return digest[:_LENGTH]
