"""The notice that an entry gets when the host asks it to stop."""

from __future__ import annotations


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
