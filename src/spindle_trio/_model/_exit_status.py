"""How a process ended, according to the operating system: a frozen value that is written in words."""

from __future__ import annotations

import signal as signals
from typing import Final

import attrs

from spindle_trio._model._field_docs import show_fields

__all__ = ["ExitStatus"]


@show_fields
@attrs.frozen
class ExitStatus:
    """How a process ended, according to the operating system. All fields `None`: unknown."""

    code: int | None = None
    """The exit code, if the process exited by itself."""
    signal: int | None = None
    """The number of the signal that ended it."""
    together_with: str | None = None
    """What it ended with, if nothing else is known: ``its fork server (pid 12)``."""
    out_of_memory: bool | None = None
    """Whether the out-of-memory killer sent a SIGKILL that the host did not send; `None` if unknown."""
    used: tuple[float, int] | None = attrs.field(default=None, eq=False, repr=False)
    """Seconds of processor time, with those of what it had reaped, and bytes of the largest of these processes; `None`
    if unknown."""

    def __str__(self) -> str:
        return self.in_words()

    def in_words(self, *, by_host: bool = False) -> str:
        """Say what happened.

        Args:
            by_host: whether the host has sent it a fatal signal.
        """
        if self.signal is not None:
            words = f"killed by {_name_of(self.signal)}"
            if by_host and (self.signal == signals.SIGKILL or self.signal >= _FIRST_REAL_TIME):
                return f"{words}, sent by its host"
            return words + self._cause() if self.signal == signals.SIGKILL else words
        if self.code is not None:
            return f"exited with code {self.code}"
        if self.together_with is not None:
            return f"ended together with {self.together_with}"
        return "ended with an unknown status"

    def _cause(self) -> str:
        if self.out_of_memory is None:
            return ", sender unknown (perhaps out of memory)"
        return ": out of memory" if self.out_of_memory else ", not for lack of memory"


_FIRST_REAL_TIME: Final[int] = getattr(signals, "SIGRTMIN", 1_000)  # not everywhere
_LAST_REAL_TIME: Final[int] = getattr(signals, "SIGRTMAX", 1_000)


def _name_of(number: int) -> str:
    if _FIRST_REAL_TIME < number < _LAST_REAL_TIME:
        return f"SIGRTMIN+{number - _FIRST_REAL_TIME}"
    try:
        return signals.Signals(number).name
    except ValueError:
        return f"signal {number}"
