"""The context of a `def` entry: the facts of its process, and control over it."""

from __future__ import annotations

from time import monotonic

from spindle_trio._errors import LocalProtocolError
from spindle_trio._linux._shared_page import BEAT, STOP
from spindle_trio.child._facts import FOREVER

TYPE_CHECKING = False
if not TYPE_CHECKING:
    overload = staticmethod  # `typing` would have to be loaded for something that only type checkers need
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar, overload

    from spindle_trio._model import JsonValue
    from spindle_trio.child._blocking_controls import BlockingControls
    from spindle_trio.child._calls import CallContext, CallFunction
    from spindle_trio.child._facts import ProcessFacts
    from spindle_trio.child._handlers import StopNotice

    F = TypeVar("F", bound=CallFunction)


class BlockingProcessContext:
    """A blocking entry's control over its own process (`SpindleBackendProcessContext`).

    An entry is a ``def run(process: BlockingProcessContext)``, called on the main thread of its process, and all
    methods belong to that thread: on another one those that send, receive or wait raise `LocalProtocolError`, since
    messages would get lost. What it returns completes the process, what it raises fails it. If it returns a
    callable (a clean-up function) or leaves a handler registered, the process lives on until `complete`, `fail` or a
    stop; the clean-up function then runs once.

    A stop that finds no `on_stop` handler ends the entry: `ready`, `heartbeat`, `send`, `receive` and `sleep` raise
    `SystemExit`, each time they are called, so that ``finally`` blocks run. Only `send` raises it once, so that such a
    block can still say something. Nothing raises for a stop that the entry has seen in `stop_requested`.

    Handlers run on the main thread as well, one at a time: inside `receive`, `sleep`, a `send` that waits, and after
    the entry has returned. While it waits there, the runtime beats.
    """

    __slots__ = ("__weakref__", "_controls", "_facts", "_lanes", "_words")

    def __init__(self, controls: BlockingControls) -> None:
        """Made by the runtime, for the entry that it calls."""
        self._controls = controls
        self._facts: ProcessFacts = controls.facts
        self._lanes = controls.lanes
        self._words = controls.lanes.words

    def __repr__(self) -> str:
        return f"<BlockingProcessContext {self._controls.status} {self._facts.entry} {self._facts.process_id}>"

    @property
    def process_id(self) -> str:
        """The host's id for this process."""
        return self._facts.process_id

    @property
    def entry(self) -> str:
        """Path of the entry under the worker's root, with forward slashes."""
        return self._facts.entry

    @property
    def kind(self) -> str:
        """The label given by the spawner, or the entry."""
        return self._facts.kind

    @property
    def key(self) -> str | None:
        """The key that this process holds within its worker, user and kind."""
        return self._facts.key

    @property
    def payload(self) -> JsonValue:
        """The start-up value; `None` also where it was omitted: see `has_payload`."""
        return self._facts.payload

    @property
    def has_payload(self) -> bool:
        """Whether a payload was given at all."""
        return self._facts.has_payload

    @property
    def metadata(self) -> dict[str, JsonValue] | None:
        """The spawner's metadata."""
        return self._facts.metadata

    @property
    def user_id(self) -> str | None:
        """The owner of this process."""
        return self._facts.user_id

    @property
    def heartbeat_timeout(self) -> float:
        """Seconds that may pass between two heartbeats; `math.inf` for no watchdog. Beat twice as often."""
        return self._facts.heartbeat_timeout

    @property
    def stop_requested(self) -> bool:
        """Whether this process was asked to stop. Costs no system call before that.

        An entry that has read `True` here must end by itself within the grace period: no call raises `SystemExit`
        for this stop afterwards. Registered `on_stop` handlers are still called. In the handler of a call it is for
        the handler alone: it may end early, and the entry is ended after it as if nobody had looked.
        """
        return self._controls.stop_requested()

    def ready(self) -> None:
        """Say that the entry has started up. Counts once, and as the first heartbeat.

        Raises:
            SystemExit: the process was asked to stop, or `complete` or `fail` was called before.
        """
        self._controls.ready()

    def heartbeat(self) -> None:
        """Say that the entry is alive. Cheap enough for every turn of a loop; before `ready` it changes nothing.

        Raises:
            SystemExit: the process was asked to stop, or `complete` or `fail` was called before.
            CallCancelled: the call that this handler serves was cancelled. Raised once by `heartbeat` and `send`.
        """
        # Two words of shared memory and no system call: about 0.1 µs. In the handler of a call one, and 2 µs.
        words, lanes = self._words, self._lanes
        if words[STOP]:
            self._controls.look_for_stop()
        if lanes.beats:
            words[BEAT] = monotonic()
        if lanes.call is not None:
            lanes.call.raise_if_cancelled(again=False)

    def complete(self, result: object = None) -> None:
        """End the process with a result. The first of `complete` and `fail` counts.

        The result is with the operating system when `SystemExit` is raised; what was sent before is delivered first.
        In the clean-up function this returns instead of raising.

        Args:
            result: JSON-safe; the spawner reads it as `ProcessHandle.result`.

        Raises:
            SystemExit: always, so that the ``finally`` blocks of the entry run.
            PayloadError: the result is not JSON-safe or too large; nothing has happened.
        """
        self._controls.complete(result)

    def fail(self, error: str) -> None:
        """End the process as failed. The first of `complete` and `fail` counts.

        Args:
            error: what went wrong; trimmed. A text too long for one frame is cut in the middle.

        Raises:
            SystemExit: always, so that the ``finally`` blocks of the entry run.
            TypeError: the error is not a str; nothing has happened.
        """
        self._controls.fail(error)

    def send(self, payload: object) -> None:
        """Send a message to the spawner, waiting while it does not read. The runtime beats meanwhile.

        When it returns, the message is with the operating system.

        Args:
            payload: JSON-safe.

        Raises:
            PayloadError: names the path of what is not JSON-safe or over a limit; nothing was sent.
            SystemExit: the process was asked to stop. If that came while this waited, the message is still delivered.
            CallCancelled: the call that this handler serves was cancelled. Likewise, and raised once by `heartbeat`
                and `send`, so that ``finally`` blocks can still say something.
        """
        self._controls.send(payload)

    def receive(self, timeout: float | None = None) -> JsonValue:
        """Wait for the next message from the spawner and return it. Messages wait until they are asked for.

        Args:
            timeout: seconds to wait at most; `None` for as long as it takes, 0 to look without waiting.

        Raises:
            ValueError: the timeout is not a number.
            TimeoutError: none arrived in time.
            LocalProtocolError: an `on_message` handler is registered, and gets the messages. Raised at once.
            SystemExit: the process was asked to stop, or `complete` or `fail` was called before.
            CallCancelled: the call that this handler serves was cancelled. Raised each time.
        """
        if not (timeout is None or timeout < 0 or timeout >= 0):  # neither is true of what is no number
            raise ValueError(f"receive() takes a number of seconds, not {timeout!r}")
        return self._controls.receive(FOREVER if timeout is None else timeout)

    def sleep(self, seconds: float) -> None:
        """Wait, while the runtime beats and handlers run; a handler that takes long makes it longer.

        Args:
            seconds: how long; 0 to let handlers run that have something to do.

        Raises:
            ValueError: the time is negative, or not a number.
            SystemExit: the process was asked to stop, or a handler called `complete` or `fail`.
            CallCancelled: the call that this handler serves was cancelled. Raised each time.
        """
        if not seconds >= 0:
            raise ValueError(f"sleep() takes a number of seconds that is not negative, not {seconds!r}")
        self._controls.sleep(seconds)

    def on_message(self, handler: Callable[[JsonValue], object]) -> Callable[[], None]:
        """Call a plain function with each message that the spawner sends, from the oldest that was not received on.

        A handler that raises is reported on stderr, and the others still run. The same function registered twice
        counts once.

        Returns:
            A function that unregisters the handler; it may be called twice.

        Raises:
            TypeError: it is not a function, or a coroutine function.
        """
        return self._controls.message_handlers.add(handler)

    def on_stop(self, handler: Callable[[StopNotice], object]) -> Callable[[], None]:
        """Call a plain function when the process is asked to stop, instead of ending the entry.

        The entry then has the grace period to end by itself. Once a stop has ended the entry, no handler is called.

        Returns:
            A function that unregisters the handler; it may be called twice.

        Raises:
            TypeError: it is not a function, or a coroutine function.
        """
        return self._controls.stop_handlers.add(handler)

    @overload
    def on_call(self, function: F, /) -> F: ...
    @overload
    def on_call(self, method: str, function: F, /) -> F: ...
    @overload
    def on_call(self, method: str, /) -> Callable[[F], F]: ...
    def on_call(self, method_or_function: str | F, function: F | None = None, /) -> F | Callable[[F], F]:
        """Let the spawner call a function: ``await handle.call("square", 3)``; or a generator, by `handle.stream`.

        Four forms: ``process.on_call(square)``, ``process.on_call("square", function)``, and as a decorator
        ``@process.on_call`` or ``@process.on_call("square")``. There is no way to unregister one, and the process lives
        on as for other handlers.

        The function gets the payload and returns the answer, JSON-safe. A generator yields the items of a stream; it
        is resumed when the reader has room for another one, and closed if the reader has gone. What either raises is
        raised at the caller; only `SystemExit` (`complete` and `fail` raise it) ends the entry, and the call with it.

        Calls are served one at a time, in order, inside `receive`, `sleep`, a `send` that waits, and after the entry
        has returned; those behind wait. A handler may use the context: `receive` gives it the next message, and those
        for `on_message` wait until it has ended, or waits for its reader. Nothing beats while it computes.

        If the caller gives up or the time is over, `process.call.is_cancelled` becomes true, and the next use of the
        context raises `CallCancelled`, a `BaseException`: let it through. An answer after that is dropped.

        After a stop no call begins, and the one under way may finish within the grace period: then the stop ends the
        entry. An `on_stop` handler is called at once.

        Args:
            method_or_function: the method's name; or the function, whose own name is the method's.
            function: the function, after a name.

        Returns:
            The function as it is; or, for a name alone, a decorator that registers its function.

        Raises:
            TypeError: it is no function, or has no name to use, or is async: in a blocking entry nobody would await it.
            ValueError: the name is empty, longer than 1024 bytes, or registered already.
            LocalProtocolError: this is not the process's main thread.
        """
        controls = self._controls
        controls.refuse_other_thread()
        calls = self._lanes.calls
        if calls is None:
            from spindle_trio.child._blocking_calls import BlockingCalls

            calls = BlockingCalls(controls)
        return calls.handlers.add(method_or_function, function)

    @property
    def call(self) -> CallContext:
        """The call that the handler at work serves: its `method`, its `deadline`, and whether it `is_cancelled`.

        `check()` raises `CallCancelled` if it was. Either takes about two microseconds.

        Raises:
            LocalProtocolError: no handler of a call is at work here.
        """
        call = self._lanes.call
        if call is None:
            from spindle_trio.child._calls import NO_CALL

            raise LocalProtocolError(NO_CALL)
        return call
