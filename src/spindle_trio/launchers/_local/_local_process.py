"""A process of the operating system as the host sees it: two socket lanes, a shared page, output pipes and a pidfd.

Only the pidfd shows the end: it becomes readable when the process has ended, whoever holds its pipes, and a signal
through it cannot reach another process. Between its end and its reaping a process is a zombie, whose pid and process
group cannot be reused. So the group is killed first, then the process is reaped, and after that nothing here uses the
pid again. Its fork server reaps it (`ProcessParent`), since only the parent can.

The life of a `LocalProcess` is that of one block:

    forked (by a server) → running → [kill] → wait: kill the group, reap, empty the pipes → close

A process that has not ended `PATIENCE` seconds after its first kill is left for its parent to reap.
"""

from __future__ import annotations

import math
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Final

import attrs
import trio

from spindle_trio._linux._readiness import LOOK_SECONDS, wait_readable
from spindle_trio._linux._shared_page import DUMP_SIGNAL
from spindle_trio._model import Limits
from spindle_trio._model._usage import Usage
from spindle_trio._protocol._socket_lane import SocketLane
from spindle_trio.abc import ExitStatus, LaunchedProcess, LaunchOrder
from spindle_trio.launchers._local._descriptors import RESERVE
from spindle_trio.launchers._local._engine import Program
from spindle_trio.launchers._local._forked_process import ForkedProcess
from spindle_trio.launchers._local._launch_thread import PATIENCE
from spindle_trio.launchers._local._memory_events import MemoryEvents
from spindle_trio.launchers._local._output import LineLog, OutputPipe
from spindle_trio.launchers._local._output_drains import OutputDrains
from spindle_trio.launchers._local._reaper import has_ended
from spindle_trio.launchers._local._tree import is_stopped, open_child, pid_of, signal_pidfd

if TYPE_CHECKING:
    from spindle_trio.launchers._local._held_limits import HeldLimits
    from spindle_trio.launchers._local._private_folders import PrivateFolder

__all__ = ["LocalProcess", "ProcessBlock", "ToldProcess", "tell"]


@attrs.frozen(eq=False)
class ToldProcess:
    """A process that has been sent its first frames."""

    forked: ForkedProcess
    program: Program
    control: SocketLane
    """Its control lane, from now on."""


def tell(forked: ForkedProcess, program: Program, limits: Limits, *, may_have_ended: bool = False) -> ToldProcess:
    """Send a process its first frames.

    Args:
        forked: the process.
        program: has the frames.
        limits: bound what it sends.
        may_have_ended: whether one that has ended is taken as it is: it may have said why.

    Raises:
        trio.BrokenResourceError: it has ended.
    """
    control = SocketLane(forked.control, max_bytes=limits.frame_bytes, frame_seconds=limits.frame_seconds)
    try:
        for body in program.first_frames:
            control.send_nowait(body)  # what the system does not take yet leaves with the host's own first frame
    except trio.BrokenResourceError:
        if not may_have_ended:
            raise
    return ToldProcess(forked, program, control)


