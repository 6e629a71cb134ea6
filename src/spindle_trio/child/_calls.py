"""What both runtimes share about calls: the registry of handlers, the object behind `process.call`, and failures.

Loaded at the first `on_call`, or for an entry that defines `calls`. Standard library only.
"""

from __future__ import annotations

from _collections_abc import Mapping  # without the package around it

from spindle_trio._errors import PayloadError
from spindle_trio._protocol._call_frames import ANSWER, ITEM, encode_answer, encode_failure, encode_item
from spindle_trio._protocol._payload import BinaryWalk, check_payload, check_text
from spindle_trio.child._callables import ASYNC_GENERATOR, COROUTINE, GENERATOR, code_flags
from spindle_trio.child._exit_frames import cut_middle, failure_texts, room_for_texts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final, Never, Protocol, TypeAlias, TypeVar

    from spindle_trio._model import JsonValue
    from spindle_trio._protocol._call_frames import IncomingCall
    from spindle_trio.child._facts import ProcessFacts

    CallFunction: TypeAlias = Callable[[Never], object]
    """Any function of one argument."""
    F = TypeVar("F", bound=CallFunction)

    class TakesCalls(Protocol):
        """What an entry made of `calls` needs of either context."""

        def on_call(self, method: str, function: CallFunction, /) -> object:
            """Register a handler."""

        def ready(self) -> None:
            """Say that the entry has started up."""


NAME_BYTES: Final = 1024
"""How long the name of a method may be, in bytes of UTF-8; the host allows no longer ones either."""

NO_CALL: Final = "process.call is there inside a handler of a call, while it serves one"
"""What the error says for a use of `process.call` elsewhere."""

_USE_STREAM: Final = "read it with stream(), not with call()"

_FAILURE_ENTRIES: Final = 3
"""Entries of the object in a FAILURE."""

_ID_BYTES: Final = 8
"""How much longer the id of a call may be than 0."""

_KNOWN_NAMES: Final = 1000
"""How many names of handlers a FAILURE lists at most."""

_DEPTH_OF_KNOWN: Final = 2
"""How deep they are, beside what the host allows for."""

_AROUND_KNOWN: Final = 2
"""Values around them that count: the object and the list, beside what the host allows for."""


class CallCancelled(BaseException):  # like trio.Cancelled, it is no error of the handler
    """Raised inside a handler whose call was cancelled. Let it through; ``finally`` blocks run as for any exception."""


class RelayedError(Exception):
    """What a handler says of a failure elsewhere, which its caller is to read as it is: without a traceback."""

    def __init__(self, error_type: str, text: str, *, code: int | None = None, data: JsonValue = None) -> None:
        super().__init__(text)
        self.error_type: str = error_type
        self.code: int | None = code
        self.data: JsonValue = data


class CallContext:
    """The call that a handler serves, as `process.call` shows it."""

    __slots__ = {
        "_is_cancelled": None,
        "deadline": "When its time is over: in seconds of `trio.current_time()` in an `async` entry, of "
        "`time.monotonic()` in a blocking one; `math.inf` for never.",
        "method": "The name that was called.",
    }

    method: str
    deadline: float

    def __init__(self, method: str, deadline: float, is_cancelled: Callable[[], bool]) -> None:
        """Made by the runtime, for each call.

        Args:
            method: the name that was called.
            deadline: on the runtime's clock; `math.inf` for none.
            is_cancelled: tells whether the call was cancelled, by its caller or by its deadline.
        """
        self.method = method
        self.deadline = deadline
        self._is_cancelled = is_cancelled

    def __repr__(self) -> str:
        return f"<CallContext {self.method}{' cancelled' if self.is_cancelled else ''}>"

    @property
    def is_cancelled(self) -> bool:
        """Whether the caller has given up, or the time is over: nobody waits for the answer any more."""
        return self._is_cancelled()

    def check(self) -> None:
        """Do nothing, unless the call was cancelled. Cheap enough for every turn of a loop.

        Raises:
            CallCancelled: it was.
        """
        if self._is_cancelled():
            raise CallCancelled(f"the call of {self.method!r} was cancelled")


class CallHandler:
    """A function that answers calls."""

    __slots__ = ("function", "is_async", "is_quick", "is_stream")

    def __init__(self, function: CallFunction) -> None:
        flags = code_flags(function)
        self.function: CallFunction = function
        """Takes the payload."""
        self.is_stream: bool = bool(flags & (GENERATOR | ASYNC_GENERATOR))
        """Whether calling it gives a generator, plain or `async`."""
        self.is_async: bool = bool(flags & (COROUTINE | ASYNC_GENERATOR))
        """Whether calling it gives a coroutine or an `async` generator."""
        self.is_quick: bool = False
        """Whether it took next to no time when it was last called; for a runtime that wants to know."""


