"""Every exception that the library raises, as one tree.

Standard library only, since entries meet these errors too. Each class says whose fault it is.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from spindle_trio._model import JsonValue, ProcessInfo


class SpindleError(Exception):
    """The base of every error of the library. Itself raised only for an unknown error from a newer peer."""


class SpawnRefusedError(SpindleError):
    """The spawn was refused and nothing was launched: a mistake of the caller's, or a limit."""


class EntryError(SpawnRefusedError):
    """The entry cannot be run: it is absolute, outside the root, missing, or has an unknown suffix."""


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
