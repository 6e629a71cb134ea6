"""Every exception that the library raises, as one tree.

Standard library only, since entries meet these errors too. Each class says whose fault it is.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from spindle_trio._model import JsonValue, ProcessInfo


class SpindleError(Exception):
    """Catches every error of the library's own. Never raised itself, but for an unknown error from a newer peer."""


class SpawnRefusedError(SpindleError):
    """The spawn was refused and nothing was launched: the caller's mistake, or its turn has not come."""


class EntryError(SpawnRefusedError):
    """The entry is not one that may be run: absolute, outside the root, missing, or of an unknown suffix."""


class UserRequiredError(SpawnRefusedError):
    """An operator-scoped worker has to say whose process it spawns, with a non-blank `user_id`."""


class DuplicateKeyError(SpawnRefusedError):
    """A process of this worker, user, kind and key is live already, and replacing it was not asked for."""

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
    """The process was launched, or nearly, and never became ready."""

    # One positional argument: `TimeoutError`, from which one subclass inherits, gives two another meaning.
    def __init__(self, message: str, *, info: ProcessInfo) -> None:
        super().__init__(message)
        self._info = info

    @property
    def info(self) -> ProcessInfo:
        """The last snapshot of that process."""
        return self._info


class LaunchError(SpawnError):
    """The operating system, or the launcher, could not bring the process into being."""


class StartupTimeoutError(SpawnError, TimeoutError):
    """The entry did not call `ready()` within its startup timeout, and was killed."""


class StartupFailedError(SpawnError):
    """The process ended, by its own word or without one, before it was ready."""

    def __init__(self, message: str, *, info: ProcessInfo, result: JsonValue = None) -> None:
        super().__init__(message, info=info)
        self._result = result

    @property
    def result(self) -> JsonValue:
        """What it completed with, if it returned or completed without ever calling `ready()`; else `None`."""
        return self._result


class StartupCancelledError(SpawnError):
    """The process was stopped, replaced or unloaded by somebody else before it was ready."""


class ProcessAccessError(SpindleError):
    """The process belongs to another user than the one named."""


class PayloadError(SpindleError, ValueError):
    """A payload is not JSON-safe or is over a limit: the sender's mistake, raised at the sender; nothing was sent."""

    def __init__(self, message: str, *, size: int | None = None, limit: int | None = None) -> None:
        super().__init__(message)
        self._size = size
        self._limit = limit

    @property
    def size(self) -> int | None:
        """Its size as JSON, in bytes, where it is too large; otherwise `None`."""
        return self._size

    @property
    def limit(self) -> int | None:
        """How many bytes are allowed, where it is too large; otherwise `None`."""
        return self._limit


class LaggedError(SpindleError):
    """A subscription was not read in time, and the oldest values were dropped. The next `receive` goes on."""

    def __init__(self, missed: int) -> None:
        super().__init__(f"this subscription fell behind and missed {missed} value(s); read it more often")
        self._missed = missed

    @property
    def missed(self) -> int:
        """How many values were dropped since the last one received."""
        return self._missed


class ProtocolError(SpindleError):
    """Somebody broke a protocol between host, worker and process. Never raised itself."""


class LocalProtocolError(ProtocolError):
    """This side used the API in a way that the protocol has no place for."""


class PeerProtocolError(ProtocolError):
    """The other side said what the protocol does not allow. In the host it is recorded, never raised."""
