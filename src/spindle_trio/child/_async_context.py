"""The context of an `async def` entry: the facts of its process, and control over it."""

from __future__ import annotations

from typing import TYPE_CHECKING, overload

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from spindle_trio._messages._channel import MessageReceiveChannel
    from spindle_trio._model import JsonValue
    from spindle_trio.child._async_controls import AsyncControls
    from spindle_trio.child._calls import CallContext, CallFunction
    from spindle_trio.child._handlers import StopNotice

    F = TypeVar("F", bound=CallFunction)


class ProcessContext:
    """An `async` entry's control over its own process (`SpindleBackendProcessContext`).

    An entry is an ``async def run(process: ProcessContext)``. What it returns completes the process, what it raises
    fails it. If it returns a callable (a clean-up function) or leaves a handler registered, the process lives on until
    `complete`, `fail` or a stop; the clean-up function, plain or `async`, then runs once.

    A stop that finds neither an `on_stop` handler nor a task in `wait_stop` cancels the entry.
    """

    __slots__ = ("__weakref__", "_controls")

    def __init__(self, controls: AsyncControls) -> None:
        """Made by the runtime, for the entry that it calls."""
        self._controls = controls

    def __repr__(self) -> str:
        facts = self._controls.facts
        return f"<ProcessContext {self._controls.status} {facts.entry} {facts.process_id}>"

    @property
    def process_id(self) -> str:
        """The host's id for this process."""
        return self._controls.facts.process_id

    @property
    def entry(self) -> str:
        """Path of the entry under the worker's root, with forward slashes."""
        return self._controls.facts.entry

    @property
    def kind(self) -> str:
        """The label given by the spawner, or the entry."""
        return self._controls.facts.kind

    @property
    def key(self) -> str | None:
        """The key that this process holds within its worker, user and kind."""
        return self._controls.facts.key

    @property
    def payload(self) -> JsonValue:
        """The start-up value; `None` also where it was omitted: see `has_payload`."""
        return self._controls.facts.payload

    @property
    def has_payload(self) -> bool:
        """Whether a payload was given at all."""
        return self._controls.facts.has_payload

    @property
    def metadata(self) -> dict[str, JsonValue] | None:
        """The spawner's metadata."""
        return self._controls.facts.metadata

    @property
    def user_id(self) -> str | None:
        """The owner of this process."""
        return self._controls.facts.user_id

    @property
    def heartbeat_timeout(self) -> float:
        """Seconds that may pass between two heartbeats; `math.inf` for no watchdog. Beat twice as often."""
        return self._controls.facts.heartbeat_timeout

    def ready(self) -> None:
        """Say that the entry has started up. Counts once, and as the first heartbeat."""
        self._controls.ready()

    def heartbeat(self) -> None:
        """Say that the entry is alive. Cheap enough for every turn of a loop; before `ready` it changes nothing."""
        self._controls.heartbeat()

    def beat_while_running(self) -> None:
        """Let the runtime beat from the event loop until the end, at a third of the heartbeat timeout.

        That shows only that the event loop is alive: an entry that waits forever goes on beating.
        Before `ready` it takes effect at `ready`.
        """
        self._controls.beat_while_running()

    def complete(self, result: object = None) -> None:
        """End the process with a result. The first of `complete` and `fail` counts; later ones do nothing.

        The result leaves at once, and what was sent before is delivered before the process is seen to end. The entry is
        cancelled at its next checkpoint, so that its ``finally`` blocks run.

        Args:
            result: JSON-safe; the spawner reads it as `ProcessHandle.result`.

        Raises:
            PayloadError: the result is not JSON-safe or too large; nothing has happened.
        """
        self._controls.complete(result)

    def fail(self, error: str) -> None:
        """End the process as failed. The first of `complete` and `fail` counts; later ones do nothing.

        Args:
            error: what went wrong; trimmed. A text too long for one frame is cut in the middle.

        Raises:
            TypeError: the error is not a str; nothing has happened.
        """
        self._controls.fail(error)

    async def send(self, payload: object) -> None:
        """Send a message to the spawner, waiting while it does not read. The runtime beats meanwhile.

        When it returns, the message is with the operating system, or waits behind earlier ones of other tasks. If it is
        cancelled before there was room, the message is not sent; afterwards, it is.

        Args:
            payload: JSON-safe.

        Raises:
            PayloadError: names the path of what is not JSON-safe or over a limit; nothing was sent.
            trio.BrokenResourceError: the host is gone.
        """
        await self._controls.send(payload)

    def send_nowait(self, payload: object) -> None:
        """Send a message if there is room for it now.

        The first hundred or so that are sent without a checkpoint leave at once, and those behind them together, at the
        latest when other tasks have had their turn.

        Raises:
            trio.WouldBlock: there is no room; nothing was sent.
            PayloadError: names the path of what is not JSON-safe or over a limit; nothing was sent.
            trio.BrokenResourceError: the host is gone.
        """
        self._controls.send_nowait(payload)

    def messages(self) -> MessageReceiveChannel[JsonValue]:
        """Open a channel of the messages that the spawner sends: one by one, or in batches by ``receive_many``.

        Messages wait until the entry first asks for them, here or by `on_message`. Then each open channel and each
        handler gets every message, from the oldest one that some reader still has to receive. While a channel is not
        read, no further messages are read for the others: close what you stop reading. A channel that is closed or
        garbage-collected holds up nothing.

        Waiting for a message is no heartbeat: see `beat_while_running`.
        """
        return self._controls.messages()

    def on_message(self, handler: Callable[[JsonValue], object]) -> Callable[[], None]:
        """Call a plain function with each message that the spawner sends; see `messages` for which those are.

        A handler that raises is reported on stderr, and the others still run. The same function registered twice
        counts once.

        Returns:
            A function that unregisters the handler; it may be called twice.

        Raises:
            TypeError: it is not a function, or a coroutine function.
        """
        return self._controls.on_message(handler)

    def on_stop(self, handler: Callable[[StopNotice], object]) -> Callable[[], None]:
        """Call a plain function when the process is asked to stop, instead of cancelling the entry.

        The entry then has the grace period to end by itself. The runtime looks for handlers once, when the stop
        arrives: one that is registered later is not called (but `wait_stop` returns at once).

        Returns:
            A function that unregisters the handler; it may be called twice.

        Raises:
            TypeError: it is not a function, or a coroutine function.
        """
        return self._controls.on_stop(handler)

    @overload
    def on_call(self, method: str, function: F, /) -> F: ...

    @overload
    def on_call(self, method: str, /) -> Callable[[F], F]: ...

    @overload
    def on_call(self, method: F, /) -> F: ...

    def on_call(self, method: str | F, function: F | None = None, /) -> F | Callable[[F], F]:
        """Answer calls that the host makes by `ProcessHandle.call` and `ProcessHandle.stream`.

        Either ``process.on_call(function)``, which also works as a decorator, for a method with the function's own
        name; or ``process.on_call("name", function)``, or the decorator ``@process.on_call("name")``.

        The function gets the payload. What a plain or `async` function returns is the answer; a generator or `async`
        generator serves a stream, and its items are sent as the reader takes them. Answers and items are JSON-safe.
        What it raises goes to the caller as `CallFailedError`; only `SystemExit` ends the process, as everywhere.

        Calls begin in order, and several run at a time: see `limit_calls`. A plain function holds up everything else in
        this process while it runs. A call that is cancelled, by its caller or by its deadline, has its task cancelled.

        A process that takes calls lives on after its `run` has returned, and the runtime beats for it. A stop begins no
        more calls, and those that run may finish within the grace period; `complete` and `fail` cancel them.

        Args:
            method: the method's name, up to 1024 bytes of UTF-8; or the function.
            function: takes the payload.

        Returns:
            The function as it is; or the decorator.

        Raises:
            TypeError: it is not callable; or it has no name of its own, and none is given.
            ValueError: the name is empty, too long, or has a handler already.
        """
        return self._controls.call_service().handlers.add(method, function)

    def limit_calls(self, concurrency: int) -> None:
        """Run so many handlers of calls at a time; the others wait in order. Without this, 16.

        A stream that waits for its reader counts.

        Args:
            concurrency: 1 or more.

        Raises:
            TypeError: it is not an int.
            ValueError: it is below 1.
        """
        self._controls.call_service().limit(concurrency)

    @property
    def call(self) -> CallContext:
        """The call that the running handler serves: its `method`, its `deadline`, and whether it was cancelled.

        Raises:
            LocalProtocolError: this is not a handler of a call, nor a task that one has started.
        """
        return self._controls.call_service().current()

    async def wait_stop(self) -> StopNotice:
        """Wait until the process is asked to stop, and return the notice. Cancelling it has no effect on the stop.

        While a task waits here, a stop does not cancel the entry, which has the grace period to end by itself. Called
        after the stop, it returns the same notice after one checkpoint.
        """
        return await self._controls.wait_stop()
