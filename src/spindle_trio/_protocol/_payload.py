"""The JSON-safe check: one walk over a payload, in its sender and again in the host that receives it.

Nearly every payload is fine, so the first walk only finds out whether it is: one loop, a level of containers at a time,
with leaf types tested by exact type and inline. That takes a microsecond for 100 bytes, half of what a call for each
value would. If it finds a fault, or bounds that it does not know, a second walk decides, and names the path. Standard
library only, since children use it too.
"""

from __future__ import annotations

from spindle_trio._errors import PayloadError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from spindle_trio._model import Limits

SMALLEST_INTEGER: Final = -(2**63)
LARGEST_INTEGER: Final = 2**64 - 1

_INFINITY: Final = float("inf")  # avoids loading `math`
_INSTEAD: Final = {
    "set": "a list",
    "frozenset": "a list",
    "tuple": "a list",
    "datetime": "text, as by isoformat()",
    "date": "text, as by isoformat()",
    "Decimal": "text, as by str()",
    "UUID": "text, as by str()",
    "PosixPath": "text, as by str()",
}
"""What to send in place of a value, by the name of its type: most of these types are not loaded in a child."""

_PLAIN: Final = (str, int, float, list, dict)
"""Subclasses of these are refused, since they would arrive as the plain type."""

_LEVELS_AT_MOST: Final = 100
"""How deep the loop goes. With a larger bound the second walk decides, and reports what is too deep to walk."""


class PayloadBounds:
    """The limits on one payload, for the walk. `Limits` has the same names."""

    __slots__ = ("are_plain", "binary_bytes", "container_entries", "depth", "text_bytes", "values")

    def __init__(
        self,
        depth: int,
        values: int,
        text_bytes: int | None = None,
        container_entries: int | None = None,
        binary_bytes: int = 0,
    ) -> None:
        self.depth: int = depth
        self.values: int = values
        self.text_bytes: int | None = text_bytes
        self.container_entries: int | None = container_entries
        self.binary_bytes: int = binary_bytes
        self.are_plain: bool = text_bytes is None and container_entries is None
        """Whether only depth and values are bounded."""


def bounds_of(limits: Limits) -> PayloadBounds:
    """Take those of the host's limits that a walk over one payload needs."""
    return PayloadBounds(limits.depth, limits.values, limits.text_bytes, limits.container_entries, limits.binary_bytes)


def check_payload(
    value: object, bounds: PayloadBounds, name: str = "payload", walk: type[PayloadWalk] | None = None
) -> bool:
    """Make sure that a value is JSON-safe and within its bounds.

    JSON-safe are `None`, `bool`, `int` in -2^63…2^64-1, finite `float`, `str` without lone surrogates, and lists and
    string-keyed dicts of those, by exact type. This does not check the size in bytes: the encoded frame shows it.

    Args:
        value: the value to send.
        bounds: how deep and how large it may be.
        name: what the error calls the outermost value.
        walk: the second walk, which decides; `PayloadWalk`, unless another one allows more.

    Returns:
        Whether it has bytes, which only a `BinaryWalk` allows.

    Raises:
        PayloadError: names the path, as in ``payload.items[3]: set is not JSON-safe``.
    """
    if bounds.are_plain and _is_safe(value, bounds):
        return False
    return _explain(value, name, (walk or PayloadWalk)(bounds))