class CallHandlers:
    """The functions that answer calls, by the names of their methods."""

    __slots__ = ("_handlers", "_is_blocking", "_registered", "fallback")

    def __init__(self, registered: Callable[[], None] | None = None, *, is_blocking: bool = False) -> None:
        """Begin with none.

        Args:
            registered: called after each registration, also by a decorator that was made before.
            is_blocking: whether the entry is, so that no handler can be awaited.
        """
        self._is_blocking = is_blocking
        self._handlers: dict[str, CallHandler] = {}
        self._registered = registered
        self.fallback: CallHandler | None = None
        """Answers the calls of all other methods."""

    def __len__(self) -> int:
        return len(self._handlers) + (self.fallback is not None)

    def add(self, method_or_function: str | F, function: F | None = None) -> F | Callable[[F], F]:
        """Register a function: alone, by a name, or as a decorator with or without a name.

        Args:
            method_or_function: the method's name; or the function, whose own name is the method's.
            function: the function, after a name; without it this returns a decorator.

        Returns:
            The function as it is; or a decorator that registers its function and returns it.

        Raises:
            TypeError: the function is not callable, or has no name of its own and none was given.
            ValueError: the name is empty, too long, or registered already.
        """
        if not isinstance(method_or_function, str):
            if function is not None:
                raise TypeError(f"on_call takes a name and a function, not {type(method_or_function).__name__} first")
            return self._register(_own_name(method_or_function), method_or_function)
        method = method_or_function
        self._check_name(method)
        if function is not None:
            return self._register(method, function)

        def decorate(decorated: F) -> F:
            return self._register(method, decorated)

        return decorate

    def serve_any(self, function: CallFunction) -> None:
        """Answer calls of any method by this function, which `process.call` tells the method."""
        self.fallback = CallHandler(function)
        if self._registered is not None:
            self._registered()

    def names(self) -> list[str]:
        """List the methods, in alphabetical order."""
        return sorted(self._handlers)

    def find(self, method: str) -> CallHandler | None:
        """Return the handler of a method, if there is one."""
        return self._handlers.get(method, self.fallback)

    def refusal_of(self, call: IncomingCall, facts: ProcessFacts) -> dict[str, object] | None:
        """Say why nothing here can serve a call, as the object of a FAILURE frame; `None` if a handler can."""
        handler = self.find(call.method)
        if handler is None:
            return {"known": _known_names(self.names(), facts)}
        if call.window is None:
            if not handler.is_stream:
                return None
            text = f"{call.method!r} is a generator: {_USE_STREAM}"
            return failure_of(TypeError(text), facts, has_traceback=False)
        if handler.is_stream or not handler.is_async:
            return None  # what a plain function returns shows whether it is one
        return no_generator(call.method, facts)

    def _register(self, method: str, function: F) -> F:
        self._check_name(method)
        if not callable(function):
            raise TypeError(f"on_call takes a function, not {type(function).__name__}")
        handler = CallHandler(function)
        if self._is_blocking and handler.is_async:
            raise TypeError(
                f"on_call takes plain functions and generators in a blocking entry, and {method!r} is async; "
                "make the entry async as well: async def run(process)"
            )
        self._handlers[method] = handler
        if self._registered is not None:
            self._registered()
        return function

    def _check_name(self, method: str) -> None:
        if not method:
            raise ValueError("the name of a method is empty")
        check_text("the name of a method", method, NAME_BYTES)
        if method in self._handlers:
            raise ValueError(f"the method {method!r} has a handler already; register each name once")


def failure_of(error: BaseException, facts: ProcessFacts, *, has_traceback: bool = True) -> dict[str, object]:
    """Describe what a handler has raised, as the object of a FAILURE frame that no bound of the host refuses.

    Args:
        error: the exception; a group shows its first members in its text, and all in its traceback.
        facts: have the bounds.
        has_traceback: whether its traceback helps the author of the entry.
    """
    if isinstance(error, RelayedError):
        return _relayed(error, facts)
    name, text, traceback = failure_texts(error, facts, has_traceback=has_traceback)
    about: dict[str, object] = {"error": name, "text": text}
    entries = facts.bounds.container_entries
    if traceback and (entries is None or entries >= _FAILURE_ENTRIES):
        about["traceback"] = traceback
    return about


def _relayed(error: RelayedError, facts: ProcessFacts) -> dict[str, object]:
    """Describe a failure elsewhere. What no frame can carry is left out of it, and that is said."""
    _, text, _ = failure_texts(error, facts, has_traceback=False)
    about: dict[str, object] = {"error": error.error_type, "text": text}
    if error.code is not None:
        about["code"] = error.code
    if error.data is not None:
        whole = {**about, "data": error.data}
        try:
            check_payload(whole, facts.bounds, "data")
            encode_answer(0, whole, facts.frame_bytes - _ID_BYTES)
        except PayloadError as unfit:
            about["text"] = cut_middle(f"{text} (its data is left out: {unfit})", room_for_texts(facts))
        else:
            return whole
    return about


