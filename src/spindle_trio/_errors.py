"""Every exception that the library raises, as one tree.

Standard library only, since entries meet these errors too. Each class says whose fault it is.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    from spindle_trio._model import JsonValue, PostMortem, ProcessInfo


class SpindleError(Exception):
    """The base of every error of the library. Itself raised only for an unknown error from a newer peer."""


class SpawnRefusedError(SpindleError):
    """The spawn was refused and nothing was launched: a mistake of the caller's, or a limit."""


class EntryError(SpawnRefusedError):
    """The entry cannot be run: it is absolute, outside the root, missing, or has an unknown suffix.

    Or the command cannot: its host does not allow it, or there is no such program, or none that may be executed.
    """


class SandboxError(SpawnRefusedError):
    """The sandbox cannot be had: a path is wrong, a part is missing on this system, or it is weaker than the host's."""


class UserRequiredError(SpawnRefusedError):
    """An operator-scoped worker spawned without a non-blank `user_id`."""


class DuplicateKeyError(SpawnRefusedError):
    """A process with this worker, user, kind and key is already live, and `replace_existing` was not set."""

    def __init__(self, message: str, existing: ProcessInfo) -> None:
        super().__init__(message)
        self._existing = existing

    @property
    def existing(self) -> ProcessInfo:
        """The other process, as it was when this spawn was refused."""
        return self._existing


class ProcessLimitError(SpawnRefusedError):
    """The worker has as many live processes as the host allows."""

    def __init__(self, message: str, limit: int) -> None:
        super().__init__(message)
        self._limit = limit

    @property
    def limit(self) -> int:
        """How many live processes one worker may have."""
        return self._limit


class ResourceLimitError(SpawnRefusedError, ValueError):
    """A resource limit of the spawn is above its host's, or cannot be held there."""


class KeyLostError(SpawnRefusedError):
    """The key is no longer kept for a successor of the process that `successor_of` names."""


class SpawnError(SpindleError):
    """The process never became ready."""

    # One positional argument: `TimeoutError`, from which one subclass inherits, gives two another meaning.
    def __init__(self, message: str, *, info: ProcessInfo) -> None:
        super().__init__(message)
        self._info = info

    @property
    def info(self) -> ProcessInfo:
        """The last snapshot of that process."""
        return self._info


class LaunchError(SpawnError):
    """The operating system or the launcher could not start the process."""


class StartupTimeoutError(SpawnError, TimeoutError):
    """The entry did not call `ready()` within its startup timeout, and was killed."""


class StartupFailedError(SpawnError):
    """The process completed, failed or exited before it was ready."""

    def __init__(self, message: str, *, info: ProcessInfo, result: JsonValue = None) -> None:
        super().__init__(message, info=info)
        self._result = result

    @property
    def result(self) -> JsonValue:
        """Its result, if it returned or completed without ever calling `ready()`; otherwise `None`."""
        return self._result


class StartupCancelledError(SpawnError):
    """The process was stopped, replaced or unloaded before it was ready."""


class ProcessAccessError(SpindleError):
    """The process belongs to another user than the one named."""


class CallError(SpindleError):
    """A call to a process, or a stream from it, did not come to its answer."""

    _method: str | None = None
    _process_id: str | None = None
    _entry: str | None = None

    @property
    def method(self) -> str | None:
        """The name that was called; `None` if it is not about one call."""
        return self._method

    @property
    def process_id(self) -> str | None:
        """The host's id for the process; `None` if the call had no process yet."""
        return self._process_id

    @property
    def entry(self) -> str | None:
        """The entry of the process, or of the pool."""
        return self._entry

    def concerning(self, method: str | None, *, entry: str, process_id: str | None = None) -> Self:
        """Say which call it is about, and return it; for who raises it.

        Args:
            method: the name that was called.
            entry: the entry of the process, or of the pool.
            process_id: the host's id for the process.
        """
        self._method, self._entry, self._process_id = method, entry, process_id
        return self