def _is_safe(value: object, bounds: PayloadBounds) -> bool:
    """Whether a value is certainly JSON-safe and within plain bounds; otherwise `_explain` decides."""
    if type(value) is str and value.isascii():
        return bounds.values > 0
    values_left = bounds.values - 1
    level = [value]
    # `kind` is looked up once for speed. Type checkers do not follow it: hence the ignores.
    for _ in range(min(bounds.depth, _LEVELS_AT_MOST) + 1):
        below: list[object] = []
        for item in level:
            kind = type(item)
            if kind is str:
                if not item.isascii() and not is_encodable(item):  # type: ignore[attr-defined, arg-type]  # a str
                    return False
            elif kind is int:
                if not SMALLEST_INTEGER <= item <= LARGEST_INTEGER:  # type: ignore[operator]  # an int
                    return False
            elif kind is dict:
                values_left -= len(item)  # type: ignore[arg-type]  # a dict
                if values_left < 0:
                    return False
                for key in item:  # type: ignore[attr-defined]  # a dict
                    if type(key) is not str or not (key.isascii() or is_encodable(key)):
                        return False
                below += item.values()  # type: ignore[attr-defined]  # a dict
            elif kind is list:
                values_left -= len(item)  # type: ignore[arg-type]  # a list
                if values_left < 0:  # before adding: a list that holds itself twice would never end
                    return False
                below += item  # type: ignore[arg-type]  # a list
            elif kind is float:
                if not -_INFINITY < item < _INFINITY:  # type: ignore[operator]  # a float
                    return False
            elif item is not None and kind is not bool:
                return False
        if not below:
            return values_left >= 0
        level = below
    return False


def check_text(name: str, text: str | None, max_bytes: int | None) -> None:
    """Make sure that a name, if there is one, can travel in a frame and is within its limit.

    Args:
        name: what the error calls it.
        text: the name.
        max_bytes: how long it may be in UTF-8; `None` for no bound.

    Raises:
        PayloadError: it has a lone surrogate, or is too long.
    """
    if text is None:
        return
    if not is_encodable(text):
        raise PayloadError(f"{name}: the text has a lone surrogate")
    if max_bytes is not None and (size := len(text.encode())) > max_bytes:
        raise PayloadError(f"{name}: {size} bytes, more than {max_bytes}")


