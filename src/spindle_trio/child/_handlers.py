"""The functions that an entry registers, for stops and for messages, and what they get of a stop.

Standard library only; for both contexts.
"""

from __future__ import annotations

from spindle_trio.child._callables import is_coroutine_function
from spindle_trio.child._exit_frames import describe_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Generic, TypeVar

    T = TypeVar("T")
else:
    # At run time, where `typing` would cost more than the whole runtime, `Generic[T]` below means no base but `object`.
    T = None
    Generic = {T: object}


class StopNotice:
    """A request to stop, as an entry's stop handler or `wait_stop()` sees it. Frozen, and compared by value."""

    __slots__ = {"reason": "The reason that the caller of `stop` gave; `None` if none."}  # shown by help()

    reason: str | None

    def __init__(self, reason: str | None = None) -> None:
        object.__setattr__(self, "reason", reason)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a StopNotice is frozen: {name} cannot be set")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a StopNotice is frozen: {name} cannot be deleted")

    def __eq__(self, other: object) -> bool:
        return self.reason == other.reason if type(other) is StopNotice else NotImplemented

    def __hash__(self) -> int:
        return hash((StopNotice, self.reason))

    def __repr__(self) -> str:
        return f"StopNotice(reason={self.reason!r})"


class Handlers(Generic[T]):
    """Plain functions in order of registration; each counts once."""

    __slots__ = ("_kind", "_registered", "_report")

    def __init__(self, kind: str, report: Callable[[str], None]) -> None:
        """Begin with none.

        Args:
            kind: names them in reports, as in ``on_stop``.
            report: called with a text when one raises.
        """
        self._kind = kind
        self._report = report
        self._registered: list[_Registration[T]] = []

    def __bool__(self) -> bool:
        return bool(self._registered)

    def add(self, handler: Callable[[T], object]) -> Callable[[], None]:
        """Register a handler and return a function that unregisters it. That may be called again.

        Raises:
            TypeError: it is not callable, or it is a coroutine function: nobody would await what it returns.
        """
        if not callable(handler):
            raise TypeError(f"{self._kind} takes a function, not {type(handler).__name__}")
        if is_coroutine_function(handler):
            raise TypeError(
                f"{self._kind} takes a plain function, and {_name_of(handler)} is async; "
                "set a trio.Event in the handler and wait for it in the entry"
            )
        for registration in self._registered:
            if registration.handler == handler:
                break
        else:
            registration = _Registration(handler)
            self._registered.append(registration)

        def unsubscribe() -> None:
            if registration in self._registered:
                self._registered.remove(registration)

        return unsubscribe

    def call(self, value: T) -> None:
        """Call each registered handler. If one raises, that is reported, and the others still run.

        `SystemExit` is the one exception that passes through: it is the entry's way to end.
        """
        for registration in tuple(self._registered):
            if registration not in self._registered:  # an earlier handler has unregistered it
                continue
            try:
                returned = registration.handler(value)
            except SystemExit:
                raise
            except BaseException as error:  # noqa: ASYNC103  # nothing is awaited in a handler
                name = _name_of(registration.handler)
                self._report(f"the {self._kind} handler {name} raised {describe_error(error)}")
            else:
                self._refuse_awaitable(registration.handler, returned)

    def _refuse_awaitable(self, handler: object, returned: object) -> None:
        """Report a plain function that has returned a coroutine, which would otherwise be lost in silence."""
        close = getattr(returned, "close", None)
        if callable(close) and hasattr(returned, "__await__"):
            close()
            self._report(
                f"the {self._kind} handler {_name_of(handler)} returned a coroutine, which is never awaited; "
                "handlers are plain functions"
            )


class _Registration(Generic[T]):
    """One handler's place in the order, compared by identity: an old `unsubscribe` removes no newer place."""

    __slots__ = ("handler",)

    def __init__(self, handler: Callable[[T], object]) -> None:
        self.handler = handler


def _name_of(handler: object) -> str:
    return str(getattr(handler, "__qualname__", None) or type(handler).__qualname__)