class LocalProcess(LaunchedProcess):
    """A running process. `ProcessBlock` owns it."""

    control: SocketLane
    messages: SocketLane

    def __init__(
        self,
        order: LaunchOrder,
        told: ToldProcess,
        drains: OutputDrains,
        memory_events: MemoryEvents | None,
        held: HeldLimits | None = None,
    ) -> None:
        """Take over a process.

        Args:
            order: the launch order.
            told: the process, which has its first frames.
            drains: its output, from now on.
            memory_events: tells whether a SIGKILL that the host did not send came from the out-of-memory killer.
            held: its limits, if it has some.
        """
        forked, program = told.forked, told.program
        self.pid: int = forked.pid
        self.control = told.control
        self._frame_seconds: Final = order.limits.frame_seconds if program.waits_to_send else math.inf
        self.messages = SocketLane(
            forked.messages,
            max_bytes=order.limits.frame_bytes,
            frame_seconds=self._frame_seconds,
        )
        self._calls: SocketLane | None = None
        self._calls_fd = forked.calls
        self._order: Final = order
        self._pidfd = forked.pidfd
        self._number: Final = forked.number
        self._parent: Final = forked.parent
        self._tree: Final = forked.tree
        self._page: Final = forked.page
        log = LineLog(order.process_id, order.log_attributes(), order.limits.log_lines)
        self._stdout: Final = OutputPipe(forked.stdout, "stdout", log)
        self._stderr: Final = OutputPipe(forked.stderr, "stderr", log)
        self._leaves_stacks: Final = program.leaves_stacks and order.command is None  # a shim's would say nothing
        self._memory_events: Final = memory_events
        self._status: ExitStatus | None = None
        self._killed_at: float | None = None
        self._has_dumped = False
        self._no_dump: str | None = None  # why there are no stacks
        self._was_stopped = False
        self._held: Final = held
        if held is not None:
            held.begin(self._tree_pids, self.kill)
        drains.add(self._stdout)
        drains.add(self._stderr)

    def __repr__(self) -> str:
        state = "running" if self._killed_at is None else "killed"
        if self._status is not None:
            state = self._status.in_words(by_host=self._killed_at is not None)
        return f"<{type(self).__name__} {state} {self._order.entry.entry} {self._order.process_id} pid={self.pid}>"

    @property
    def calls(self) -> SocketLane:
        """The calls lane, made for the first call."""
        if self._calls is None:
            if self._calls_fd < 0:
                raise trio.ClosedResourceError("the launch block of this process was left")
            lane = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, self._calls_fd)
            self._calls = SocketLane(
                lane,
                max_bytes=self._order.limits.frame_bytes,
                frame_seconds=self._frame_seconds,
            )
            self._calls_fd = -1
        return self._calls

    def last_heartbeat(self) -> float:
        """Return when the process last beat; see `LaunchedProcess.last_heartbeat`."""
        return self._page.last_heartbeat()

    def request_stop(self) -> None:
        """Mark a stop request; see `LaunchedProcess.request_stop`."""
        self._page.request_stop()

    def kill(self) -> None:
        """Kill the process and its tree; see `LaunchedProcess.kill`."""
        if self._status is None and self._pidfd >= 0:
            if self._killed_at is None:
                self._killed_at = trio.current_time()
            self._tree.kill()

    def request_dump(self) -> bool:
        """Have the process write its stacks into the page, and end; see `LaunchedProcess.request_dump`."""
        if self._status is not None or self._pidfd < 0 or self._killed_at is not None or self._has_dumped:
            return False
        with RESERVE.lent():
            self._was_stopped = is_stopped(self.pid)
            if self._leaves_stacks:
                try:
                    self._has_dumped = self._ask_for_dump()
                except OSError as error:  # the kill that follows works without it
                    self._no_dump = f"its stacks could not be asked for: {error.strerror}"
            elif not self._was_stopped and self._order.command is None:
                self._no_dump = "JavaScript leaves no stacks"
        return self._has_dumped

    def _ask_for_dump(self) -> bool:
        leader = pid_of(self._pidfd)
        if leader is None:
            return False
        # Behind an init, the pidfd is the init's.
        pidfd = os.dup(self._pidfd) if leader == self.pid else open_child(leader, self.pid)
        if pidfd is None:
            return False
        try:
            if not (self._tree.hold(self.pid) and signal_pidfd(pidfd, DUMP_SIGNAL)):
                return False
            signal_pidfd(pidfd, signal.SIGCONT)
            return True
        finally:
            os.close(pidfd)

    def stacks(self) -> str | None:
        """Return the stacks that it has left in its page; see `LaunchedProcess.stacks`."""
        return self._page.dump()

    def remark(self) -> str | None:
        """Say that it had been stopped, and why there are no stacks; see `LaunchedProcess.remark`."""
        was_stopped = "it was stopped by a signal" if self._was_stopped else None
        return "; ".join(filter(None, (was_stopped, self._no_dump))) or None

    def limit_hit(self, announced: ExitStatus | None = None) -> str | None:
        """Say which limit it has reached; see `LaunchedProcess.limit_hit`."""
        if self._held is None or self._status is None:
            return None
        return self._held.hit(announced or self._status, is_shim=self._order.command is not None)

    def usage(self) -> Usage | None:
        """Look at what its tree uses; see `LaunchedProcess.usage`."""
        if self._status is not None or self._pidfd < 0:
            return None
        if self._held is not None:
            return self._held.usage()
        from spindle_trio.launchers._local._tree_usage import usage_of  # few ask

        return usage_of(self._tree_pids())

    def peaks(self) -> Usage | None:
        """Return the most that its tree has used; see `LaunchedProcess.peaks`."""
        status = self._status
        seconds, memory = (None, None) if status is None or status.used is None else status.used
        if self._held is not None:
            held = self._held.peaks()
            memory = memory if held.memory is None else held.memory
            seconds = seconds if held.processor_seconds is None else held.processor_seconds
            return Usage(memory, held.pids, seconds)
        return None if seconds is None else Usage(memory, None, seconds)

    def _tree_pids(self) -> list[int]:
        from spindle_trio.launchers._local._tree_usage import tree_from  # few ask

        if self._pidfd < 0:
            return []
        with RESERVE.lent():
            return tree_from((self.pid, *self._tree.roots()))

    def has_exited(self) -> bool:
        """Look whether the process has ended; see `LaunchedProcess.has_exited`."""
        if self._status is not None:
            return True
        if self._pidfd < 0:
            return False  # abandoned
        return has_ended(self._pidfd)

    async def wait(self) -> ExitStatus:
        """Wait for the end and reap; see `LaunchedProcess.wait`. One task at a time.

        Raises:
            trio.ClosedResourceError: the process was abandoned, and its block has been left.
        """
        if self._status is not None:
            await trio.lowlevel.checkpoint()
            return self._status
        while True:
            if self._pidfd < 0:
                raise trio.ClosedResourceError("this process was abandoned")
            await wait_readable(self._pidfd)
            status = await self._reap()
            if status is not None:
                return status
            await trio.sleep(LOOK_SECONDS)

    def stderr_tail(self) -> str:
        """Return the end of its stderr; see `LaunchedProcess.stderr_tail`."""
        return self._stderr.tail.text()

    def stdout_tail(self) -> str:
        """Return the end of its stdout, as text."""
        return self._stdout.tail.text()

    def denied(self, said: str) -> str | None:
        """Find an access that its sandbox has denied; see `LaunchedProcess.denied`."""
        rules = self._order.sandbox
        if rules is None:
            return None
        from spindle_trio.launchers._local._denials import find_denial  # most processes have no sandbox

        return find_denial(said, rules, str(self._order.folder or self._order.root))

    def output_dropped(self) -> int:
        """Return how many bytes of output were dropped; see `LaunchedProcess.output_dropped`."""
        return self._stdout.tail.dropped + self._stderr.tail.dropped

    async def end(self) -> None:
        """Kill and reap the process unless that has been done, within `PATIENCE` seconds of the first kill.

        If it has not ended by then, it is reaped in the background. A cancellation changes nothing about that.
        """
        if self._status is None:
            self.kill()
            begin = trio.current_time() if self._killed_at is None else self._killed_at
            with trio.CancelScope(deadline=begin + PATIENCE, shield=True):
                await self.wait()
        if self._status is None and await self._reap() is None:  # it may have ended while this program was late
            self._parent.reap_whenever(self._order, self.pid, self._number, self._pidfd)
            self._pidfd = -1

    def close(self) -> None:
        """Close all that is left."""
        self.control.close()
        self.messages.close()
        if self._calls is not None:
            self._calls.close()
        elif self._calls_fd >= 0:
            os.close(self._calls_fd)
            self._calls_fd = -1
        self._stdout.close()
        self._stderr.close()
        self._page.close()
        self._tree.let_go()
        if self._held is not None:
            self._held.release()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    async def _reap(self) -> ExitStatus | None:
        """If the process has ended, clear what is left of its tree, reap it, and take in its last output."""
        if not has_ended(self._pidfd):
            return None
        with trio.CancelScope(shield=True):  # bounded by the tree and the parent
            await self._tree.clear()
            status = await self._parent.reap(self._number, self._pidfd)
            if status != ExitStatus():  # otherwise it has not been reaped, and nothing will settle
                await self._tree.settle()
        for lane in (self.control, self.messages, self._calls):
            if lane is not None:
                lane.shut()  # a daemon may hold it as well, so it may never end
        self._stdout.drain_nowait()
        self._stderr.drain_nowait()
        if status.signal == signal.SIGKILL and self._killed_at is None and self._memory_events is not None:
            status = attrs.evolve(status, out_of_memory=self._memory_events.has_killed())
        if self._held is not None:
            self._held.end()
        self._status = status
        return status


