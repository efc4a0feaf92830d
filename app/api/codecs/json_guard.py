"""What JSON parsers let through and we do not: duplicate names, deep nesting, bodies of nothing."""

import json
import re
from typing import Any, Final

import numpy as np

from app.api.codecs import MAX_DEPTH
from app.errors import MalformedBody, PayloadTooLarge

_NOT_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
_NOT_BRACKETS_OR_QUOTES: Final = bytes(set(range(256)) - set(b'[]{}"'))
#: A string, closed or not. Possessive, so that no body makes it search the same bytes twice.
_STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
#: Opening and closing brackets as the signed bytes 1 and -1.
_STEPS: Final = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")


def refuse_deep_nesting(body: bytes) -> None:
    """Raise MalformedBody where arrays and objects nest more than `MAX_DEPTH` deep.

    Called before parsing. Bodies with few brackets are settled by a count.
    """
    if body.count(b"[") + body.count(b"{") <= MAX_DEPTH:
        return
    brackets = body.translate(None, _NOT_BRACKETS_OR_QUOTES).replace(b'""', b"")
    if b'"' in brackets or b"\\" in body:
        # Some brackets may be inside strings: look again without strings.
        brackets = _STRING.sub(b"", body).translate(None, _NOT_BRACKETS)
    depths = np.frombuffer(brackets.translate(_STEPS), np.int8).cumsum(dtype=np.int32)
    if depths.size and depths.max() > MAX_DEPTH:
        raise MalformedBody(f"body nests deeper than {MAX_DEPTH} levels")


def refuse_bulk(body: bytes, objects: int, names: int, message: str) -> None:
    """Raise PayloadTooLarge where a body has more objects or names than any valid one.

    Called before parsing: a parser spends a kilobyte on each fault, and a body has room for
    millions of them.
    """
    if body.count(b"{") <= objects and body.count(b":") <= names:
        return
    bare = _STRING.sub(b"", body)
    if bare.count(b"{") > objects or bare.count(b":") > names:
        raise PayloadTooLarge(message)


def refuse_duplicate_names(body: bytes, names: int) -> None:
    """Raise MalformedBody where an object of a valid document holds a name twice.

    Args:
        names: how many names the parsed document has in all its objects. Each name is followed
            by one colon, so a body with as many colons has no duplicates; only others (colons in
            strings, or real duplicates) are parsed again, slowly.
    """
    if body.count(b":") != names:
        json.loads(body, object_pairs_hook=_unique)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in pairs:
        if name in result:
            raise MalformedBody(f"name {name[:64]!r} appears twice in one object")
        result[name] = value
    return result
