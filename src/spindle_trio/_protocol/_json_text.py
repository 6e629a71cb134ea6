"""JSON as text, by the interpreter's own scanner and encoder, without the package around them.

A blocking child starts in a few milliseconds, and `import json` would add a good part of that again: it loads `re`.
That package runs on the same C code. Standard library only, since children use it too. The host reads bodies from
children with `_json_codec` instead, which trusts no peer.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import NoReturn

    from spindle_trio._model import JsonValue

_encode: Callable[[object, bool], Iterable[str]]
_scan: Callable[[str, int], tuple[JsonValue, int]]


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _refuse_value(value: object) -> NoReturn:
    raise TypeError(f"{type(value).__name__} is not JSON")


try:
    from _json import encode_basestring, make_encoder, make_scanner

    class _Rules:
        """The scanner's settings: only JSON, as plain Python values."""

        strict = True
        object_hook = None
        object_pairs_hook = None
        parse_float = float
        parse_int = int
        parse_constant = staticmethod(_refuse_constant)

    # No blanks after separators, no sorting, only string keys, no NaN; no check for cycles, since values have none.
    _encode = make_encoder(None, _refuse_value, encode_basestring, None, ":", ",", False, False, False)
    _scan = make_scanner(_Rules)  # type: ignore[arg-type]  # any object with these attributes will do
except ImportError:
    import json

    _encode = json.JSONEncoder(
        check_circular=False, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_refuse_value
    ).iterencode
    _scan = json.JSONDecoder(parse_constant=_refuse_constant).raw_decode


def write_json(value: object) -> str:
    """Write a JSON-safe value as text.

    Args:
        value: already checked by `check_payload`.

    Raises:
        ValueError: it has a float that is not finite.
        TypeError: it has a value that JSON does not have.
    """
    return "".join(_encode(value, False))


def read_json(data: str | bytes) -> JsonValue:
    """Read one JSON value from a trusted peer.

    Args:
        data: the text, or its UTF-8.

    Raises:
        ValueError: it is not JSON.
    """
    text = (data if isinstance(data, str) else data.decode()).strip(_BLANKS)
    try:
        value, end = _scan(text, 0)
    except StopIteration as stopped:
        raise ValueError(f"no JSON value at character {stopped.value}") from None
    except SystemError:  # what the scanner of Python 3.11 raises while nobody has loaded the package around it
        raise ValueError("an array, an object or a string that breaks off, or is no JSON") from None
    if end != len(text):
        raise ValueError(f"more than one JSON value: the first ends at character {end}")
    return value


_BLANKS = " \t\n\r"
