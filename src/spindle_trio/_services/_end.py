"""How one generation of a service has ended."""

from __future__ import annotations

from typing import Final

import attrs

from spindle_trio._errors import ServiceGaveUpError, StartupCancelledError, StartupFailedError
from spindle_trio._model import PostMortem, ProcessInfo
from spindle_trio._services._restart import Ending
from spindle_trio._services._settings import UnitSettings


@attrs.frozen
class End:
    """How one generation has ended."""

    how: Ending
    at: float
    """When, in Trio's time."""
    ready_at: float | None
    """When it had become ready, in Trio's time; `None` if nobody was let through to it."""
    info: ProcessInfo | None
    """The last snapshot; `None` if nothing was launched."""
    post_mortem: PostMortem | None
    said: str
    """What there is to say about it, in a line."""
    cause: Exception | None = None
    """What the start raised: `spawn` or `on_start`."""

    def error(self, name: str) -> Exception:
        """The error for who waits for this start."""
        if self.cause is not None:
            return self.cause
        assert self.info is not None, "without a process there is a cause"
        text = f"{name} ended before on_start had returned: {self.said}"
        if self.how in {Ending.STOPPED, Ending.REPLACED, Ending.UNLOADED}:
            return StartupCancelledError(text, info=self.info)
        return StartupFailedError(text, info=self.info)

    def gave_up(self, settings: UnitSettings, generation: int, failures: int, *, in_group: bool) -> ServiceGaveUpError:
        """Make the error of a service after whose last failure nothing follows.

        Args:
            settings: of the service.
            generation: which one has ended so.
            failures: how many there were in a row.
            in_group: whether they are those of its whole group.
        """
        who, of_whom = ("the group", f" of {settings.name}") if in_group else (settings.name, "")
        error = ServiceGaveUpError(
            f"{who} has given up after {failures} failure(s) in a row; the last one, of generation "
            f"{generation}{of_whom}: {self.said}; mend what is wrong, and open it again",
            post_mortem=self.post_mortem,
            attempts=failures,
            entry=settings.entry_name,
            key=settings.key,
        )
        error.__cause__ = self.cause
        return error


SAID: Final = {
    Ending.COMPLETED: "it completed",
    Ending.FAILED: "it failed",
    Ending.STOPPED: "somebody has stopped it",
    Ending.REPLACED: "another spawn of its key has replaced it",
    Ending.UNLOADED: "its worker has been closed",
    Ending.RECYCLED: "it was put out for a new one",
}
"""What is said of an end about which there is nothing else to say."""


def one_line(said: str) -> str:
    """The first line of a text."""
    return said.partition("\n")[0]
