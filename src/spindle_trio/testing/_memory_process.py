"""What all processes in memory share: lanes, an exit status, and a heartbeat that is a plain number."""

from __future__ import annotations

import math
import signal
from collections import deque
from typing import TYPE_CHECKING, ClassVar, Final

import trio

from spindle_trio.abc import ExitStatus, LaunchedProcess, LaunchOrder
from spindle_trio.testing._memory_lane import MemoryLane, memory_lane_pair

if TYPE_CHECKING:
    from spindle_trio._model._usage import Usage
    from spindle_trio.testing._meter import Meter

KILLED: Final = ExitStatus(signal=signal.SIGKILL)
_STDERR_CHARACTERS: Final = 64 * 1024


class MemoryProcess(LaunchedProcess):
    """A process that is made of Trio tasks. Its driver uses `child_control` and `child_messages`, and ends it."""

    control_patience: ClassVar[float] = 0.0

    __slots__ = (
        "_calls",
        "_ended",
        "_heartbeat_at",
        "_meter",
        "_status",
        "_stderr",
        "_stderr_dropped",
        "_stderr_size",
        "child_control",
        "child_messages",
        "control",
        "messages",
        "order",
    )

    def __init__(self, order: LaunchOrder) -> None:
        """Come into being, with nothing to run yet."""
        self.order: Final = order
        self.control: MemoryLane
        self.child_control: MemoryLane
        self.messages: MemoryLane
        self.child_messages: MemoryLane
        self.control, self.child_control = memory_lane_pair(order.limits.frame_bytes)
        self.messages, self.child_messages = memory_lane_pair(order.limits.frame_bytes)
        self._calls: tuple[MemoryLane, MemoryLane] | None = None  # made for the first call
        self._heartbeat_at = -math.inf
        self._status: ExitStatus | None = None
        self._ended = trio.lowlevel.ParkingLot()
        self._stderr: deque[str] | None = None
        self._stderr_size = 0
        self._stderr_dropped = 0
        self._meter: Meter | None = None  # made when it first says what it uses

    def __repr__(self) -> str:
        state = "alive" if self._status is None else self._status.in_words(by_host=self._status is KILLED)
        return f"<{type(self).__name__} {state} {self.order.entry.entry} {self.order.process_id}>"

    @property
    def calls(self) -> MemoryLane:
        """The host's end of the calls lane."""
        return self._call_lanes()[0]

    @property
    def child_calls(self) -> MemoryLane:
        """The process's own end of it."""
        return self._call_lanes()[1]

    def last_heartbeat(self) -> float:
        """Tell when the process last beat; see `LaunchedProcess.last_heartbeat`."""
        return self._heartbeat_at

    def beat(self) -> None:
        """Leave a heartbeat, now."""
        if self._status is None:
            self._heartbeat_at = trio.current_time()

    def request_stop(self) -> None:
        """Do nothing: an `async` entry reads the stop frame."""

    def has_exited(self) -> bool:
        """Look whether the process has ended; see `LaunchedProcess.has_exited`."""
        return self._status is not None

    async def wait(self) -> ExitStatus:
        """Wait until the process has ended; see `LaunchedProcess.wait`."""
        if self._status is not None:
            await trio.lowlevel.checkpoint()
        while self._status is None:
            await self._ended.park()
        return self._status

    def end(self, status: ExitStatus) -> None:
        """Let the process be over. The first status counts.

        The status is there before the lanes are seen to close, so that nobody takes the end for a
        process that has closed its control lane and lives on.
        """
        if self._status is not None:
            return
        self._status = status
        self._ended.unpark_all()
        self.child_control.close()
        self.child_messages.close()
        if self._calls is not None:
            self._calls[1].close()

    def write_stderr(self, text: str) -> None:
        """Take in a text that the process shows to its author; each is a line of its own at least."""
        if self._stderr is None:
            self._stderr = deque()
        self._stderr.append(text if text.endswith("\n") else f"{text}\n")
        self._stderr_size += len(self._stderr[-1])
        while self._stderr_size > _STDERR_CHARACTERS and len(self._stderr) > 1:
            dropped = self._stderr.popleft()
            self._stderr_size -= len(dropped)
            self._stderr_dropped += len(dropped.encode(errors="backslashreplace"))

    def stderr_tail(self) -> str:
        """Return the last of what the process has shown; see `LaunchedProcess.stderr_tail`."""
        return "".join(self._stderr)[-_STDERR_CHARACTERS:] if self._stderr else ""

    def output_dropped(self) -> int:
        """Tell how many bytes of that were not kept."""
        return self._stderr_dropped

    def use(self, memory: int | None, pids: int | None, processor_seconds: float | None) -> None:
        """Take in what the process uses from now on, and end it if that is over a limit; `None`: as before."""
        if self._meter is None:
            from spindle_trio.testing._meter import Meter  # most processes have none

            self._meter = Meter()
        if self._meter.read(self.order.resource_limits, memory, pids, processor_seconds):
            self.kill()

    def usage(self) -> Usage | None:
        """Return what it has said that it uses; see `LaunchedProcess.usage`."""
        return None if self._meter is None else self._meter.usage

    def peaks(self) -> Usage | None:
        """Return the most that it has said; see `LaunchedProcess.peaks`."""
        return None if self._meter is None else self._meter.peaks

    def limit_hit(self, announced: ExitStatus | None = None) -> str | None:
        """Say which limit it has reached; see `LaunchedProcess.limit_hit`."""
        return None if self._meter is None else self._meter.limit_hit

    def close_host_ends(self) -> None:
        """Close the host's ends of all lanes: the launch block is left."""
        self.control.close()
        self.messages.close()
        if self._calls is not None:
            self._calls[0].close()

    def _call_lanes(self) -> tuple[MemoryLane, MemoryLane]:
        if self._calls is None:
            self._calls = memory_lane_pair(self.order.limits.frame_bytes)
            if self._status is not None:
                self._calls[1].close()
        return self._calls