class CallFailedError(CallError):
    """The handler of the call raised an exception, or returned what is not JSON-safe; or a JSON-RPC server answered
    with an error.
    """

    def __init__(
        self,
        message: str,
        *,
        error_type: str,
        text: str,
        traceback: str | None = None,
        code: int | None = None,
        data: JsonValue = None,
    ) -> None:
        super().__init__(message)
        self._error_type = error_type
        self._text = text
        self._traceback = traceback
        self._code = code
        self._data = data

    @property
    def error_type(self) -> str:
        """The name of the exception's class, as in ``ValueError``; ``JsonRpcError`` for the error of a server."""
        return self._error_type

    @property
    def text(self) -> str:
        """The exception's message."""
        return self._text

    @property
    def traceback(self) -> str | None:
        """Its traceback in the process, as text; `None` if there is none."""
        return self._traceback

    @property
    def code(self) -> int | None:
        """The code that a JSON-RPC server has given, as in -32601; `None` if there is none."""
        return self._code

    @property
    def data(self) -> JsonValue:
        """What a JSON-RPC server has said beside the code and the message; JSON-safe, `None` for nothing."""
        return self._data


class UnknownMethodError(CallError):
    """The process has no handler of that name."""

    def __init__(self, message: str, *, known: Sequence[str] = ()) -> None:
        super().__init__(message)
        self._known = tuple(known)

    @property
    def known(self) -> tuple[str, ...]:
        """The names that it has handlers for."""
        return self._known


class CallTimeoutError(CallError, TimeoutError):
    """The call's time was over before its answer came. It has been cancelled in the process."""


class ProcessLostError(CallError):
    """The process ended before it answered, or takes no more calls. The call is not repeated."""

    def __init__(
        self, message: str, *, info: ProcessInfo, post_mortem: PostMortem | None = None, handed_over: bool
    ) -> None:
        super().__init__(message)
        self._info = info
        self._post_mortem = post_mortem
        self._handed_over = handed_over

    @property
    def info(self) -> ProcessInfo:
        """The last snapshot of the process."""
        return self._info

    @property
    def post_mortem(self) -> PostMortem | None:
        """Explains the end of the process, if nobody asked for that."""
        return self._post_mortem

    @property
    def handed_over(self) -> bool:
        """Whether the process may have begun the call. `False` only if it certainly has not."""
        return self._handed_over


class PoolBrokenError(CallError):
    """The pool has given up: its processes kept ending, or cannot be started. It takes no more calls.

    Its cause, where there is one, is the error of the last start.
    """

    def __init__(self, message: str, *, post_mortem: PostMortem | None = None) -> None:
        super().__init__(message)
        self._post_mortem = post_mortem

    @property
    def post_mortem(self) -> PostMortem | None:
        """Explains the last end; `None` if no process was launched, or if it completed."""
        return self._post_mortem


class ServiceGaveUpError(SpindleError):
    """The service has given up: there were as many failures in a row as its policy allows. It leaves its block.

    Its cause, where there is one, is the error of the last start.
    """

    def __init__(
        self, message: str, *, post_mortem: PostMortem | None = None, attempts: int, entry: str, key: str | None = None
    ) -> None:
        super().__init__(message)
        self._post_mortem = post_mortem
        self._attempts = attempts
        self._entry = entry
        self._key = key

    @property
    def post_mortem(self) -> PostMortem | None:
        """Explains the last end; `None` if no process was launched, or if it completed."""
        return self._post_mortem

    @property
    def attempts(self) -> int:
        """How many failures there were in a row."""
        return self._attempts

    @property
    def entry(self) -> str:
        """The entry of the service."""
        return self._entry

    @property
    def key(self) -> str | None:
        """The key of the service."""
        return self._key


class PayloadError(SpindleError, ValueError):
    """A payload is not JSON-safe, or over a limit. Raised at the sender; nothing was sent."""

    def __init__(self, message: str, *, size: int | None = None, limit: int | None = None) -> None:
        super().__init__(message)
        self._size = size
        self._limit = limit

    @property
    def size(self) -> int | None:
        """Its size as JSON, in bytes, if it is too large; otherwise `None`."""
        return self._size

    @property
    def limit(self) -> int | None:
        """How many bytes are allowed, if it is too large; otherwise `None`."""
        return self._limit


class LaggedError(SpindleError):
    """A slow subscriber lost the oldest values. The next `receive` goes on with those that are left."""

    def __init__(self, missed: int) -> None:
        super().__init__(f"this subscription fell behind and missed {missed} value(s); read it more often")
        self._missed = missed

    @property
    def missed(self) -> int:
        """How many values were dropped since the last one received."""
        return self._missed


class ProtocolError(SpindleError):
    """A protocol between host, worker and process was broken. The base of two errors; never raised itself."""


class LocalProtocolError(ProtocolError):
    """This side used the API in a way that the protocol does not allow."""


class PeerProtocolError(ProtocolError):
    """The other side sent what the protocol does not allow. The host records it and never raises it."""