def is_encodable(text: str) -> bool:
    """Whether a text can be written as UTF-8: it has no lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _explain(value: object, name: str, walk: PayloadWalk) -> bool:
    """Decide about a value, and name its fault; say whether it has bytes.

    Raises:
        PayloadError: the value has a fault.
    """
    try:
        walk.visit(value, 0)
    except _UnsafeError as unsafe:
        path = "".join(reversed(unsafe.steps))
        raise PayloadError(f"{name}{path}: {unsafe.problem}") from None
    except RecursionError:
        raise PayloadError(f"{name}: nested deeper than this interpreter can walk (does it contain itself?)") from None
    return walk.has_bytes


class _UnsafeError(Exception):
    """Carries a problem up from its value, and gathers the path on the way."""

    def __init__(self, problem: str) -> None:
        self.problem = problem
        self.steps: list[str] = []


class PayloadWalk:
    """One walk, with what is left of each limit."""

    __slots__ = ("bounds", "text_left", "values_left")

    has_bytes: bool = False
    """Whether it has met bytes, and allowed them."""
    instead_of_bytes: str = "text, as by base64"
    """What to send in place of bytes."""

    def __init__(self, bounds: PayloadBounds) -> None:
        self.bounds = bounds
        self.values_left = bounds.values
        self.text_left = bounds.text_bytes

    def visit(self, value: object, depth: int) -> None:
        kind = type(value)
        self.values_left -= 1
        if self.values_left < 0:
            raise _UnsafeError(f"more than {self.bounds.values} values in all")
        if depth > self.bounds.depth:
            raise _UnsafeError(f"nested more than {self.bounds.depth} deep (does it contain itself?)")
        if kind is str:
            self.visit_text(value)  # type: ignore[arg-type]  # narrowed by exact type
        elif kind is int:
            if not SMALLEST_INTEGER <= value <= LARGEST_INTEGER:  # type: ignore[operator]
                raise _UnsafeError("the integer is outside -2^63…2^64-1")
        elif kind is float:
            if not -_INFINITY < value < _INFINITY:  # type: ignore[operator]
                raise _UnsafeError(f"{value} is not JSON-safe: send None or text")
        elif kind is dict:
            self.visit_dict(value, depth + 1)  # type: ignore[arg-type]
        elif kind is list:
            self.visit_list(value, depth + 1)  # type: ignore[arg-type]
        elif value is not None and kind is not bool:
            self.visit_other(value)

    def visit_other(self, value: object) -> None:
        name = type(value).__name__
        advice = self.instead_of_bytes if isinstance(value, bytes | bytearray | memoryview) else _INSTEAD.get(name)
        if advice is None:
            advice = next((f"a plain {kind.__name__}" for kind in _PLAIN if isinstance(value, kind)), None)
        raise _UnsafeError(f"{name} is not JSON-safe" + ("" if advice is None else f": send {advice}"))

    def visit_text(self, text: str) -> None:
        if text.isascii():
            size = len(text)
        else:
            try:
                size = len(text.encode())
            except UnicodeEncodeError:
                raise _UnsafeError("the text has a lone surrogate") from None
        self.count_text(size)

    def count_text(self, size: int) -> None:
        if self.text_left is not None:
            self.text_left -= size
            if self.text_left < 0:
                raise _UnsafeError(f"more than {self.bounds.text_bytes} bytes of text in all")

    def visit_list(self, items: list[object], depth: int) -> None:
        self.check_entries(len(items))
        for index, item in enumerate(items):
            try:
                self.visit(item, depth)
            except _UnsafeError as unsafe:
                unsafe.steps.append(f"[{index}]")
                raise

    def visit_dict(self, items: dict[object, object], depth: int) -> None:
        self.check_entries(len(items))
        for key, item in items.items():
            if type(key) is not str:
                raise _UnsafeError(f"the key {_shortened(key)} is {_with_article(type(key))}; names are strings")
            try:
                self.visit_text(key)
                self.visit(item, depth)
            except _UnsafeError as unsafe:
                unsafe.steps.append(f".{key}" if key.isidentifier() and len(key) <= 40 else f"[{_shortened(key)}]")
                raise

    def check_entries(self, count: int) -> None:
        limit = self.bounds.container_entries
        if limit is not None and count > limit:
            raise _UnsafeError(f"{count} entries, more than {limit} in one container")


class NoBytesWalk(PayloadWalk):
    """Says why there are no bytes in what one process is sent."""

    __slots__ = ()

    instead_of_bytes = "text, as by base64: the runtime of this process takes no bytes, or is not ready yet"


class LentBytes:
    """Bytes in a payload that are not copied: their owner leaves them as they are until they have been sent."""

    __slots__ = ("view",)

    def __init__(self, view: memoryview[int]) -> None:
        self.view: memoryview[int] = view


class BinaryWalk(PayloadWalk):
    """A walk over a payload for a peer that takes bytes."""

    __slots__ = ("binary_left", "has_bytes")

    def __init__(self, bounds: PayloadBounds) -> None:
        super().__init__(bounds)
        self.binary_left = bounds.binary_bytes
        self.has_bytes = False

    def visit_other(self, value: object) -> None:
        if isinstance(value, LentBytes):
            value = value.view
        kind = type(value)
        if not self.bounds.binary_bytes or not (kind is bytes or kind is bytearray or kind is memoryview):
            super().visit_other(value)  # which always raises
        try:
            self.binary_left -= memoryview(value).nbytes  # type: ignore[arg-type]  # one of the three
        except ValueError:
            raise _UnsafeError("the memoryview was released") from None
        if self.binary_left < 0:
            raise _UnsafeError(
                f"more than {self.bounds.binary_bytes} bytes in bytes values; raise Limits(binary_bytes=…), or write "
                "them to a file and send its path"
            )
        self.has_bytes = True


def _with_article(kind: type) -> str:
    return f"{'an' if kind.__name__[0] in 'aeiou' else 'a'} {kind.__name__}"


def _shortened(value: object) -> str:
    shown = ascii(value)
    return shown if len(shown) <= 40 else f"{shown[:37]}..."
