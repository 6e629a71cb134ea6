"""What a pool has done so far, and what follows from its failures."""

from __future__ import annotations

import random

import trio

from spindle_trio._services._restart import Ending, GiveUp, RestartAt, RestartPolicy, decide


class TrackRecord:
    """Counts, and the delay of the next start."""

    def __init__(self, policy: RestartPolicy) -> None:
        self._policy = policy
        self.failures_in_a_row: int = 0
        """Failures since a process last answered."""
        self.calls: int = 0
        """Calls and streams that have got a process."""
        self.starts: int = 0
        """Processes that have become ready."""
        self.restarts: int = 0
        """Of those, how many took the place of one that had ended."""
        self.failures: int = 0
        """Processes that never became ready, or ended unasked."""
        self.overruns: int = 0
        """Processes that were ended because a handler did not give up."""
        self.recycled: int = 0
        """Processes that the pool has stopped before its own end."""
        self.starts_at: float = 0.0
        """When the next start may begin."""
        self.last_failure: str = ""
        """One line."""

    def answered(self) -> None:
        """A process has ended a call: the row of failures is over."""
        self.failures_in_a_row = 0

    def failed(self, ready_at: float | None, said: str) -> bool:
        """Count a failure. The first in a row delays nothing.

        Args:
            ready_at: when the process had become ready; `None` if it never did.
            said: what went wrong; its first line is kept.

        Returns:
            Whether it goes on; `False` after the last one.
        """
        self.failures += 1
        self.last_failure = said.partition("\n")[0]
        self.failures_in_a_row, decision = decide(
            self._policy,
            self.failures_in_a_row,
            Ending.FAILED,
            ready_at=ready_at,
            now=trio.current_time(),
            roll=random.random(),  # noqa: S311  # no secret
        )
        if isinstance(decision, RestartAt) and self.failures_in_a_row > 1:
            self.starts_at = decision.at
        return not isinstance(decision, GiveUp)
