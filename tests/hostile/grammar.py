"""The grammars of the wire contract's section 2, character by character, as somebody else would write them."""

from __future__ import annotations

import string

_ALNUM = frozenset(string.ascii_letters + string.digits)
_NAME = _ALNUM | frozenset("._:-")
_BASE64URL = _ALNUM | frozenset("_-")


def is_identifier(text: str, longest: int = 128) -> bool:
    """Client id and user name; with 64 the requestId."""
    return 1 <= len(text) <= longest and text[0] in _ALNUM and all(char in _NAME for char in text)


def is_nonce(text: str) -> bool:
    """22 to 43 characters of base64url."""
    return 22 <= len(text) <= 43 and all(char in _BASE64URL for char in text)


def is_key(text: str) -> bool:
    """22 to 128 visible ASCII characters."""
    return 22 <= len(text) <= 128 and all("\x21" <= char <= "\x7e" for char in text)


def is_base64url(text: str, size: int) -> bool:
    """Base64url without padding of so many bytes."""
    return len(text) == -(-size * 4 // 3) and all(char in _BASE64URL for char in text)