class ProcessBlock(AbstractAsyncContextManager[LocalProcess]):
    """The block around a process: entering starts it, leaving kills and reaps it, always.

    Entering and leaving hold back Ctrl-C: no `KeyboardInterrupt` may come between a start and its registration.
    """

    def __init__(self, start: Callable[[], Awaitable[LocalProcess]], folder: PrivateFolder | None = None) -> None:
        """Prepare; starts nothing.

        Args:
            start: starts the process. If it returns, there is one, even if it was cancelled meanwhile.
            folder: the process's private folder, which is removed when there is no process left.
        """
        self._start = start
        self._folder = folder

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> LocalProcess:
        """Start the process.

        If this is cancelled or fails, no process is left.
        """
        try:
            process = await self._start()
            try:
                await trio.lowlevel.checkpoint_if_cancelled()
            except BaseException:
                await process.end()  # noqa: ASYNC102  # `end` shields itself, and is bounded
                process.close()
                raise
        except BaseException:
            if self._folder is not None:
                await self._folder.remove()  # noqa: ASYNC102  # as above
            raise
        self._process = process
        return process

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Kill and reap the process, and close everything. An exception of the body passes unchanged."""
        try:
            await self._process.end()  # noqa: ASYNC102  # `end` shields itself, and is bounded
        finally:
            self._process.close()
            if self._folder is not None:
                await self._folder.remove()  # noqa: ASYNC102  # as above
