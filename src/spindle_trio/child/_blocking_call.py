"""One call that the handler of a blocking entry serves. Loaded at the first `on_call`."""

from __future__ import annotations

from time import monotonic

from spindle_trio.child._calls import CallCancelled, CallContext
from spindle_trio.child._facts import FOREVER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from spindle_trio._protocol._call_frames import IncomingCall


class BlockingCall(CallContext):
    """The call that a handler of a blocking entry serves: `process.call`, and what the runtime knows of it."""

    __slots__ = ("_look", "call_id", "credit", "has_raised", "was_cancelled")

    def __init__(self, incoming: IncomingCall, look: Callable[[], None]) -> None:
        """Made by the runtime, for each call.

        Args:
            incoming: its frame.
            look: looks for a cancellation, which comes from outside, without waiting.
        """
        seconds = incoming.seconds
        super().__init__(incoming.method, FOREVER if seconds is None else monotonic() + seconds, _never)
        self.call_id: int = incoming.call_id
        """The host's number for it."""
        self.credit: int = incoming.window or 0
        """How many more items the stream may send."""
        self.was_cancelled: bool = incoming.was_cancelled
        """Whether the process has heard that it was cancelled, or that its time is over."""
        self.has_raised: bool = False
        """Whether the handler has been told so by an exception."""
        self._look = look

    def __repr__(self) -> str:
        return f"<CallContext {self.method}{' cancelled' if self.was_cancelled else ''}>"

    @property
    def is_cancelled(self) -> bool:
        """Whether the caller has given up, or the time is over: nobody waits for the answer any more.

        Looks at the control lane, one system call that does not wait: about two microseconds.

        Raises:
            LocalProtocolError: this is not the process's main thread.
        """
        if self.time_left > 0 and not self.was_cancelled:
            self._look()
        return self.was_cancelled

    @property
    def lacks_credit(self) -> bool:
        """Whether the stream has to wait before its next item."""
        return self.credit <= 0 and not self.was_cancelled

    @property
    def time_left(self) -> float:
        """Seconds until it is cancelled for being late; for ever if it was cancelled. Notes that it is late."""
        if self.deadline == FOREVER or self.was_cancelled:
            return FOREVER
        left = self.deadline - monotonic()
        if left <= 0:
            self.was_cancelled = True
        return left

    def check(self) -> None:
        """Do nothing, unless the call was cancelled: `is_cancelled` as an exception.

        Raises:
            CallCancelled: it was. Raised each time.
            LocalProtocolError: this is not the process's main thread.
        """
        self.raise_if_cancelled()

    def raise_if_cancelled(self, *, again: bool = True) -> None:
        """Do the same; with ``again=False`` only if the handler was not told before."""
        if (again or not self.has_raised) and self.is_cancelled:
            self.has_raised = True
            raise CallCancelled(f"the call of {self.method!r} was cancelled")


def _never() -> bool:
    return False
