"""How servers under test speak of the secrets that reached them."""

from __future__ import annotations

import hashlib
import re


def digest(value: str | bytes) -> str:
    return hashlib.sha256(value.encode() if isinstance(value, str) else value).hexdigest()


def is_secret_header(name: str) -> bool:
    """Whether some reader may take the header for a secret's: many read all that is neither letter nor digit alike."""
    return re.sub(r"[^a-z0-9]", "-", name.lower()).startswith("x-mcp-secret")
