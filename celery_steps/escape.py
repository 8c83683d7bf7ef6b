"""What journals hold is never trusted: texts and values as a terminal and a JSON reader may get them."""

from __future__ import annotations

import json
import unicodedata
from typing import Any

from celery_steps.readable import as_json as as_json

#: Control and format characters (ANSI escapes, bidi overrides, zero width), line and paragraph separators, surrogates,
#: private use and unassigned ones.
_HOSTILE = {"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"}


def safe(text: str) -> str:
    """One line that shows every character as itself or as an escape."""
    if text.isprintable() and (text.isascii() or not any(map(_stacks, text))):
        return text
    return "".join(_escaped(c) if _is_hostile(c) else c for c in text)


def _is_hostile(character: str) -> bool:
    return unicodedata.category(character) in _HOSTILE or (not character.isprintable()) or _stacks(character)


def _stacks(character: str) -> bool:
    """Enclosing marks draw over their neighbours."""
    return unicodedata.category(character) == "Me"


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode()


def error_text(error: BaseException) -> str:
    """Type and message of an exception, whose __str__ may be anybody's."""
    return f"{type(error).__qualname__}: {message_of(error)}"


def message_of(error: BaseException) -> str:
    try:
        return str.__str__(str(error))
    except Exception as trouble:
        return f"<its text cannot be had: {type(trouble).__qualname__}>"


def shown(value: Any, most: int) -> str:
    """A decoded value for people: Python's notation in one line, cut after `most` characters."""
    try:
        text = repr(value)
    except ValueError:  # an int with more digits than Python writes
        text = json.dumps(as_json(value))
    text = safe(text)
    return text if len(text) <= most else f"{text[:most]}… ({len(text):,} characters)"


def document(value: Any, indent: int | None = 2) -> str:
    """One JSON document, in ASCII; its strings hold no control characters. Without indent it is one line."""
    return json.dumps(value, indent=indent, allow_nan=False).replace("\x7f", "\\u007f")