def is_generator(value: object) -> bool:
    """Whether a value is a generator, plain or `async`: a plain function may have returned it."""
    return (hasattr(value, "__next__") and hasattr(value, "send")) or is_async_generator(value)


def is_async_generator(value: object) -> bool:
    """Whether a value is an `async` generator."""
    return hasattr(value, "__anext__") and hasattr(value, "asend")


def no_generator(method: str, facts: ProcessFacts) -> dict[str, object]:
    """Say that a handler is not what a stream needs, as the object of a FAILURE frame."""
    text = f"{method!r} is no generator, and answers once: use call(), not stream()"
    return failure_of(TypeError(text), facts, has_traceback=False)


def encode_value(call_id: int, value: object, facts: ProcessFacts, *, is_item: bool = False) -> bytes:
    """Write the answer of a call or an item of a stream; or, if it cannot be sent, the FAILURE that says why.

    Args:
        call_id: the call's.
        value: what the handler has returned or yielded.
        facts: have the bounds.
        is_item: whether it is an item, and no answer.
    """
    try:
        name = "item" if is_item else "answer"
        if check_payload(value, facts.bounds, name, BinaryWalk):
            from spindle_trio._protocol._binary import encode_binary

            kind = ITEM if is_item else ANSWER
            return encode_binary([call_id, value], facts.frame_bytes, name, kind=kind)
        return (encode_item if is_item else encode_answer)(call_id, value, facts.frame_bytes)
    except PayloadError as error:
        why = TypeError(f"the handler has returned a generator: {_USE_STREAM}") if is_generator(value) else error
        return encode_failure(call_id, failure_of(why, facts, has_traceback=False))


def entry_of(calls: object, path: str) -> Callable[[TakesCalls], object]:
    """Make the entry of a module that defines `calls`: it registers all of them and says `ready`.

    Args:
        calls: what the module has by that name.
        path: the module's, for an error.

    Returns:
        A coroutine function if any of the handlers is `async`; otherwise a plain one.

    Raises:
        ValueError: it is not a mapping of names to functions, or an empty one.
    """
    if not isinstance(calls, Mapping):
        raise ValueError(f"the 'calls' of {path} maps no names to functions, but is of type {type(calls).__name__}")
    if not calls:
        raise ValueError(f"the 'calls' of {path} is empty; write: calls = {{\"name\": function}}")
    functions: dict[str, CallFunction] = {}
    checked = CallHandlers()
    for name, function in calls.items():
        try:
            if not isinstance(name, str):
                raise TypeError("names are strings")
            checked.add(name, function)
            if function is None:
                raise TypeError("on_call takes a function, not NoneType")
        except (TypeError, ValueError) as error:
            shown = cut_middle(ascii(name), 100)
            raise ValueError(f"the 'calls' of {path} has an unfit entry, {shown}: {error}") from None
        functions[name] = function

    def register_all(process: TakesCalls) -> None:
        for name, function in functions.items():
            process.on_call(name, function)
        process.ready()

    async def register_all_async(process: TakesCalls) -> None:  # noqa: ASYNC124  # so that the entry runs with Trio
        register_all(process)

    is_async = any(CallHandler(function).is_async for function in functions.values())
    return register_all_async if is_async else register_all


def _own_name(function: object) -> str:
    """Return the name of a function, as a method's.

    Raises:
        TypeError: it is not callable, or its name is none that a caller could use.
    """
    if not callable(function):
        raise TypeError(f"on_call takes a function, or a name and a function, not {type(function).__name__}")
    name: object = getattr(function, "__name__", None)
    if type(name) is not str or not name.isidentifier():
        raise TypeError(f"{type(function).__name__} {name or ''} has no name to call it by; write: on_call(name, it)")
    return name


def _known_names(names: list[str], facts: ProcessFacts) -> list[str]:
    """Take as many names as fit into any frame and its bounds."""
    bounds = facts.bounds
    most = min(_KNOWN_NAMES, bounds.values - _AROUND_KNOWN)
    if bounds.depth < _DEPTH_OF_KNOWN:
        most = 0
    if bounds.container_entries is not None:
        most = min(most, bounds.container_entries)
    room = room_for_texts(facts)
    known: list[str] = []
    for name in names[: max(0, most)]:
        room -= len(name.encode()) + 1  # its quotes and its comma
        if room < 0:
            break
        known.append(name)
    return known
