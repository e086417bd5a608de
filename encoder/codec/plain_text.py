"""Texts of a clip in one line: titles, dates and language tags."""

import re

from encoder.common.errors import BitstreamError

CONTROLS = r"\x00-\x1f\x7f-\x9f\u2028\u2029"
"""Control characters, as a part of a set in a regular expression."""
MAX_LANGUAGE = 35
"""Largest language tag, in bytes (RFC 5646, section 4.4.1)."""
_CONTROL = re.compile(f"[{CONTROLS}]")


def one_line(text: str) -> str:
    """Return a text with spaces in place of control characters, and none at its ends."""
    return _CONTROL.sub(" ", text).strip()


def parse_line(data: bytes) -> str:
    """Return UTF-8 as a text; raises BitstreamError if it is none, or has control characters."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise BitstreamError("a text is not UTF-8") from None
    if _CONTROL.search(text):
        raise BitstreamError("a text has control characters")
    return text


def is_language(text: str) -> bool:
    """Return whether a text may be a language tag: printable ASCII of a bounded length."""
    return text.isascii() and text.isprintable() and len(text) <= MAX_LANGUAGE


def parse_language(data: bytes) -> str:
    """Return a language tag, which may be empty; raises BitstreamError."""
    text = data.decode("ascii", "replace")
    if not is_language(text):
        raise BitstreamError("a language is no text")
    return text
