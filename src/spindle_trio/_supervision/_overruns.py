"""Calls that have been cancelled and have a bounded time to end, where their process is killed otherwise. Sans-IO."""

from __future__ import annotations

import math


class Overruns:
    """Which calls of one process are watched, until when. `Lifecycle` asks for the earliest deadline."""

    __slots__ = ("_grace", "_waiting", "_watched", "deadline")

    def __init__(self, grace: float) -> None:
        """Watch none.

        Args:
            grace: seconds that each has.
        """
        self._grace = grace
        self._watched: dict[int, tuple[float, str]] = {}  # until when
        self._waiting: dict[int, tuple[float, str]] = {}  # since when; their handlers cannot have begun
        self.deadline: float = math.inf
        """The earliest of all."""

    @property
    def has_waiting(self) -> bool:
        """Whether there are calls whose time will run when their handlers may have begun."""
        return bool(self._waiting)

    def begin(self, call_id: int, method: str, at: float, *, is_waiting: bool = False) -> None:
        """Watch a call from the moment at which it is cancelled; the earliest counts.

        Args:
            call_id: which call.
            method: its method, for the words.
            at: when it is cancelled.
            is_waiting: whether it waits behind others, so that its handler cannot have begun; see `note_begun`.
        """
        if is_waiting:
            since, _ = self._waiting.get(call_id, (math.inf, method))
            self._waiting[call_id] = min(since, at), method
            return
        deadline, _ = self._watched.get(call_id, (math.inf, method))
        self._watched[call_id] = min(deadline, at + self._grace), method
        self._note_earliest()

    def note_begun(self, newest: int, now: float) -> bool:
        """Let the time run for all calls that wait, up to this one; tell whether there were any."""
        begun = [call_id for call_id in self._waiting if call_id <= newest]
        for call_id in begun:
            since, method = self._waiting.pop(call_id)
            self.begin(call_id, method, max(since, now))
        return bool(begun)

    def end(self, call_id: int) -> bool:
        """Watch a call no longer, since it has ended, and tell whether its time ran."""
        self._waiting.pop(call_id, None)
        was_watched = self._watched.pop(call_id, None) is not None
        if was_watched:
            self._note_earliest()
        return was_watched

    def put_off(self, seconds: float, now: float) -> None:
        """Leave time that does not count out of all deadlines. None is further away than by the whole grace period.

        One whose call has not been cancelled yet stays: its caller's time runs on.
        """
        for call_id, (deadline, method) in self._watched.items():
            if deadline - self._grace <= now:
                self._watched[call_id] = min(deadline + seconds, now + self._grace), method
        self._note_earliest()

    @property
    def words(self) -> str:
        """What went wrong with the call whose deadline is the earliest."""
        call_id, (_, method) = min(self._watched.items(), key=lambda item: item[1][0])
        return f"its handler of {method!r} went on for {self._grace:g} s after call {call_id} was cancelled"

    def _note_earliest(self) -> None:
        self.deadline = min([deadline for deadline, _ in self._watched.values()], default=math.inf)
