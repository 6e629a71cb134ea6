"""How one generation of a service has ended."""

from __future__ import annotations

from typing import Final

import attrs

from spindle_trio._errors import StartupCancelledError, StartupFailedError
from spindle_trio._model import PostMortem, ProcessInfo
from spindle_trio._services._restart import Ending


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
