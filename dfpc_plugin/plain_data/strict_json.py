"""Parse JSON from untrusted sources, and write it in canonical form."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

from dfpc_plugin.plain_data.checking import PlainDataError

_DEEPEST = 100
_MOST_VALUES = 4_000_000


def canonical(content: Any) -> bytes:
    """The canonical form of JSON content; raises TypeError or ValueError if it is not JSON."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def checksum(content: Any) -> str:
    """SHA-256 of JSON content in hexadecimal, independent of the order of keys."""
    return hashlib.sha256(canonical(content)).hexdigest()


def parse_json(data: bytes) -> Any:
    """Read strict JSON.

    Raises PlainDataError if it is not UTF-8 or not JSON, has a duplicate key, NaN, infinity, a lone surrogate or very
    many values, or is nested too deep.
    """
    try:
        return _parsed(data)
    except PlainDataError:
        raise
    except UnicodeDecodeError as error:
        raise PlainDataError(f"it is not UTF-8 text (byte {error.start})") from None
    except RecursionError:
        raise PlainDataError(f"it is nested deeper than {_DEEPEST} levels") from None
    except ValueError as error:  # not JSON, or a number with too many digits
        raise PlainDataError(f"it is not JSON: {error}") from None


def _parsed(data: bytes) -> Any:
    # Every value takes far more memory than its text.
    if sum(data.count(sign) for sign in (b",", b"[", b"{")) > _MOST_VALUES:
        raise PlainDataError(f"it has more than {_MOST_VALUES} values")
    content = json.loads(
        data.decode("utf-8"),
        object_pairs_hook=_without_duplicates,
        parse_constant=_refused,
        parse_float=_finite,
        parse_int=_bounded,
    )
    _require_sane(content)
    return content


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in pairs:
        if name in result:
            raise PlainDataError(f"it has the key '{name[:100]}' twice")
        result[name] = value
    return result


def _refused(constant: str) -> Any:
    """Raise on NaN and infinities."""
    raise PlainDataError(f"it has {constant}, which is no JSON")


def _finite(text: str) -> float:
    """Read a number; raise if it is too large for a float."""
    value = float(text)
    if not math.isfinite(value):
        raise PlainDataError(f"it has a number that is too large: {text[:20]}")
    return value


def _bounded(text: str) -> int:
    """Read a whole number; raise if it is too large for a float, to which computations may convert it."""
    _finite(text)
    return int(text)


def _require_sane(content: Any) -> None:
    """Raise on deep nesting, and on lone surrogates, which cannot be printed."""
    level = [content]
    for _ in range(_DEEPEST):
        inner: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                inner += [*value, *value.values()]
            elif isinstance(value, list):
                inner += value
            elif isinstance(value, str) and any("\ud800" <= sign <= "\udfff" for sign in value):
                raise PlainDataError("it has half a character (a lone surrogate)")
        if not inner:
            return
        level = inner
    raise PlainDataError(f"it is nested deeper than {_DEEPEST} levels")
